//! How often a failed backup is tried, and how long it waits in between. Knows no job and no kind of failure: it turns the
//! number of tries into a delay.

use chrono::TimeDelta;

use crate::jitter;

/// How a policy's failed backups are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all, the first included; at least one.
    pub attempts: u32,
    /// The wait after the first try; it doubles with each further one.
    pub backoff: TimeDelta,
    /// The wait never gets longer than this.
    pub backoff_max: TimeDelta,
}

impl Retry {
    /// One try, and that is all.
    pub const NEVER: Retry =
        Retry { attempts: 1, backoff: TimeDelta::minutes(1), backoff_max: TimeDelta::minutes(30) };

    /// The wait after so many tries: the backoff, doubled for each try after the first, within its limit, and of that
    /// between a half and the whole, the same every time for the same names. So what failed together does not come back
    /// together.
    #[must_use]
    pub fn wait(&self, tries: u32, whose: &str, which: &str) -> TimeDelta {
        let doublings = tries.saturating_sub(1).min(31);
        let whole = self.backoff.num_seconds().saturating_mul(1 << doublings);
        let whole = TimeDelta::seconds(whole.min(self.backoff_max.num_seconds()));
        whole / 2 + jitter::delay(whose, &format!("{which}/{tries}"), whole / 2)
    }
}

impl Default for Retry {
    /// Three tries within some minutes: long enough for a restart of a host's service, short enough for a night.
    fn default() -> Self {
        Self { attempts: 3, ..Self::NEVER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_within_its_limit_and_is_spread() {
        let retry = Retry { attempts: 9, backoff: TimeDelta::minutes(1), backoff_max: TimeDelta::minutes(5) };
        for (tries, whole) in [(1, 60), (2, 120), (3, 240), (4, 300), (40, 300), (u32::MAX, 300)] {
            let waits: Vec<i64> =
                (0..50).map(|vm| retry.wait(tries, "p", &format!("vm{vm}")).num_seconds()).collect();
            assert!(waits.iter().all(|wait| (whole / 2..=whole).contains(wait)), "{tries}: {waits:?}");
            let distinct: std::collections::BTreeSet<_> = waits.iter().collect();
            assert!(distinct.len() > 10, "{tries}: all at once: {waits:?}");
        }
        assert_eq!(retry.wait(2, "p", "a"), retry.wait(2, "p", "a"));
    }
}
