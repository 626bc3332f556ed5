//! What has to be read: from the extents of a view to ranges of chunks.
//!
//! Pure. A chunk that no changed extent touches is kept; a chunk of zeros gets the digest of zeros; any other is read
//! whole, in ranges of a few chunks. Knows nothing of connections, digests or repositories.

use super::layout::Part;
use crate::nbd::Extent;

/// What is known of one stretch of a disk before anything of it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// What may hold something other than zeros; in order, apart, inside of the stretch.
    pub data: Vec<Extent>,
    /// What changed since the parent, likewise; `None` when everything counts as changed.
    pub changed: Option<Vec<Extent>>,
}

/// A few chunks, one after the other, that are read in one request.
///
/// Zeros among them are not transferred: the server answers them as holes (NBD's structured replies).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first chunk, counted from the part's start.
    pub first: usize,
    /// Where the chunks lie on the disk.
    pub extent: Extent,
    /// How much of it may be other than zero, in bytes.
    pub data_bytes: u64,
}

/// What becomes of the chunks of a stretch. Chunks that are named nowhere here are the parent's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Chunks of zeros, counted from the part's start.
    pub zero: Vec<usize>,
    /// What is read.
    pub ranges: Vec<Range>,
    /// Bytes that changed: what the bitmap says, or what is not zero where everything counts as changed.
    pub changed_bytes: u64,
}

impl Plan {
    /// Whether the parent's chunks all stay.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.zero.is_empty() && self.ranges.is_empty()
    }
}

/// Plans one stretch of `part`, which begins and ends at chunks' borders, with ranges of at most `range_chunks`.
#[must_use]
pub fn plan(part: Part, stretch: Extent, survey: &Survey, range_chunks: usize) -> Plan {
    let mut data = Cursor::new(&survey.data);
    let mut changed = survey.changed.as_deref().map(Cursor::new);
    let mut plan =
        Plan { changed_bytes: total(survey.changed.as_ref().unwrap_or(&survey.data)), ..Plan::default() };
    for chunk in part.chunks_of(stretch) {
        let extent = part.chunk(chunk);
        if changed.as_mut().is_some_and(|changed| changed.bytes_within(extent) == 0) {
            continue;
        }
        match data.bytes_within(extent) {
            0 => plan.zero.push(chunk),
            data_bytes => add(&mut plan.ranges, Range { first: chunk, extent, data_bytes }, range_chunks),
        }
    }
    plan
}

/// Adds a chunk to the last range, or begins a new one with it.
fn add(ranges: &mut Vec<Range>, chunk: Range, range_chunks: usize) {
    match ranges.last_mut() {
        Some(last) if last.extent.end() == chunk.extent.offset && chunk.first - last.first < range_chunks => {
            last.extent.length += chunk.extent.length;
            last.data_bytes += chunk.data_bytes;
        }
        _ => ranges.push(chunk),
    }
}

fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.length).sum()
}

/// Walks extents that are in order, for questions that are in order too.
struct Cursor<'a> {
    rest: &'a [Extent],
}

impl<'a> Cursor<'a> {
    fn new(extents: &'a [Extent]) -> Self {
        Self { rest: extents }
    }

    /// How many bytes of the extents lie within `area`.
    fn bytes_within(&mut self, area: Extent) -> u64 {
        while let [first, rest @ ..] = self.rest {
            if first.end() > area.offset {
                break;
            }
            self.rest = rest;
        }
        let inside = self.rest.iter().take_while(|extent| extent.offset < area.end());
        inside.map(|extent| extent.end().min(area.end()) - extent.offset.max(area.offset)).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::layout::Layout;
    use super::*;

    const CHUNK: u32 = 64 << 10;

    /// Turns runs of (length, yes or no) into the extents that say yes.
    fn extents(runs: &[(u64, bool)], size: u64) -> Vec<Extent> {
        let mut offset = 0;
        let mut found = Vec::new();
        for (length, yes) in runs {
            let length = (*length).min(size - offset);
            if *yes && length > 0 {
                found.push(Extent::new(offset, length));
            }
            offset += length;
        }
        found
    }

    /// The same question as the cursor's, asked the slow way.
    fn bytes_within(extents: &[Extent], area: Extent) -> u64 {
        let overlap = |e: &Extent| e.end().min(area.end()).saturating_sub(e.offset.max(area.offset));
        extents.iter().map(overlap).sum()
    }

    fn runs() -> impl Strategy<Value = Vec<(u64, bool)>> {
        proptest::collection::vec((1..200_000_u64, any::<bool>()), 0..30)
    }

    fn first_part(size: u64) -> Part {
        Layout::new(size, CHUNK).parts().next().expect("there is always one")
    }

    proptest! {
        #[test]
        fn every_chunk_has_its_place(data in runs(), changed in proptest::option::of(runs()),
                                     size in 1..2_000_000_u64, range_chunks in 1..5_usize) {
            let part = first_part(size);
            let survey = Survey { data: extents(&data, size), changed: changed.map(|runs| extents(&runs, size)) };
            let plan = plan(part, Extent::new(0, size), &survey, range_chunks);
            let mut place = vec!["kept"; part.chunks()];
            for chunk in &plan.zero {
                place[*chunk] = "zero";
            }
            for range in &plan.ranges {
                let chunks = part.chunks_of(range.extent);
                prop_assert!(chunks.len() <= range_chunks);
                prop_assert_eq!(chunks.start, range.first);
                prop_assert_eq!(part.chunk(range.first).offset, range.extent.offset);
                prop_assert_eq!(bytes_within(&survey.data, range.extent), range.data_bytes);
                place[chunks].fill("read");
            }
            for (chunk, place) in place.iter().enumerate() {
                let extent = part.chunk(chunk);
                let is_changed = survey.changed.as_ref().is_none_or(|changed| bytes_within(changed, extent) > 0);
                let has_data = bytes_within(&survey.data, extent) > 0;
                let expected = if !is_changed { "kept" } else if has_data { "read" } else { "zero" };
                prop_assert_eq!(*place, expected, "chunk {}", chunk);
            }
        }
    }

    #[test]
    fn neighbours_are_read_together() {
        let part = first_part(10 * u64::from(CHUNK));
        let whole = Extent::new(0, part.length);
        let plan = plan(part, whole, &Survey { data: vec![whole], changed: None }, 4);
        let lengths = plan.ranges.iter().map(|range| range.extent.length / u64::from(CHUNK));
        assert_eq!(lengths.collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(plan.changed_bytes, part.length);
    }
}
