//! The blobs of one kind, sorted by digest: 48 bytes of memory for each, where a hash map takes 56 to 112.
//!
//! They stand in 256 shelves by their first byte, so that adding some moves a little at a time. Digests are spread
//! evenly: about where one stands in its shelf is reckoned from its next bytes, and looked for around there. Knows
//! nothing of packs and files.

use super::Place;
use crate::id::Digest;

/// How far from where it should be a digest is looked for at first: twice as far as most are, on a full shelf.
const NEAR: usize = 256;

/// One shelf.
#[derive(Debug, Clone, Default)]
struct Shelf {
    blobs: Vec<(Digest, Place)>,
    /// How many of them, from the first, are in their order.
    settled: usize,
}

impl Shelf {
    /// Room for so many more. A list that doubles would keep as much room empty as it fills; an eighth is enough, since what is
    /// large is moved by the page.
    fn make_room(&mut self, more: usize) {
        if self.blobs.capacity() - self.blobs.len() < more {
            self.blobs.reserve_exact(more.max(self.blobs.len() / 8));
        }
    }

    fn settle(&mut self) {
        if self.settled == self.blobs.len() {
            return;
        }
        // Stable, and quick where most of it is sorted already.
        self.blobs.sort_by_key(|(digest, _)| *digest);
        self.blobs.dedup_by_key(|(digest, _)| *digest);
        self.settled = self.blobs.len();
    }
}

/// All shelves. What was put is found once they are [settled](Self::settle).
#[derive(Debug)]
pub(super) struct Shelves(Vec<Shelf>);

impl Default for Shelves {
    fn default() -> Self {
        Self(vec![Shelf::default(); 1 << u8::BITS])
    }
}

impl Shelves {
    /// How many blobs there are.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|shelf| shelf.blobs.len()).sum()
    }

    pub(super) fn put(&mut self, digest: Digest, place: Place) {
        let shelf = &mut self.0[usize::from(digest.0[0])];
        shelf.make_room(1);
        shelf.blobs.push((digest, place));
    }

    /// Puts everything, settled or not, places changed by `moved`.
    pub(super) fn take_over(&mut self, other: Self, moved: impl Fn(Place) -> Place) {
        for (shelf, others) in self.0.iter_mut().zip(other.0) {
            shelf.make_room(others.blobs.len());
            shelf.blobs.extend(others.blobs.into_iter().map(|(digest, place)| (digest, moved(place))));
        }
    }

    /// Sorts what was put since the last time; shelves to which nothing came are not touched. Of a blob that was put twice the
    /// first place stays.
    pub(super) fn settle(&mut self) {
        self.0.iter_mut().for_each(Shelf::settle);
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<&Place> {
        let shelf = &self.0[usize::from(digest.0[0])].blobs;
        let [_, a, b, c, d, ..] = digest.0;
        let guess = (u64::from(u32::from_be_bytes([a, b, c, d])) * shelf.len() as u64) >> u32::BITS;
        let guess = usize::try_from(guess).expect("it is below the shelf's length");
        let mut near = NEAR;
        loop {
            let (from, to) = (guess.saturating_sub(near), (guess + near).min(shelf.len()));
            let not_before = from == 0 || shelf[from].0 <= *digest;
            let not_behind = to == shelf.len() || *digest < shelf[to].0;
            if not_before && not_behind {
                let found = shelf[from..to].binary_search_by_key(digest, |(digest, _)| *digest);
                return found.ok().map(|place| &shelf[from + place].1);
            }
            near *= 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(offset: u32) -> Place {
        Place { pack: 0, offset, length: 1, raw_length: 0 }
    }

    /// Digests as they are, and such as nobody would see: all on one shelf, or all but alike.
    fn digests() -> impl Strategy<Value = Vec<Digest>> {
        let even = any::<u32>().prop_map(|seed| Digest::of(&seed.to_le_bytes()));
        let crowded = (any::<u8>(), 0..3_u8).prop_map(|(last, kind)| {
            let mut digest = Digest([if kind == 0 { 0 } else { 0xff }; 32]);
            digest.0[usize::from(kind) * 2] = last;
            digest
        });
        proptest::collection::vec(prop_oneof![even, crowded], 0..3000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_was_put_is_found_where_it_was_put_first(first in digests(), second in digests(), absent in digests()) {
            let mut expected = std::collections::HashMap::new();
            let mut shelves = Shelves::default();
            let mut later = Shelves::default();
            for (number, digest) in (0..).zip(&first) {
                shelves.put(*digest, place(number));
                expected.entry(*digest).or_insert(number);
            }
            shelves.settle();
            for (number, digest) in (0..).zip(&second) {
                later.put(*digest, place(number));
                expected.entry(*digest).or_insert(number + 1_000_000);
            }
            shelves.take_over(later, |place| Place { offset: place.offset + 1_000_000, ..place });
            shelves.settle();
            prop_assert_eq!(shelves.len(), expected.len());
            for digest in first.iter().chain(&second).chain(&absent) {
                let found = shelves.find(digest).map(|place| place.offset);
                prop_assert_eq!(found, expected.get(digest).copied(), "{}", digest);
            }
        }
    }
}
