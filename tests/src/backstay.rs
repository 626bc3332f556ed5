//! The built `backstay` as a user has it: `up` in a data folder, and client commands with `--json`.
//! Knows the command line and nothing behind it.

use std::env;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, PATIENCE, until};
use crate::process::{self, Process};

/// Ten minutes: what a backup of a test disk may take on a machine that runs everything else too.
const LONGEST: Duration = Duration::from_secs(600);

/// What a client command answered.
#[derive(Debug)]
pub struct Answer {
    /// 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 unreachable.
    pub status: i32,
    /// The document on standard output; `Null` where there was none.
    pub json: Value,
    /// Standard error.
    pub err: String,
}

/// Calls a server. It outlives the server's restarts, and any thread may have one.
#[derive(Debug, Clone)]
pub struct Caller {
    socket: PathBuf,
}

impl Caller {
    /// A client command, not started: for one that runs beside others, or with other flags.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--server").arg(format!("unix://{}", self.socket.display())).args(arguments);
        command.env("NO_COLOR", "1");
        command
    }

    /// A client command with `--json`, whatever its exit status.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Answer {
        let answer = process::answer(self.command(&["--json"]).args(arguments), LONGEST);
        let json = serde_json::from_str(&answer.out).unwrap_or_else(|error| {
            assert!(answer.out.trim().is_empty(), "{arguments:?} --json: {error}:\n{}", answer.out);
            Value::Null
        });
        Answer { status: answer.status, json, err: answer.err }
    }
}

/// A running `backstay up`. Killed when dropped; then its log must hold no warning that was not expected.
#[derive(Debug)]
pub struct Backstay {
    data: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Process,
    expected: Vec<String>,
}

/// The binary under test: `BACKSTAY_BIN`, else the one built beside this test (`scripts/test` builds it).
#[track_caller]
pub fn binary() -> PathBuf {
    let path = env::var_os("BACKSTAY_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let test = env::current_exe().expect("a process knows its file");
        // target/debug/deps/test-1234 -> target/debug/backstay
        test.ancestors().nth(2).expect("a test lies in target/<profile>/deps").join("backstay")
    });
    assert!(path.exists(), "{} is missing: run `cargo build -p backstay` first", path.display());
    path
}

impl Backstay {
    /// `backstay up --data LAB/NAME`, waiting until it listens.
    #[track_caller]
    pub fn start(lab: &Lab, name: &str) -> Backstay {
        Backstay::start_with(lab, name, &[], &[])
    }

    /// The same with more arguments for `up` and more environment (`NAME`, `value`).
    #[track_caller]
    pub fn start_with(lab: &Lab, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Backstay {
        let data = lab.folder(name);
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let environment: Vec<_> =
            environment.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let process = launch(&data, &arguments, &environment);
        let mut backstay = Backstay { data, arguments, environment, process, expected: Vec::new() };
        backstay.until_listening();
        backstay
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its API socket.
    pub fn socket(&self) -> PathBuf {
        self.data.join("backstay.sock")
    }

    /// The server process: to stop, continue or watch.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Who calls this server.
    pub fn caller(&self) -> Caller {
        Caller { socket: self.socket() }
    }

    /// [`Caller::command`] to this server.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.caller().command(arguments)
    }

    /// [`Caller::run`] on this server.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Answer {
        self.caller().run(arguments)
    }

    /// A client command that must exit with 0; its document.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> Value {
        let answer = self.run(arguments);
        let shown = arguments.join(" ");
        assert!(
            answer.status == 0,
            "backstay {shown}: exit {}\n{}\n{}",
            answer.status,
            answer.err,
            answer.json
        );
        answer.json
    }

    /// A client command that must exit with `status`; what it told people.
    #[track_caller]
    pub fn refused(&self, status: i32, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        let shown = arguments.join(" ");
        assert!(
            answer.status == status,
            "backstay {shown}: exit {}, not {status}\n{}",
            answer.status,
            answer.err
        );
        answer.err
    }

    /// Lets warnings and errors of the log that contain `text` pass.
    pub fn expect_log(&mut self, text: &str) {
        self.expected.push(text.to_owned());
    }

    /// Sets (or, with `None`, takes away) a variable of the server's environment, from its next start on.
    pub fn set_environment(&mut self, name: &str, value: Option<&str>) {
        self.environment.retain(|(key, _)| key != name);
        self.environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, which must end it with status 0.
    #[track_caller]
    pub fn stop(&mut self) {
        let status = self.process.terminate();
        assert!(status.success(), "backstay up ended with {status}\n{}", self.log());
    }

    /// Starts it again on the same data after [`Backstay::kill`] or [`Backstay::stop`].
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(!self.process.is_running(), "backstay up still runs");
        self.process = launch(&self.data, &self.arguments, &self.environment);
        self.until_listening();
    }

    /// The same of a server that may come to harm before anybody asks it for anything: its start looks at its VMs.
    #[track_caller]
    pub fn restart_in_danger(&mut self) {
        assert!(!self.process.is_running(), "backstay up still runs");
        self.process = launch(&self.data, &self.arguments, &self.environment);
        let (socket, process) = (self.socket(), &mut self.process);
        until("backstay up listens, or is dead or stopped", PATIENCE, || {
            let harmed = !process.is_running() || process.is_stopped();
            (harmed || UnixStream::connect(&socket).is_ok()).then_some(())
        });
    }

    /// A killed server leaves its socket file: only a connection shows that one listens.
    #[track_caller]
    fn until_listening(&mut self) {
        let socket = self.socket();
        self.process.until("backstay up listens", PATIENCE, || UnixStream::connect(&socket).ok().map(drop));
    }

    fn unexpected(&self) -> Vec<String> {
        let alarming =
            |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked at");
        let expected = |line: &&str| self.expected.iter().any(|text| line.contains(text));
        self.log().lines().filter(alarming).filter(|line| !expected(line)).map(str::to_owned).collect()
    }
}

impl Drop for Backstay {
    fn drop(&mut self) {
        self.process.kill();
        if !thread::panicking() {
            let unexpected = self.unexpected();
            assert!(unexpected.is_empty(), "not expected in the log:\n{}", unexpected.join("\n"));
        }
    }
}

fn launch(data: &Path, arguments: &[String], environment: &[(String, String)]) -> Process {
    let mut command = Command::new(binary());
    command.args(["up", "--data"]).arg(data).args(arguments).env("NO_COLOR", "1");
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    Process::start("backstay up", &mut command, &data.join("up.log"))
}
