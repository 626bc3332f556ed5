//! What the parent has of single chunks, looked up as a sample asks for it: nothing is loaded that is not drawn.
//!
//! A disk is seen in sections of as many chunks as a part has, whether it is stored whole or in parts. Those that hold
//! nothing but zeros are told by their fingerprints, so that a sample of a sparse disk finds its data. Knows nothing of
//! the view.

use std::collections::HashMap;
use std::sync::Arc;

use repository::Digest;

use super::super::ledger::DiskLedger;
use crate::nbd::Extent;
use crate::pipeline::crew::Crew;
use crate::pipeline::disk::{Broken, in_time};
use crate::pipeline::layout::{Layout, PART_CHUNKS};

/// What the parent has of the disk.
pub(super) struct Known<'a> {
    crew: &'a Crew,
    ledger: &'a Arc<DiskLedger>,
    layout: Layout,
    /// The digests of a whole chunk of zeros, and of the disk's last chunk if it is all zeros.
    zeros: [Digest; 2],
    with_data: Arc<[bool]>,
    loaded: HashMap<usize, Vec<Digest>>,
    loads_left: usize,
}

impl<'a> Known<'a> {
    /// Looks at no chunk yet. At most `loads` sections are ever loaded.
    pub(super) async fn new(
        crew: &'a Crew,
        ledger: &'a Arc<DiskLedger>,
        loads: usize,
    ) -> Result<Self, Broken> {
        let (layout, sections) = (ledger.layout(), Arc::clone(ledger));
        let survey = move || {
            let zeros = zeros_of(layout);
            sections.with_data(zeros).map(|with_data| (zeros, with_data.into()))
        };
        let (zeros, with_data) = in_time(crew.run(survey)).await???;
        Ok(Self { crew, ledger, layout, zeros, with_data, loaded: HashMap::new(), loads_left: loads })
    }

    /// The numbers of all sections, or of those that have something other than zeros.
    pub(super) fn sections(&self, only_with_data: bool) -> Vec<usize> {
        let numbers = self.with_data.iter().enumerate();
        numbers.filter(|(_, with_data)| **with_data || !only_with_data).map(|(number, _)| number).collect()
    }

    /// Where the `slot`-th chunk of a section lies; none beyond the disk's end.
    pub(super) fn place(&self, section: usize, slot: u64) -> Option<Extent> {
        let chunk = u64::from(self.layout.chunk_bytes());
        let offset = (section as u64 * u64::from(PART_CHUNKS) + slot) * chunk;
        (offset < self.layout.disk_bytes())
            .then(|| Extent::new(offset, chunk.min(self.layout.disk_bytes() - offset)))
    }

    /// The parent's digest of that chunk; none where it would take one load too many.
    pub(super) async fn digest(&mut self, section: usize, slot: u64) -> Result<Option<Digest>, Broken> {
        if !self.with_data[section] {
            let is_whole = self.place(section, slot).is_some_and(|chunk| self.is_whole(chunk));
            return Ok(Some(self.zeros[usize::from(!is_whole)]));
        }
        if !self.loaded.contains_key(&section) {
            let Some(left) = self.loads_left.checked_sub(1) else { return Ok(None) };
            self.loads_left = left;
            let ledger = Arc::clone(self.ledger);
            let digests = in_time(self.crew.run(move || ledger.section(section))).await???;
            self.loaded.insert(section, digests);
        }
        let slot = usize::try_from(slot).expect("a section has at most 16384 chunks");
        Ok(self.loaded[&section].get(slot).copied())
    }

    /// Whether a chunk of this digest is all zeros.
    pub(super) fn is_zero(&self, digest: Digest) -> bool {
        self.zeros.contains(&digest)
    }

    fn is_whole(&self, chunk: Extent) -> bool {
        chunk.length == u64::from(self.layout.chunk_bytes())
    }
}

/// The digests of zeros, for the two lengths that a disk's chunks have.
fn zeros_of(layout: Layout) -> [Digest; 2] {
    let chunk = u64::from(layout.chunk_bytes());
    let last = match layout.disk_bytes() % chunk {
        0 => chunk,
        rest => rest,
    };
    [chunk, last]
        .map(|length| Digest::of(&vec![0; usize::try_from(length).expect("a chunk is at most 8 MiB")]))
}
