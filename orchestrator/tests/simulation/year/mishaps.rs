//! What goes wrong in a year, and when: drawn from the seed before it begins. Knows neither decisions nor what becomes of it.

use rand::Rng;
use rand::rngs::StdRng;

use super::site::{POLICIES, REPOSITORIES};
use super::{DAY, HOUR, MINUTE, SECOND};

/// Something that happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mishap {
    /// A host stops to answer, or does so again.
    Host { host: usize, hangs: bool },
    /// A repository has no room, or has room again.
    Full { repository: usize, full: bool },
    /// A repository cannot be opened, or can be again.
    Away { repository: usize, away: bool },
    /// QEMU is killed, and started a while later.
    Killed { vm: usize },
    /// QEMU ends in order, and is started a while later.
    Quits { vm: usize },
    /// QEMU is started.
    Starts { vm: usize },
    /// A bitmap loses what it recorded, and says nothing.
    BitmapLies { vm: usize },
    /// The orchestrator dies, and is started again after so long.
    Crash { down: i64 },
    /// Somebody asks for a repository to be pruned.
    Prune { repository: usize },
    /// Somebody asks for a VM to be backed up now.
    ByHand { vm: usize },
    /// Somebody pauses a policy, or lets it go on.
    Pause { policy: usize, paused: bool },
}

/// How much of it there is.
pub struct Weather<'a> {
    pub dice: &'a mut StdRng,
    pub from: i64,
    pub days: i64,
    pub vms: usize,
    pub hosts: usize,
}

impl Weather<'_> {
    /// Everything that will happen, with its instant. None of it goes on beyond the last day but one.
    pub fn year(mut self) -> Vec<(i64, Mishap)> {
        let mut all = Vec::new();
        let (vms, hosts) = (self.vms, self.hosts);
        self.spells(&mut all, 4 * self.hosts, (10 * MINUTE, 12 * HOUR), |dice| {
            let host = dice.random_range(0..hosts);
            [Mishap::Host { host, hangs: true }, Mishap::Host { host, hangs: false }]
        });
        self.spells(&mut all, 5 * REPOSITORIES, (HOUR, 40 * HOUR), |dice| {
            let repository = dice.random_range(0..REPOSITORIES);
            [Mishap::Full { repository, full: true }, Mishap::Full { repository, full: false }]
        });
        self.spells(&mut all, 4 * REPOSITORIES, (5 * MINUTE, 6 * HOUR), |dice| {
            let repository = dice.random_range(0..REPOSITORIES);
            [Mishap::Away { repository, away: true }, Mishap::Away { repository, away: false }]
        });
        self.spells(&mut all, 6, (HOUR, 9 * DAY), |dice| {
            let policy = dice.random_range(0..POLICIES.len());
            [Mishap::Pause { policy, paused: true }, Mishap::Pause { policy, paused: false }]
        });
        self.spells(&mut all, self.vms, (20 * SECOND, 10 * MINUTE), |dice| {
            let vm = dice.random_range(0..vms);
            [Mishap::Killed { vm }, Mishap::Starts { vm }]
        });
        self.spells(&mut all, 4 * self.vms, (20 * SECOND, 3 * HOUR), |dice| {
            let vm = dice.random_range(0..vms);
            [Mishap::Quits { vm }, Mishap::Starts { vm }]
        });
        self.moments(&mut all, 60, |dice| Mishap::Crash { down: dice.random_range(SECOND..5 * MINUTE) });
        self.moments(&mut all, 8, |dice| Mishap::Crash { down: dice.random_range(HOUR..50 * HOUR) });
        self.moments(&mut all, 52 * REPOSITORIES, |dice| Mishap::Prune {
            repository: dice.random_range(0..REPOSITORIES),
        });
        self.moments(&mut all, self.vms, |dice| Mishap::ByHand { vm: dice.random_range(0..vms) });
        self.moments(&mut all, self.vms / 10, |dice| Mishap::BitmapLies { vm: dice.random_range(0..vms) });
        all
    }

    /// So many of the year's that fall into these days, at least one.
    fn count(&self, in_a_year: usize) -> i64 {
        (i64::try_from(in_a_year).unwrap() * self.days / 365).max(1)
    }

    fn moment(&mut self) -> i64 {
        self.from + self.dice.random_range(0..(self.days - 1) * DAY)
    }

    fn moments(
        &mut self,
        all: &mut Vec<(i64, Mishap)>,
        in_a_year: usize,
        draw: impl Fn(&mut StdRng) -> Mishap,
    ) {
        for _ in 0..self.count(in_a_year) {
            all.push((self.moment(), draw(self.dice)));
        }
    }

    /// What begins and is over again after a while.
    fn spells(
        &mut self,
        all: &mut Vec<(i64, Mishap)>,
        in_a_year: usize,
        (shortest, longest): (i64, i64),
        draw: impl Fn(&mut StdRng) -> [Mishap; 2],
    ) {
        for _ in 0..self.count(in_a_year) {
            let begins = self.moment();
            // Most are short.
            let longest = self.dice.random_range(shortest..longest);
            let length = self.dice.random_range(shortest..=longest);
            let [begin, end] = draw(self.dice);
            let last = self.from + (self.days - 1) * DAY;
            all.extend([(begins, begin), ((begins + length).min(last), end)]);
        }
    }
}
