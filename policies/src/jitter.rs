//! Spreads machines that share a schedule, the same way every time. Knows nothing of schedules: it turns two
//! names and a bound into a delay.
//!
//! The delay depends on the names alone, so a restart, another orchestrator or a preview sees the same one.
//! It is part of what users see in `policy preview`: changing the hash moves every run.

use chrono::TimeDelta;

/// The delay of `vm` under `policy`: whole seconds, at least zero and below `bound`.
#[must_use]
pub fn delay(policy: &str, vm: &str, bound: TimeDelta) -> TimeDelta {
    let Ok(seconds) = u64::try_from(bound.num_seconds()) else { return TimeDelta::zero() };
    let scaled = (u128::from(hash(policy, vm)) * u128::from(seconds)) >> 64;
    TimeDelta::seconds(i64::try_from(scaled).expect("below `bound`, which is an i64"))
}

/// FNV-1a over both names, then the finaliser of splitmix64: FNV alone leaves the high bits, which are the
/// ones used above, too much alike for names that differ in the last letter.
fn hash(policy: &str, vm: &str) -> u64 {
    let bytes = policy.bytes().chain(std::iter::once(0)).chain(vm.bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_stable_bounded_and_spread() {
        let bound = TimeDelta::minutes(30);
        // Golden: a change here would move the runs of every installation.
        assert_eq!(delay("nightly", "web-1", bound), TimeDelta::seconds(1013));
        let mut per_minute = [0_u32; 30];
        for number in 0..3000 {
            let delay = delay("nightly", &format!("vm-{number}"), bound);
            assert!(delay >= TimeDelta::zero() && delay < bound);
            per_minute[usize::try_from(delay.num_minutes()).expect("below 30")] += 1;
        }
        assert!(per_minute.iter().all(|&count| (60..=140).contains(&count)), "{per_minute:?}");
    }

    #[test]
    fn no_bound_means_no_delay() {
        assert_eq!(delay("p", "v", TimeDelta::zero()), TimeDelta::zero());
        assert_eq!(delay("p", "v", TimeDelta::seconds(-5)), TimeDelta::zero());
    }
}
