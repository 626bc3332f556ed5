//! An export as a client reads it: nbdcopy and nbdinfo on the URIs that `backstay export create --json` tells.
//! Knows the command line and libnbd's tools, and nothing of what is behind the socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::backstay::Backstay;
use crate::lab::{PATIENCE, tool};
use crate::process::{Answer, answer, run};
use crate::stage::image;

/// An export, as `export create` and `export list` tell it.
#[derive(Debug, Clone, Deserialize)]
pub struct Export {
    /// `j12`.
    pub id: String,
    /// `open`, `ended`, …
    pub state: String,
    /// When it ends by itself.
    pub expires: Option<DateTime<Utc>>,
    /// Its instant.
    pub instant: Option<DateTime<Utc>>,
    /// How its view keeps what the guest overwrites.
    pub way: Option<String>,
    /// In the VM's order.
    pub disks: Vec<ExportDisk>,
    /// Why it ended.
    pub reason: Option<String>,
}

/// One disk of it.
#[derive(Debug, Clone, Deserialize)]
pub struct ExportDisk {
    /// Its name.
    pub disk: String,
    /// Where it is read.
    pub uri: Option<String>,
    /// The metadata context of what changed.
    pub bitmap: Option<String>,
    /// Why there is none although one was asked for.
    pub reason: Option<String>,
}

/// A range of bytes: where it begins, and how long it is.
pub type Range = (u64, u64);

impl Export {
    /// `backstay export create vm`, which must open; `more` are further arguments.
    #[track_caller]
    pub fn create(backstay: &Backstay, more: &[&str]) -> Export {
        let export = Export::read(backstay.ok(&[&["export", "create", "vm"], more].concat()));
        assert_eq!(export.state, "open", "{export:?}");
        export
    }

    /// The export of this id in the list.
    #[track_caller]
    pub fn find(backstay: &Backstay, id: &str) -> Export {
        let Value::Array(all) = backstay.ok(&["export", "list"]) else { panic!("no list of exports") };
        let found = all.into_iter().map(Export::read).find(|export| export.id == id);
        found.unwrap_or_else(|| panic!("no export {id} in the list"))
    }

    #[track_caller]
    fn read(value: Value) -> Export {
        let shown = value.to_string();
        serde_json::from_value(value).unwrap_or_else(|error| panic!("{error}: {shown}"))
    }

    /// Copies all disks into raw images in `folder`.
    #[track_caller]
    pub fn copy(&self, folder: &Path) -> Vec<PathBuf> {
        self.disks.iter().map(|disk| disk.copy(&image(folder, &disk.disk))).collect()
    }
}

impl ExportDisk {
    /// Where it is read.
    #[track_caller]
    pub fn uri(&self) -> &str {
        self.uri.as_deref().unwrap_or_else(|| panic!("no URI: {self:?}"))
    }

    /// Copies it into a raw image.
    #[track_caller]
    pub fn copy(&self, to: &Path) -> PathBuf {
        run(tool("nbdcopy").arg(self.uri()).arg(to), 5 * PATIENCE);
        to.to_owned()
    }

    /// A try to connect.
    #[track_caller]
    pub fn try_reach(&self) -> Answer {
        answer(&mut info(&["--size", self.uri()]), PATIENCE)
    }

    /// The ranges that its map calls changed.
    #[track_caller]
    pub fn changed(&self) -> Vec<Range> {
        let context = self.bitmap.as_deref().unwrap_or_else(|| panic!("no map: {self:?}"));
        ranges(self.uri(), context, |kind| kind == 1)
    }

    /// The ranges that `base:allocation` calls data.
    #[track_caller]
    pub fn allocated(&self) -> Vec<Range> {
        ranges(self.uri(), "base:allocation", |kind| kind == 0)
    }
}

fn info(arguments: &[&str]) -> Command {
    let mut command = tool("nbdinfo");
    command.args(arguments);
    command
}

#[track_caller]
fn ranges(uri: &str, context: &str, wanted: impl Fn(u64) -> bool) -> Vec<Range> {
    let said = run(&mut info(&["--json", &format!("--map={context}"), uri]), PATIENCE);
    let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("nbdinfo: {error}: {said}"));
    let number =
        |range: &Value, key: &str| range[key].as_u64().unwrap_or_else(|| panic!("no {key}: {range}"));
    let all = said.as_array().expect("a list of ranges").iter();
    let wanted = all.filter(|range| wanted(number(range, "type")));
    wanted.map(|range| (number(range, "offset"), number(range, "length"))).collect()
}

/// The ranges of `granule` bytes in which two images of one size differ.
#[track_caller]
pub fn differing(one: &Path, other: &Path, granule: u64) -> Vec<Range> {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (one, other) = (read(one), read(other));
    assert_eq!(one.len(), other.len(), "images of one disk");
    let step = usize::try_from(granule).expect("a granule fits into memory");
    let pairs = one.chunks(step).zip(other.chunks(step)).zip(0..);
    pairs.filter(|((one, other), _)| one != other).map(|(_, at)| (at * granule, granule)).collect()
}

/// Whether a range lies within one of these.
pub fn covers(ranges: &[Range], (offset, length): Range) -> bool {
    ranges.iter().any(|(start, long)| *start <= offset && offset + length <= start + long)
}
