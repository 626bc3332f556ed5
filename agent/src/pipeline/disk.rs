//! What binds the stages: one disk of a view, from its first stretch to the digests of its last part.
//!
//! One task drives: it surveys ahead only as far as it reads, keeps a fixed number of ranges between socket and
//! session, and enters each range's digests into its part's list. Any error ends it; dropping it ends it at once.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use repository::{Digest, LANES, Pace, ReadError, WriteError};
use tokio::time::{Instant, sleep_until};

use super::crew::{Abandoned, Crew, cores, each};
use super::hash::{Hashed, Sink};
use super::layout::{Layout, Part};
use super::plan::{Plan, Range, plan};
use super::view::{Connections, View, ViewError};
use super::{RANGES_BYTES, REQUEST_BYTES};
use crate::nbd::Extent;

/// How long nothing may come of anything before the repository's storage counts as hung.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// Where the digests of parts come from and go to. Called on the crew's threads.
pub(crate) trait Ledger: Send + Sync + 'static {
    /// The parent's digests of a part of which some chunks changed. Without a parent every chunk is found anew, and
    /// what is returned here is only as long as the part.
    fn begin(&self, part: Part) -> Result<Vec<Digest>, Broken>;

    /// Takes the digests of a part; `None` when the parent's stay.
    fn complete(&self, part: Part, digests: Option<Vec<Digest>>) -> Result<(), Broken>;
}

/// Why a disk was not copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The view.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Reading the parent.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing to the repository.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The parent does not fit.
    #[error("{0}")]
    Parent(String),
    /// A thread.
    #[error(transparent)]
    Crew(#[from] Abandoned),
    /// Nothing moves.
    #[error("nothing was stored for {} s: see whether the repository's storage answers", .0.as_secs())]
    Stalled(Duration),
}

/// What a disk cost, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// What the bitmap called changed, or what was not zero where the disk was read whole.
    pub(crate) changed_bytes: u64,
    /// What was read.
    pub(crate) read_bytes: u64,
    /// What was added to the repository, compressed and sealed.
    pub(crate) stored_bytes: u64,
}

/// What all disks of a view share.
pub(crate) struct Pipeline<'a> {
    /// Who hashes and stores.
    pub(crate) crew: &'a Crew,
    /// Where chunks go.
    pub(crate) sink: &'a Arc<Sink>,
    /// How fast that may grow.
    pub(crate) pace: &'a Pace,
    /// Told of every byte of a disk that is dealt with, read or not.
    pub(crate) advance: &'a (dyn Fn(u64) + Sync),
}

/// A stretch with its plan, and with its part's digests where it is the first that needs them.
struct Planned {
    part: Part,
    stretch: Extent,
    plan: Plan,
    zeros: Vec<Digest>,
    digests: Option<Vec<Digest>>,
}

/// A part that is not complete.
struct InHand {
    part: Part,
    digests: Option<Vec<Digest>>,
    stretches_left: usize,
    ranges_left: usize,
}

/// What one of the things that are under way came to.
enum Event {
    Hashed(Part, Range, Hashed),
    /// Stored bytes waited for their turn, which comes then.
    Waited(Instant),
    Completed,
}

/// One disk under way.
struct Copy<'a, L> {
    pipeline: &'a Pipeline<'a>,
    view: &'a View,
    layout: Layout,
    ledger: &'a Arc<L>,
    figures: Figures,
    parts: BTreeMap<u32, InHand>,
    backlog: VecDeque<(Part, Range)>,
    running: FuturesUnordered<BoxFuture<'a, Result<Event, Broken>>>,
    /// Buffers of ranges that are done with.
    spare: Vec<Vec<Vec<u8>>>,
}

impl Pipeline<'_> {
    /// Brings one disk into the repository: every part goes to the ledger.
    pub(crate) async fn copy<L: Ledger>(
        &self,
        view: &View,
        layout: Layout,
        ledger: &Arc<L>,
    ) -> Result<Figures, Broken> {
        let mut copy = Copy {
            pipeline: self,
            view,
            layout,
            ledger,
            figures: Figures::default(),
            parts: BTreeMap::new(),
            backlog: VecDeque::new(),
            running: FuturesUnordered::new(),
            spare: Vec::new(),
        };
        let mut plans = std::pin::pin!(copy.plans());
        let mut more = true;
        while more || !copy.running.is_empty() || !copy.backlog.is_empty() {
            copy.fill();
            let step = async {
                tokio::select! {
                    Some(event) = copy.running.next(), if !copy.running.is_empty() => copy.enter(event?),
                    planned = plans.next(), if more && copy.backlog.is_empty() => match planned {
                        Some(planned) => copy.begin(planned?),
                        None => more = false,
                    },
                }
                Ok::<_, Broken>(())
            };
            in_time(step).await??;
        }
        Ok(copy.figures)
    }
}

/// Waits for work on the repository's storage, as long as it may hang.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, Broken> {
    tokio::time::timeout(STALL_LIMIT, work).await.map_err(|_| Broken::Stalled(STALL_LIMIT))
}

/// Ranges on their way at a time: what the crew has under way, and one more for each, so that nobody waits for the next.
pub(crate) fn ranges() -> usize {
    (each() + 1) * cores()
}

/// Chunks in one range: as many as are hashed side by side, unless the buffers of all ranges would be too much.
fn range_chunks(layout: Layout) -> usize {
    let fit = RANGES_BYTES / ranges() / layout.chunk_bytes() as usize;
    fit.clamp(1, LANES)
}

impl<'a, L: Ledger> Copy<'a, L> {
    /// The plans of all stretches, in order, each made when it is asked for.
    fn plans(&self) -> impl Stream<Item = Result<Planned, Broken>> + use<'a, L> {
        let (pipeline, view, layout, ledger) = (self.pipeline, self.view, self.layout, self.ledger);
        let stretches = layout.parts().flat_map(|part| part.stretches().map(move |stretch| (part, stretch)));
        let begun = None::<u32>;
        futures::stream::unfold((stretches, begun), move |(mut stretches, mut begun)| async move {
            let (part, stretch) = stretches.next()?;
            let planned = async {
                let survey = view.survey(stretch).await?;
                let plan = plan(part, stretch, &survey, range_chunks(layout));
                let mut zeros = Vec::new();
                if !plan.zero.is_empty() {
                    let (sink, chunks) = (Arc::clone(pipeline.sink), plan.zero.clone());
                    let zeros_of = move || {
                        chunks.into_iter().map(|chunk| sink.zeros(part.chunk_length(chunk))).collect()
                    };
                    zeros = pipeline.crew.run::<Result<_, _>>(zeros_of).await??;
                }
                let mut digests = None;
                if !plan.keeps_all() && begun != Some(part.number) {
                    let ledger = Arc::clone(ledger);
                    digests = Some(pipeline.crew.run(move || ledger.begin(part)).await??);
                    begun = Some(part.number);
                }
                Ok(Planned { part, stretch, plan, zeros, digests })
            };
            Some((planned.await, (stretches, begun)))
        })
    }

    /// Sets ranges under way as long as there are buffers for them.
    fn fill(&mut self) {
        while self.running.len() < ranges() {
            let Some((part, range)) = self.backlog.pop_front() else { return };
            let spare = self.spare.pop().unwrap_or_default();
            let (reader, crew) = (self.view.reader(), self.pipeline.crew);
            let (sink, extent) = (Arc::clone(self.pipeline.sink), range.extent);
            self.running.push(Box::pin(async move {
                let work = async move |connections: Rc<Connections>| {
                    let request = u64::from(part.chunk_bytes.max(REQUEST_BYTES));
                    let read = reader.read_range(&connections, extent, request, spare).await?;
                    Ok::<_, Broken>(sink.take(read, part.chunk_bytes as usize)?)
                };
                let hashed = crew.give(work).await??;
                Ok(Event::Hashed(part, range, hashed))
            }));
        }
    }

    /// Takes up a stretch.
    fn begin(&mut self, planned: Planned) {
        let Planned { part, stretch, plan, zeros, digests } = planned;
        let in_hand = self.parts.entry(part.number).or_insert_with(|| InHand {
            part,
            digests: None,
            stretches_left: part.stretches().count(),
            ranges_left: 0,
        });
        in_hand.stretches_left -= 1;
        in_hand.ranges_left += plan.ranges.len();
        if digests.is_some() {
            in_hand.digests = digests;
        }
        if let Some(digests) = &mut in_hand.digests {
            for (chunk, zero) in plan.zero.iter().zip(zeros) {
                digests[*chunk] = zero;
            }
        }
        self.figures.changed_bytes += plan.changed_bytes;
        let later = plan.ranges.iter().map(|range| range.extent.length).sum::<u64>();
        (self.pipeline.advance)(stretch.length - later);
        self.backlog.extend(plan.ranges.into_iter().map(|range| (part, range)));
        self.complete(part);
    }

    /// Enters what came of something that was under way.
    fn enter(&mut self, event: Event) {
        let (part, range, hashed) = match event {
            Event::Hashed(part, range, hashed) => (part, range, hashed),
            Event::Waited(until) => return self.wait(until),
            Event::Completed => return,
        };
        if let Some(in_hand) = self.parts.get_mut(&part.number) {
            in_hand.ranges_left -= 1;
            if let Some(digests) = &mut in_hand.digests {
                digests[range.first..range.first + hashed.digests.len()].copy_from_slice(&hashed.digests);
            }
        }
        self.figures.read_bytes += range.data_bytes;
        self.figures.stored_bytes += hashed.stored_bytes;
        (self.pipeline.advance)(range.extent.length);
        self.spare.push(hashed.buffers);
        self.complete(part);
        let turn = self.pipeline.pace.enter(usize::try_from(hashed.stored_bytes).unwrap_or(usize::MAX));
        self.wait(Instant::now() + turn.ends);
    }

    /// Holds a range's place until what it stored is through, so that no more is read meanwhile than there are places. Not
    /// all the time at once: to wait for one's turn is not to wait for the storage, which may hang.
    fn wait(&mut self, until: Instant) {
        let now = Instant::now();
        if now < until {
            self.running.push(Box::pin(async move {
                sleep_until(until.min(now + STALL_LIMIT / 2)).await;
                Ok(Event::Waited(until))
            }));
        }
    }

    /// Hands a part to the ledger, if nothing of it is missing any more.
    fn complete(&mut self, part: Part) {
        let done =
            self.parts.get(&part.number).is_some_and(|it| it.stretches_left == 0 && it.ranges_left == 0);
        let Some(in_hand) = done.then(|| self.parts.remove(&part.number)).flatten() else { return };
        let (crew, ledger) = (self.pipeline.crew, Arc::clone(self.ledger));
        self.running.push(Box::pin(async move {
            crew.run(move || ledger.complete(in_hand.part, in_hand.digests)).await??;
            Ok(Event::Completed)
        }));
    }
}
