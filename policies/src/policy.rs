//! A policy, validated: what [`file`](crate::file) reads and the rest of the crate works from. Knows nothing
//! of TOML. It has only what the scheduler honours; a wish that nobody grants is refused when the file is read.

use std::fmt;
use std::ops::RangeInclusive;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::bandwidth::Limit;
use crate::blackout::Blackout;
use crate::keep::Rule;
use crate::occurrence::Why;
use crate::opening::Opening;
use crate::retry::Retry;
use crate::schedule::Schedule;
use crate::select::{Selection, Vm};
use crate::window::Window;

/// Declares a small enum whose variants have one word each, in files, on the command line and in JSON.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, default $default:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// The words of all variants.
            pub const WORDS: &[&str] = &[$($word),+];

            /// The word of this variant.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The variant of a word.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl Default for $name {
            fn default() -> Self { Self::$default }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.word()) }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What a backup reads. The order is that of strength: of two that fall on one instant, the later
    /// variant does the work of both.
    Mode, default Auto {
        /// Incremental where the chain allows, else full.
        Auto = "auto",
        /// What changed since the newest checkpoint of the target.
        Incremental = "incremental",
        /// What changed since the last full.
        Differential = "differential",
        /// Everything.
        Full = "full",
    }
}

words! {
    /// What becomes of instants that passed while nobody was there to act.
    Missed, default Once {
        /// Nothing; they are reported.
        Skip = "skip",
        /// One run makes up for all of them.
        Once = "once",
        /// Each is made up for, one after the other.
        All = "all",
    }
}

words! {
    /// What becomes of a run when the machine's previous one under this policy is not over.
    Overlap, default Skip {
        /// It does not happen, and is reported.
        Skip = "skip",
        /// It waits; at most one waits.
        Queue = "queue",
        /// The previous one is cancelled, and it takes its place.
        CancelOlder = "cancel-older",
    }
}

words! {
    /// The consistency that is asked for.
    Consistency, default Filesystem {
        /// As after a power cut; the guest is not asked.
        Crash = "crash",
        /// File systems frozen through the guest agent where it answers, else as `crash`, and recorded so.
        Filesystem = "filesystem",
        /// File systems frozen, or no backup.
        Required = "required",
    }
}

/// One schedule of a policy, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// When, in which zone.
    pub schedule: Schedule,
    /// What is read.
    pub mode: Mode,
    /// Starts are spread over this time, by machine.
    pub jitter: TimeDelta,
    /// Hours outside of which nothing starts.
    pub window: Option<Window>,
    /// What to do about missed runs.
    pub missed: Missed,
    /// What to do when the previous run is not over.
    pub overlap: Overlap,
    key: String,
}

impl Timing {
    /// A schedule with nothing else said.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        let key = match schedule.zone() {
            Tz::UTC => schedule.cron().to_owned(),
            zone => format!("{} {}", schedule.cron(), zone.name()),
        };
        Self {
            schedule,
            mode: Mode::default(),
            jitter: TimeDelta::zero(),
            window: None,
            missed: Missed::default(),
            overlap: Overlap::default(),
            key,
        }
    }

    /// What tells the schedules of one policy apart, in cursors and on screens: the cron text, followed by the
    /// zone unless it is UTC. It survives a reordering of the file, and changes when the instants do.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// What should be, for some machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Unique; what people and records call it.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// While true nothing starts, and each run that does not is reported.
    pub paused: bool,
    /// When nothing starts, by the clock of each schedule; each run that does not is reported.
    pub blackout: Blackout,
    /// Which machines.
    pub select: Selection,
    /// When; no two have the same [`Timing::key`].
    pub schedules: Vec<Timing>,
    /// Where to, by name; at least one.
    pub repositories: Vec<String>,
    /// How consistent.
    pub consistency: Consistency,
    /// What stays; without a rule everything does.
    pub keep: Option<Rule>,
    /// Its place among what waits; see [`Policy::PRIORITIES`].
    pub priority: i8,
    /// So many of its backups run at once; none for no limit of its own.
    pub concurrency: Option<u32>,
    /// No try of a run begins later than this after the run's instant.
    pub deadline: Option<TimeDelta>,
    /// The policies whose earlier runs are over before one of this policy starts.
    pub after: Vec<String>,
    /// What becomes of a run that fails.
    pub retry: Retry,
    /// What runs on the VM's host before and after each try.
    pub hooks: Hooks,
    /// How fast its backups may add to repositories, all together on one host; of limits that hold at once the lowest.
    pub bandwidth: Vec<Limit>,
}

/// Programs that run on a VM's host around each try, by the names that the host has for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Before anything begins; where it fails, so does the try.
    pub before: Option<String>,
    /// Before the try ends, however it ends.
    pub after: Option<String>,
    /// How long each of them may run.
    pub limit: TimeDelta,
}

impl Hooks {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before.is_none() && self.after.is_none()
    }
}

impl Default for Hooks {
    /// None. A minute is long for a program that asks another to sit still.
    fn default() -> Self {
        Self { before: None, after: None, limit: TimeDelta::minutes(1) }
    }
}

impl Policy {
    /// The priorities that there are; 0 is usual.
    pub const PRIORITIES: RangeInclusive<i8> = -9..=9;

    /// When runs of one of its schedules may start.
    pub(crate) fn opening<'a>(&'a self, timing: &'a Timing) -> Opening<'a> {
        Opening { window: timing.window.as_ref(), blackout: &self.blackout, zone: timing.schedule.zone() }
    }

    /// Why no run of a schedule may start at an instant, whatever it was due for: its window is closed, or the blackout covers
    /// the instant. A schedule that the policy does not have any more, by its [`Timing::key`], has no hours to keep.
    #[must_use]
    pub fn closed(&self, schedule: &str, at: DateTime<Utc>) -> Option<Why<'_>> {
        self.opening(self.timing(schedule)?).closed(at)
    }

    /// The first instant after a closed one at which runs of a schedule may start again; none where there is none to be found.
    #[must_use]
    pub fn opens(&self, schedule: &str, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let opens = self.opening(self.timing(schedule)?).open_from(at);
        (opens > at).then_some(opens)
    }

    /// By whose clock the hours of a schedule's runs are meant. Of a schedule that the policy does not have any more, by the
    /// clock of its first one.
    #[must_use]
    pub fn zone(&self, schedule: &str) -> Tz {
        let timing = self.timing(schedule).or(self.schedules.first());
        timing.map_or(Tz::UTC, |timing| timing.schedule.zone())
    }

    fn timing(&self, key: &str) -> Option<&Timing> {
        self.schedules.iter().find(|timing| timing.key() == key)
    }

    /// The machines it speaks of, in the order given.
    pub fn selected<'a, 'v>(&'a self, vms: &'v [Vm<'v>]) -> impl Iterator<Item = &'v str> + use<'a, 'v> {
        vms.iter().filter(|vm| self.select.matches(vm)).map(|vm| vm.name)
    }
}
