//! Numbers drawn by lot, none of them twice, and the same ones for the same seed. Knows nothing of what they number.

use std::collections::HashMap;

/// A shuffle of the numbers below a limit, of which only as much is kept in memory as was drawn (Fisher and Yates').
#[derive(Debug)]
pub(super) struct Draw {
    dice: Dice,
    below: u64,
    drawn: u64,
    /// The places at which another number stands than its own.
    moved: HashMap<u64, u64>,
}

impl Draw {
    pub(super) fn new(seed: u64, below: u64) -> Self {
        Self { dice: Dice(seed), below, drawn: 0, moved: HashMap::new() }
    }
}

impl Iterator for Draw {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let first = self.drawn;
        let left = self.below.checked_sub(first).filter(|left| *left > 0)?;
        let place = first + self.dice.below(left);
        let number = self.moved.get(&place).copied().unwrap_or(place);
        let displaced = self.moved.remove(&first).unwrap_or(first);
        if place != first {
            self.moved.insert(place, displaced);
        }
        self.drawn += 1;
        Some(number)
    }
}

/// Random numbers (Sebastiano Vigna's splitmix64): even enough for a sample, and no more is asked of them.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The upper half of the product lies evenly below the limit.
        let product = u128::from(mixed) * u128::from(limit);
        u64::try_from(product >> 64).expect("half of 128 bits")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_comes_once(seed: u64, below in 0..300_u64) {
            let mut drawn = Draw::new(seed, below).collect::<Vec<_>>();
            prop_assert_eq!(&drawn, &Draw::new(seed, below).collect::<Vec<_>>());
            drawn.sort_unstable();
            prop_assert_eq!(drawn, (0..below).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_number_comes_as_often_as_any_other() {
        let mut often = [0_u32; 50];
        for seed in 0..20_000 {
            for number in Draw::new(seed, 50).take(5) {
                often[usize::try_from(number).expect("it is below 50")] += 1;
            }
        }
        // 2000 each are expected, give or take 42: six times that is not chance.
        assert!(often.iter().all(|times| times.abs_diff(2000) < 6 * 42), "{often:?}");
    }

    #[test]
    fn little_is_kept_of_a_large_disk() {
        let mut draw = Draw::new(1, u64::MAX);
        assert_eq!(draw.by_ref().take(100).count(), 100);
        assert!(draw.moved.len() <= 100);
    }
}
