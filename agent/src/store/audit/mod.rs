//! The audit of a dirty bitmap: a few chunks that it calls clean are read nevertheless, and compared with the parent's.
//!
//! A bitmap that misses a write makes every later point wrong, and nothing else would tell: the proofs of such points
//! are in order. The sample is drawn by lot over the clean chunks, three quarters of it where the parent has data and
//! the rest where it has zeros, each filling up what the other lacks. What it costs follows the sample and not the disk:
//! draws, loads of the parent's lists and questions about the map are bounded, so that less may be found than was asked
//! for. Memory: eight chunks, and the parent's lists of at most four sections of 1 GiB for each chunk that is wanted.
//! Knows nothing of what follows from a difference.

mod draw;
mod known;

use std::rc::Rc;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use journal::effect::{DiskMode, Store, StoreDisk};
use journal::{IntentId, PointId};
use repository::Digest;

use super::ledger::DiskLedger;
use crate::nbd::Extent;
use crate::pipeline::crew::Crew;
use crate::pipeline::disk::Broken;
use crate::pipeline::layout::PART_CHUNKS;
use crate::pipeline::view::{Connections, View};
use draw::Draw;
use known::Known;

/// Chunks that are read and hashed at a time: with the largest chunks, as much memory as the pipeline's ranges.
const READS: usize = 8;

/// Chunks in one section of a disk: as many as a part has, whether the disk is in parts or not.
const SECTION: u64 = PART_CHUNKS as u64;

/// What an audit came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// How many chunks were compared.
    pub(crate) chunks: u32,
    /// What is wrong with the bitmap, for people, if one of them differed.
    pub(crate) distrust: Option<String>,
}

/// What is audited.
pub(super) struct Subject<'a> {
    pub(super) crew: &'a Crew,
    pub(super) ledger: &'a Arc<DiskLedger>,
    pub(super) view: &'a View,
}

/// Audits one disk of a store; a disk that is read whole has nothing that could be audited, and of one of which QEMU has
/// copied only what changed, nothing else can be read.
pub(super) async fn audit(
    intent: IntentId,
    effect: &Store,
    disk: &StoreDisk,
    subject: &Subject<'_>,
) -> Result<Audit, Broken> {
    let DiskMode::Incremental { parent, .. } = &disk.mode else { return Ok(Audit::default()) };
    let wanted = usize::try_from(effect.audit_chunks).unwrap_or(usize::MAX);
    if wanted == 0 || disk.size_bytes == 0 || !subject.view.shows_all() {
        return Ok(Audit::default());
    }
    let seed = format!("audit {} {} {}", effect.installation, intent.0, disk.disk);
    let sample = Sample::pick(subject, wanted, &seed).await?;
    let chunks = u32::try_from(sample.len()).unwrap_or(u32::MAX);
    let differing = compare(subject, sample).await?;
    Ok(Audit { chunks, distrust: say(&differing, chunks, *parent) })
}

/// One chunk of the sample, and what the parent has there.
#[derive(Debug, Clone, Copy)]
struct Picked {
    extent: Extent,
    parents: Digest,
}

/// A sample in the making.
struct Sample<'a> {
    view: &'a View,
    known: Known<'a>,
    /// How many more chunks the map may be asked about.
    questions_left: usize,
    picked: Vec<Picked>,
}

/// The chunks of one kind: those where the parent has data, or those where it has zeros.
struct Lot {
    sections: Vec<usize>,
    zeros: bool,
    draw: std::iter::Take<Draw>,
}

impl<'a> Sample<'a> {
    /// Picks up to `wanted` clean chunks, the same ones for the same seed.
    async fn pick(subject: &Subject<'a>, wanted: usize, seed: &str) -> Result<Vec<Picked>, Broken> {
        let known = Known::new(subject.crew, subject.ledger, wanted.saturating_mul(4).max(16)).await?;
        let mut sample = Self {
            view: subject.view,
            known,
            questions_left: wanted.saturating_mul(8).max(64),
            picked: Vec::new(),
        };
        let mut data = sample.lot(false, wanted, seed);
        let mut zeros = sample.lot(true, wanted, seed);
        sample.fill(&mut data, wanted - wanted / 4).await?;
        sample.fill(&mut zeros, wanted).await?;
        sample.fill(&mut data, wanted).await?;
        Ok(sample.picked)
    }

    fn lot(&self, zeros: bool, wanted: usize, seed: &str) -> Lot {
        let sections = self.known.sections(!zeros);
        let seed = Digest::of(format!("{seed} {}", if zeros { "zeros" } else { "data" }).as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = seed.0;
        let draw = Draw::new(u64::from_le_bytes([a, b, c, d, e, f, g, h]), sections.len() as u64 * SECTION);
        // A draw that is rejected in memory is cheap: enough of them for a disk of which a hundredth is of the kind.
        Lot { sections, zeros, draw: draw.take(wanted.saturating_mul(100).max(4096)) }
    }

    /// Adds chunks of a lot until there are `wanted`, or the lot is used up.
    async fn fill(&mut self, lot: &mut Lot, wanted: usize) -> Result<(), Broken> {
        while self.picked.len() < wanted && self.questions_left > 0 {
            let Some(number) = lot.draw.next() else { return Ok(()) };
            let place = usize::try_from(number / SECTION).expect("it numbers a section");
            let (section, slot) = (lot.sections[place], number % SECTION);
            let Some(extent) = self.known.place(section, slot) else { continue };
            let Some(parents) = self.known.digest(section, slot).await? else { continue };
            if self.known.is_zero(parents) != lot.zeros {
                continue;
            }
            self.questions_left -= 1;
            if self.view.is_clean(extent).await? {
                self.picked.push(Picked { extent, parents });
            }
        }
        Ok(())
    }
}

/// Reads the sample, and says where it differs from the parent, in the disk's order.
async fn compare(subject: &Subject<'_>, sample: Vec<Picked>) -> Result<Vec<Extent>, Broken> {
    let differs = |picked: Picked| async move {
        let reader = subject.view.reader();
        let digest = async move |connections: Rc<Connections>| {
            let chunk = reader.read(&connections, picked.extent, Vec::new()).await?;
            Ok::<_, Broken>(Digest::of(&chunk))
        };
        let digest = subject.crew.give(digest).await??;
        Ok::<_, Broken>((digest != picked.parents).then_some(picked.extent))
    };
    let compared = stream::iter(sample).map(differs).buffer_unordered(READS);
    let mut differing = compared.try_filter_map(|it| async move { Ok(it) }).try_collect::<Vec<_>>().await?;
    differing.sort_unstable();
    Ok(differing)
}

fn say(differing: &[Extent], sampled: u32, parent: PointId) -> Option<String> {
    let first = differing.first()?;
    Some(format!(
        "the {first} differ from {parent} although the bitmap calls them clean \
         (differing: {} of {sampled} sampled chunks)",
        differing.len()
    ))
}
