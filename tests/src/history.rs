//! A random history: operators ask for anything, several at once and in any order, somebody writes to the disks all the
//! time, and somebody is killed at any instant. After each step everything that always has to be true is held against what
//! is there. Where the crash matrix goes to each place of one operation's way, a history goes where nobody thought of.
//!
//! What is asked for, who is killed and when follow from a seed; where the kill falls depends on the machine too.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::backstay::Backstay;
use crate::invariants;
use crate::lab::{PATIENCE, until};
use crate::matrix::cell::{self, Expected, KILLED, Ledger};
use crate::matrix::operation::{Commands, checkpoints, commands};
use crate::matrix::strike::Client;
use crate::point::Point;
use crate::stage::{Stage, prove, restore_target};

/// The longest from the first command of a step to the blow: about what the commands take.
const LATEST: u64 = 1500;

/// Why a backup is full though QEMU lives: what it would build on was forgotten or deleted.
const GIVEN_UP: [&str; 4] =
    ["was deleted", "is no longer tracked", "the first backup of this disk", "no longer in the repository"];

/// What the log of a server says in such company, beyond [`cell::HEALING`].
const SAID: [&str; 2] = ["restore point gone", "point was not forgotten"];

/// What came to pass in histories in which everything held.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Told {
    /// Steps.
    pub steps: u64,
    /// How often each thing was asked for.
    pub acts: BTreeMap<&'static str, u64>,
    /// How often somebody came to harm, by whom.
    pub blows: BTreeMap<&'static str, u64>,
    /// Points that were proven.
    pub points: u64,
}

impl Told {
    /// Adds another one's.
    pub fn add(&mut self, other: &Told) {
        self.steps += other.steps;
        self.points += other.points;
        for (sum, more) in [(&mut self.acts, &other.acts), (&mut self.blows, &other.blows)] {
            more.iter().for_each(|(name, times)| *sum.entry(name).or_default() += times);
        }
    }
}

/// Lives through `steps` steps on a new stage.
///
/// # Panics
/// When anything does not hold.
#[track_caller]
pub fn live(stage: &mut dyn Stage, seed: u64, steps: u64) -> Told {
    let mut ledger = Ledger::default();
    cell::make_ready(stage, &mut ledger);
    SAID.iter().for_each(|text| stage.server().expect_log(text));
    let mut history =
        History { stage, random: StdRng::seed_from_u64(seed), ledger, killed: None, told: Told::default() };
    for _ in 0..steps {
        history.step();
    }
    history.stage.restic().check();
    history.told
}

/// One history, as far as it went.
struct History<'a> {
    stage: &'a mut dyn Stage,
    random: StdRng,
    ledger: Ledger,
    /// When QEMU was last killed.
    killed: Option<DateTime<Utc>>,
    told: Told,
}

/// What comes to harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Nobody,
    /// By SIGKILL, and perhaps again while it recovers.
    Backstay,
    /// By SIGKILL, and it is back after a while.
    Qemu,
    /// Both by SIGKILL: the host.
    Both,
    /// Backstay by SIGKILL, while QEMU ends in order.
    BackstayAndQuit,
    /// QEMU ends in order under a Backstay that works with it.
    Quit,
    /// Backstay stands still for a while.
    Stands,
}

impl Blow {
    /// Each with its weight: QEMU dies seldom enough for chains to grow.
    const ALL: [(Blow, &'static str, u32); 7] = [
        (Blow::Nobody, "nobody", 25),
        (Blow::Backstay, "backstay", 30),
        (Blow::Qemu, "qemu", 10),
        (Blow::Both, "both", 10),
        (Blow::BackstayAndQuit, "backstay-and-quit", 10),
        (Blow::Quit, "quit", 8),
        (Blow::Stands, "backstay-stands", 7),
    ];

    fn kills_qemu(self) -> bool {
        matches!(self, Blow::Qemu | Blow::Both)
    }

    /// Whether a backup under way may fail: its view goes with its QEMU.
    fn ends_qemu(self) -> bool {
        self.kills_qemu() || matches!(self, Blow::BackstayAndQuit | Blow::Quit)
    }
}

impl History<'_> {
    fn step(&mut self) {
        self.told.steps += 1;
        let before = Point::list(self.stage.server());
        let jobs = cell::jobs(self.stage).len();
        let asked: Vec<Commands> = (0..self.random.random_range(1..=3)).map(|_| self.act(&before)).collect();
        let forgotten: Vec<String> = asked.iter().filter_map(forgets).collect();
        let &(blow, name, _) =
            Blow::ALL.choose_weighted(&mut self.random, |(.., weight)| *weight).expect("there are some");
        *self.told.blows.entry(name).or_default() += 1;
        println!("  {name} while {}", shown(&asked));

        let caller = self.stage.server().caller();
        let clients: Vec<Client> =
            asked.into_iter().map(|commands| Client::start(caller.clone(), commands)).collect();
        self.wait(LATEST);
        self.strike(blow);
        clients.into_iter().for_each(|client| self.hear(client));
        until_rest(self.stage.server());

        self.jobs_are_over(jobs, blow);
        self.nothing_is_lost(&before, &forgotten);
        self.prove_new();
        if !blow.kills_qemu() {
            cell::hold(self.stage);
        }
        let expected = self.expected();
        self.stage.progress();
        cell::back_up(self.stage, &mut self.ledger, &expected);
        self.told.points += 1;
        cell::hold(self.stage);
        let choice = self.random.random();
        cell::an_older_point_is_as_it_was(self.stage, &mut self.ledger, choice);
    }

    /// Something that an operator may ask for.
    fn act(&mut self, points: &[Point]) -> Commands {
        let chain: Vec<String> = checkpoints(self.stage).into_iter().map(|(name, _)| name).collect();
        let point = points.choose(&mut self.random).map(|point| point.id.clone()).unwrap_or_default();
        let checkpoint = chain.choose(&mut self.random).cloned();
        let first = points.first().map(|point| point.id.clone()).unwrap_or_default();
        let to = restore_target(&self.stage.new_folder(), &self.stage.disks());
        let to = to.to_string_lossy();
        let since = checkpoint.unwrap_or_default();
        let any: &[(&'static str, u32, Commands)] = &[
            ("backup", 25, commands(&[&["backup", "vm", "--wait"]])),
            ("backup full", 6, commands(&[&["backup", "vm", "--mode", "full", "--wait"]])),
            ("backup differential", 6, commands(&[&["backup", "vm", "--mode", "differential", "--wait"]])),
            ("cancel", 8, commands(&[&["backup", "vm", "--mode", "full"], &["job", "cancel", "{job}"]])),
            (
                "pause",
                8,
                commands(&[
                    &["backup", "vm", "--mode", "full"],
                    &["job", "pause", "{job}"],
                    &["job", "resume", "{job}"],
                ]),
            ),
            ("checkpoint create", 10, commands(&[&["checkpoint", "create", "vm"]])),
            ("checkpoint delete", 8, commands(&[&["checkpoint", "delete", "vm", &since]])),
            ("forget", 8, commands(&[&["point", "forget", &first]])),
            ("prune", 6, commands(&[&["repo", "prune", "main"]])),
            ("restore", 8, commands(&[&["restore", &point, "--to", &to, "--wait"]])),
            (
                "export",
                10,
                commands(&[
                    &["export", "create", "vm", "--since", &since, "--ttl", "3s"],
                    &["export", "remove", "{job}"],
                ]),
            ),
        ];
        let (name, _, commands) =
            any.choose_weighted(&mut self.random, |(_, weight, _)| *weight).expect("there are some");
        *self.told.acts.entry(name).or_default() += 1;
        commands.clone()
    }

    fn wait(&mut self, longest_ms: u64) {
        // The instant of a blow is the point of it: there is nothing to wait for.
        thread::sleep(Duration::from_millis(self.random.random_range(0..longest_ms)));
    }

    /// Lets it come to harm. When this returns everything runs again.
    fn strike(&mut self, blow: Blow) {
        match blow {
            Blow::Nobody => {}
            Blow::Backstay => {
                self.stage.server().kill();
                while self.random.random_bool(0.3) {
                    self.stage.server().restart_in_danger();
                    self.wait(400);
                    self.stage.server().kill();
                }
                self.stage.server().restart();
            }
            Blow::Qemu => {
                self.stage.kill_machine();
                self.killed = Some(Utc::now());
                self.wait(LATEST);
                self.stage.revive_machine();
            }
            Blow::Both => {
                self.stage.server().kill();
                self.stage.kill_machine();
                self.killed = Some(Utc::now());
                self.back_in_any_order(|stage| stage.revive_machine());
            }
            Blow::BackstayAndQuit => {
                self.stage.server().kill();
                self.back_in_any_order(|stage| stage.restart_machine());
            }
            Blow::Quit => self.stage.restart_machine(),
            Blow::Stands => {
                self.stage.server().process().signal(Signal::STOP);
                self.wait(LATEST);
                self.stage.server().process().signal(Signal::CONT);
            }
        }
    }

    /// The machine comes back before the server, or after it.
    fn back_in_any_order(&mut self, revive: impl FnOnce(&mut dyn Stage)) {
        if self.random.random() {
            revive(self.stage);
            self.stage.server().restart();
        } else {
            self.stage.server().restart();
            self.wait(LATEST);
            revive(self.stage);
        }
    }

    /// Waits until the client has heard how each of its commands ended. A job that it has paused goes on.
    fn hear(&mut self, client: Client) {
        until("the client hears how its commands ended", 2 * PATIENCE, || {
            resume_what_rests(self.stage.server());
            client.is_over().then_some(())
        });
        // 2: what was to be paused or cancelled is over already.
        client.hear_one_of(&[0, 1, 2, 3, 4, 5]);
    }

    /// Where QEMU was there all the time no backup failed, and what failed says why.
    #[track_caller]
    fn jobs_are_over(&mut self, before: usize, blow: Blow) {
        let jobs = cell::jobs(self.stage);
        for job in &jobs[..jobs.len() - before] {
            let failed = job["state"] == "failed";
            let why = job["reason"].as_str().unwrap_or_default();
            assert!(!failed || !why.is_empty(), "failed without a reason: {job}");
            assert!(
                !(failed && job["kind"] == "backup") || blow.ends_qemu(),
                "{blow:?}, and it failed: {job}"
            );
        }
    }

    /// Only what somebody wanted forgotten is gone.
    #[track_caller]
    fn nothing_is_lost(&mut self, before: &[Point], forgotten: &[String]) {
        let now = Point::list(self.stage.server());
        let there = |old: &Point| now.iter().any(|point| point.id == old.id);
        let lost = before.iter().find(|old| !there(old) && !forgotten.contains(&old.id));
        assert!(lost.is_none(), "{lost:?} is lost; to be forgotten were {forgotten:?}");
    }

    /// Each point that is new shows one instant of the writer's order.
    fn prove_new(&mut self) {
        for point in Point::list(self.stage.server()) {
            if !self.ledger.knows(&point) {
                let earlier = self.killed.is_some_and(|killed| point.created < killed);
                let digests = prove(self.stage, &point, earlier);
                self.ledger.note(&point, digests);
                self.told.points += 1;
            }
        }
    }

    /// What the next backup has to be: incremental from the newest point whose checkpoint is there.
    fn expected(&mut self) -> Expected {
        let chain = checkpoints(self.stage);
        let lives = |point: &&Point| self.killed.is_none_or(|killed| point.created > killed);
        let tracked = |point: &&Point| chain.iter().any(|(name, _)| *name == point.checkpoint);
        let points = Point::list(self.stage.server());
        match points.iter().filter(lives).find(tracked) {
            Some(_) => Expected::Incremental,
            None => Expected::Full(KILLED.into_iter().chain(GIVEN_UP).collect()),
        }
    }
}

/// Waits until no job is queued, running or paused; what rests goes on.
#[track_caller]
fn until_rest(server: &Backstay) {
    until("all jobs are over", 2 * PATIENCE, || {
        resume_what_rests(server);
        invariants::rests(server).then_some(())
    });
}

fn resume_what_rests(server: &Backstay) {
    let jobs = server.run(&["job", "list"]).json;
    for job in jobs.as_array().into_iter().flatten().filter(|job| job["state"] == "paused") {
        server.run(&["job", "resume", job["id"].as_str().expect("an id")]);
    }
}

/// The point that commands are to forget.
fn forgets(commands: &Commands) -> Option<String> {
    let words = commands.first()?;
    (words[..2] == ["point", "forget"]).then(|| words[2].clone())
}

fn shown(asked: &[Commands]) -> String {
    let all: Vec<String> = asked
        .iter()
        .map(|commands| commands.iter().map(|words| words.join(" ")).collect::<Vec<_>>().join(" && "))
        .collect();
    all.join(" | ")
}
