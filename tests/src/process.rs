//! A child process that never outlives its owner, and commands that are run to their end within a limit.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{PATIENCE, until};

/// A running child; killed and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and error appended to `log`.
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Process {
        let file = File::options().create(true).append(true).open(log).expect("the lab's folder takes a log");
        let again = file.try_clone().expect("a file can be opened twice");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({:?}): {error}", command.get_program()));
        Process { child, name: name.to_owned(), log: log.to_owned() }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether a signal has stopped it, and nobody has let it go on.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // The name, in parentheses, may hold anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Waits for a condition, and panics at once with the log when the process ends before that.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
        until(what, limit, || {
            condition().or_else(|| {
                let name = self.name.clone();
                assert!(self.is_running(), "{name} ended before: {what}\n{}", self.log());
                None
            })
        })
    }

    /// Sends a signal, for example `Signal::STOP` to make it hang.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself: then there is nobody to tell.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// SIGKILL, and waits until it is gone. Does nothing to a process that has ended.
    pub fn kill(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        until(&what, limit, || self.child.try_wait().expect("a child of ours can be waited for"))
    }

    /// SIGTERM, and waits for its end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(PATIENCE)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- last lines of {}", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// Its exit status; 128 and more for the signal that ended it, as a shell says it.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a command to its end, whatever its status.
///
/// # Panics
/// When it cannot be started or has not ended within `limit`; it is killed then.
#[track_caller]
pub fn answer(command: &mut Command, limit: Duration) -> Answer {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    let out = collect(child.stdout.take());
    let err = collect(child.stderr.take());
    let mut running = Running(child);
    let status = until(&shown, limit, || running.0.try_wait().expect("a child of ours can be waited for"));
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Answer {
        status,
        out: out.join().expect("reading a pipe does not panic"),
        err: err.join().expect("reading a pipe does not panic"),
    }
}

/// Runs a command that must succeed; its standard output.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> String {
    let answer = answer(command, limit);
    assert!(answer.status == 0, "{command:?} ended with {}:\n{}{}", answer.status, answer.out, answer.err);
    answer.out
}

/// Kills the child when the wait for it panics.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
