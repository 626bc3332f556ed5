//! The tests' own eyes on a QEMU: a small QMP client on a monitor socket of its own. It shares nothing with
//! the client that is being tested, and knows no Backstay.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::lab::{PATIENCE, until};

/// A connection. QEMU serves one client per monitor socket: a second one gets no greeting.
#[derive(Debug)]
pub struct Qmp {
    lines: BufReader<UnixStream>,
    events: Vec<Value>,
}

/// QEMU's refusal of a command.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    /// `GenericError` and the like.
    pub class: String,
    /// QEMU's own words.
    pub desc: String,
}

/// One dirty bitmap, as `query-named-block-nodes` tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bitmap {
    /// The node it is on.
    pub node: String,
    /// Its name; those without (made by running jobs) are left out.
    pub name: String,
    /// Whether it records writes.
    pub recording: bool,
    /// Whether it is to be stored in the image.
    pub persistent: bool,
    /// Whether a job or export uses it.
    pub busy: bool,
    /// Whether a crash made it worthless.
    pub inconsistent: bool,
    /// Bytes that one bit stands for.
    pub granularity: u64,
    /// Bytes that are dirty.
    pub count: u64,
}

/// All that a backup could leave behind in a QEMU. Compare one from before with one from after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Names of all block nodes.
    pub nodes: BTreeSet<String>,
    /// Ids of all jobs.
    pub jobs: BTreeSet<String>,
    /// Ids of all block exports.
    pub exports: BTreeSet<String>,
    /// `node/name` of all bitmaps.
    pub bitmaps: BTreeSet<String>,
}

impl Qmp {
    /// Connects and negotiates. `None` when nobody listens, or greets, yet.
    pub fn try_connect(socket: &Path) -> Option<Qmp> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        let mut qmp = Qmp { lines: BufReader::new(stream), events: Vec::new() };
        qmp.line()?.get("QMP")?;
        qmp.ok("qmp_capabilities", json!({}));
        Some(qmp)
    }

    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// Executes a command; QEMU's refusal is the error.
    ///
    /// # Panics
    /// When QEMU is gone or does not answer.
    #[track_caller]
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Refusal> {
        let request = Value::from_iter([("execute", Value::from(command)), ("arguments", arguments)]);
        writeln!(self.lines.get_mut(), "{request}").unwrap_or_else(|error| panic!("{request}: {error}"));
        loop {
            let Some(mut reply) = self.line() else { panic!("QEMU did not answer {request}") };
            if let Some(refusal) = reply.get_mut("error") {
                let shown = refusal.to_string();
                return Err(serde_json::from_value(refusal.take()).unwrap_or_else(|_| panic!("{shown}")));
            }
            match reply.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => self.events.push(reply),
            }
        }
    }

    /// Executes a command that must succeed.
    #[track_caller]
    pub fn ok(&mut self, command: &str, arguments: Value) -> Value {
        self.execute(command, arguments).unwrap_or_else(|refusal| panic!("{command}: {}", refusal.desc))
    }

    /// Sends a command and does not wait for its answer: `quit` may close the connection before there is one.
    pub fn tell(mut self, command: &str) {
        let _ = writeln!(self.lines.get_mut(), "{}", json!({ "execute": command }));
        let _ = self.line();
    }

    /// The next event of this name, among those seen and those to come.
    #[track_caller]
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(at);
            }
            let Some(event) = self.line() else { panic!("no event {name} within {PATIENCE:?}") };
            self.events.push(event);
        }
    }

    /// All named bitmaps of all nodes, sorted by node and name.
    pub fn bitmaps(&mut self) -> Vec<Bitmap> {
        let mut bitmaps = Vec::new();
        for node in self.list("query-named-block-nodes", json!({ "flat": true })) {
            for entry in node["dirty-bitmaps"].as_array().into_iter().flatten() {
                let Some(name) = entry["name"].as_str() else { continue };
                let flag = |key: &str| entry[key].as_bool().unwrap_or(false);
                let number = |key: &str| entry[key].as_u64().unwrap_or(0);
                bitmaps.push(Bitmap {
                    node: text(&node, "node-name"),
                    name: name.to_owned(),
                    recording: flag("recording"),
                    persistent: flag("persistent"),
                    busy: flag("busy"),
                    inconsistent: flag("inconsistent"),
                    granularity: number("granularity"),
                    count: number("count"),
                });
            }
        }
        bitmaps.sort();
        bitmaps
    }

    /// What is there now.
    pub fn look(&mut self) -> Look {
        let mut names = |command: &str, arguments: Value, key: &str| -> BTreeSet<String> {
            self.list(command, arguments).iter().map(|entry| text(entry, key)).collect()
        };
        let nodes = names("query-named-block-nodes", json!({ "flat": true }), "node-name");
        let jobs = names("query-jobs", json!({}), "id");
        let exports = names("query-block-exports", json!({}), "id");
        let bitmaps =
            self.bitmaps().iter().map(|bitmap| format!("{}/{}", bitmap.node, bitmap.name)).collect();
        Look { nodes, jobs, exports, bitmaps }
    }

    /// Adds a recording bitmap, as another tool would.
    #[track_caller]
    pub fn add_bitmap(&mut self, node: &str, name: &str, persistent: bool) {
        self.ok("block-dirty-bitmap-add", json!({ "node": node, "name": name, "persistent": persistent }));
    }

    /// Removes a bitmap, as a careless operator would.
    #[track_caller]
    pub fn remove_bitmap(&mut self, node: &str, name: &str) {
        self.ok("block-dirty-bitmap-remove", json!({ "node": node, "name": name }));
    }

    /// Waits until nodes, jobs and exports are what they were, and no bitmap is busy.
    #[track_caller]
    pub fn until_tidy(&mut self, before: &Look, limit: Duration) {
        until("nodes, jobs and exports as they were before, no bitmap busy", limit, || {
            let now = self.look();
            let same = now.nodes == before.nodes && now.jobs == before.jobs && now.exports == before.exports;
            (same && self.bitmaps().iter().all(|bitmap| !bitmap.busy)).then_some(())
        });
    }

    fn list(&mut self, command: &str, arguments: Value) -> Vec<Value> {
        match self.ok(command, arguments) {
            Value::Array(entries) => entries,
            other => panic!("{command} answered no list: {other}"),
        }
    }
}

fn text(entry: &Value, key: &str) -> String {
    entry[key].as_str().unwrap_or_default().to_owned()
}
