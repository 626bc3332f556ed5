//! The blow: a server that dies, or stops, at a place of its way, and what befalls QEMU then. Knows nothing of what has to
//! hold afterwards.

use std::path::Path;
use std::thread::{self, JoinHandle};

use chrono::{DateTime, Utc};
use rustix::process::Signal;

use super::Victim;
use super::operation::Commands;
use crate::backstay::{Answer, Backstay, Caller};
use crate::invariants;
use crate::lab::{PATIENCE, until};
use crate::process::Process;
use crate::stage::Stage;

const CRASH_AT: &str = "BACKSTAY_CRASH_AT";
const STOP_AT: &str = "BACKSTAY_STOP_AT";
const PASSED: &str = "BACKSTAY_PASSED";

/// What came of a blow.
#[derive(Debug)]
pub struct Struck {
    /// Whether the server came to that place.
    pub reached: bool,
    /// When QEMU was killed.
    pub killed: Option<DateTime<Utc>>,
    /// Who gave the commands.
    pub client: Client,
}

/// Somebody who gives commands, one after the other, and waits for each.
#[derive(Debug)]
pub struct Client(JoinHandle<Vec<(String, Answer)>>);

impl Client {
    /// Starts with the first command; ends early at one that the server did not take.
    pub fn start(caller: Caller, commands: Commands) -> Client {
        Client(thread::spawn(move || give(&caller, &commands)))
    }

    /// Whether it has heard how the last one ended.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the last answer; all were: done.
    #[track_caller]
    pub fn hear_done(self) {
        self.hear_one_of(&[0]);
    }

    /// Waits for the last answer, which a restart of the server delays, and checks that each knew how it ended.
    #[track_caller]
    pub fn hear(self) {
        // 5: the server died before it had heard. 4: too late to cancel, or the VM's QEMU is not there. 3: too late to
        // remove. 2: over already when it was to be cancelled.
        self.hear_one_of(&[0, 1, 2, 3, 4, 5]);
    }

    /// Waits for the last answer, and checks that each command ended with one of these.
    #[track_caller]
    pub fn hear_one_of(self, statuses: &[i32]) {
        until("the client hears how its command ended", 2 * PATIENCE, || self.is_over().then_some(()));
        for (command, answer) in self.0.join().expect("a client does not panic") {
            let known = statuses.contains(&answer.status);
            assert!(known, "`{command}` ended with {}: {}", answer.status, answer.err);
        }
    }
}

fn give(caller: &Caller, commands: &Commands) -> Vec<(String, Answer)> {
    let mut given: Vec<(String, Answer)> = Vec::new();
    for words in commands {
        let made = |answer: &Answer| {
            let id = answer.json["jobs"][0]["id"].as_str().or(answer.json["id"].as_str());
            id.map(str::to_owned)
        };
        let job = given.last().and_then(|(_, answer)| made(answer));
        if !given.is_empty() && job.is_none() {
            break;
        }
        let words: Vec<&str> = words
            .iter()
            .map(|word| if word == "{job}" { job.as_deref().unwrap_or_default() } else { word })
            .collect();
        given.push((words.join(" "), caller.run(&words)));
    }
    given
}

/// Gives the commands to a server that comes to harm, or sees its QEMU come to harm, at `at` (`point:n`). When this
/// returns everything runs again, unarmed, and all jobs are over. The client is still to be [heard](Client::hear).
#[track_caller]
pub fn strike<S: Stage + ?Sized>(stage: &mut S, at: &str, victim: Victim, commands: Commands) -> Struck {
    let mut killed = None;
    let harm = |stage: &mut S| killed = harm(stage, victim);
    let (reached, client) = if victim.kills_backstay() {
        crash(stage, at, commands, harm)
    } else {
        halt(stage, at, commands, harm)
    };
    let killed = killed.filter(|_| reached || victim.kills_backstay());
    invariants::until_rest(stage.server());
    Struck { reached, killed, client }
}

/// Gives the commands to a server that dies at `at`; then comes `meanwhile`, and the server is started again. Whether it
/// died, and the client.
#[track_caller]
pub fn crash<S: Stage + ?Sized>(
    stage: &mut S,
    at: &str,
    commands: Commands,
    meanwhile: impl FnOnce(&mut S),
) -> (bool, Client) {
    let client = give_armed(stage, CRASH_AT, at, commands);
    // The commands may have heard of their end just before the server's.
    let died = !stage.server().process().terminate().success();
    meanwhile(stage);
    stage.server().restart();
    (died, client)
}

/// Gives the commands to a server that stands still at `at`; then comes `meanwhile`, and the server goes on. Whether it
/// came there, and the client. One that does not is started anew.
#[track_caller]
pub fn halt<S: Stage + ?Sized>(
    stage: &mut S,
    at: &str,
    commands: Commands,
    meanwhile: impl FnOnce(&mut S),
) -> (bool, Client) {
    let client = give_armed(stage, STOP_AT, at, commands);
    let process = stage.server().process();
    let stopped = process.is_stopped();
    if stopped {
        meanwhile(stage);
        stage.server().process().signal(Signal::CONT);
    } else {
        end(process);
        stage.server().restart();
    }
    (stopped, client)
}

/// Starts the server again with a place to come to harm, and gives the commands until it has, or they are over.
#[track_caller]
fn give_armed<S: Stage + ?Sized>(stage: &mut S, variable: &str, at: &str, commands: Commands) -> Client {
    let server = rearmed(stage.server(), variable, at);
    let client = Client::start(server.caller(), commands);
    let process = server.process();
    until("the commands are over, or the server dead or stopped", 2 * PATIENCE, || {
        (!process.is_running() || process.is_stopped() || client.is_over()).then_some(())
    });
    server.set_environment(variable, None);
    client
}

/// Runs the commands once and answers how often each point was passed.
#[track_caller]
pub fn count(stage: &mut dyn Stage, commands: Commands) -> Vec<(String, u64)> {
    let file = stage.new_folder().join("passed");
    let server = rearmed(stage.server(), PASSED, &file.to_string_lossy());
    let client = Client::start(server.caller(), commands);
    client.hear();
    invariants::until_rest(stage.server());
    let counted = tally(&file);
    stage.server().set_environment(PASSED, None);
    stage.server().stop();
    stage.server().restart();
    counted
}

fn tally(file: &Path) -> Vec<(String, u64)> {
    let passed = std::fs::read_to_string(file).unwrap_or_default();
    let times = |point: &str| passed.lines().filter(|line| *line == point).count() as u64;
    super::POINTS.iter().map(|(point, _)| ((*point).to_owned(), times(point))).collect()
}

fn rearmed<'a>(server: &'a mut Backstay, variable: &str, value: &str) -> &'a mut Backstay {
    end(server.process());
    server.set_environment(variable, Some(value));
    server.restart_in_danger();
    server
}

/// What befalls QEMU; when it was killed. A server that stands still goes on.
fn harm<S: Stage + ?Sized>(stage: &mut S, victim: Victim) -> Option<DateTime<Utc>> {
    match victim {
        Victim::Backstay => return None,
        Victim::BackstayAndQuit => {
            stage.restart_machine();
            return None;
        }
        Victim::Both | Victim::Qemu => {
            stage.kill_machine();
            let killed = Utc::now();
            stage.revive_machine();
            stage.server().process().signal(Signal::CONT);
            return Some(killed);
        }
        Victim::QemuAway => {}
    }
    stage.kill_machine();
    let killed = Utc::now();
    stage.server().process().signal(Signal::CONT);
    invariants::until_rest(stage.server());
    // Not while its disks are being made ready.
    stage.server().process().signal(Signal::STOP);
    stage.revive_machine();
    stage.server().process().signal(Signal::CONT);
    Some(killed)
}

/// Ends a server in order, even one that stops itself meanwhile.
#[track_caller]
fn end(process: &mut Process) {
    process.signal(Signal::TERM);
    until("the server ends", PATIENCE, || {
        if process.is_stopped() {
            process.signal(Signal::CONT);
        }
        (!process.is_running()).then_some(())
    });
}
