//! A crew: as many threads as there are cores, which read, hash and store.
//!
//! What a thread has read it works on itself, while it lies in that core's caches: nobody is woken to take it on, which
//! for a megabyte costs as much as hashing it. So each thread has a runtime and [`Connections`] of its own, on which a few
//! reads are under way while it hashes.
//!
//! Not tokio's blocking pool: that grows to as many threads as there is work, and each that saves keeps a pack open.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};

use super::view::Connections;

/// What each thread has under way at a time, where there are few: enough to hide the latency of a read.
const EACH: usize = 4;
/// The same where there are many: together they must meet the time limit of a read even on slow storage.
const LEAST: usize = 2;
/// From where on there are many threads.
const TOGETHER: usize = 16;

type Work = Box<dyn FnOnce(Rc<Connections>) -> LocalBoxFuture<'static, ()> + Send>;

/// The threads. They end when the crew is dismissed or dropped, each after what it has in hand.
#[derive(Debug)]
pub(crate) struct Crew {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

/// The work was not done: it panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a thread that hashes and stores panicked: a bug")]
pub(crate) struct Abandoned;

/// What nobody has taken up. It has no bound of its own: the callers' buffers bound it.
struct Queue {
    work: Mutex<VecDeque<Work>>,
    /// A permit for each piece of work; closed when the crew is dismissed.
    pieces: Semaphore,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("pieces", &self.pieces).finish_non_exhaustive()
    }
}

impl Crew {
    /// Hires one thread for each core.
    pub(crate) fn hire() -> std::io::Result<Self> {
        let queue = Arc::new(Queue { work: Mutex::default(), pieces: Semaphore::new(0) });
        // Hired one by one, so that those who are there are dismissed if one cannot be.
        let mut crew = Self { queue, threads: Vec::new() };
        for number in 0..cores() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let queue = Arc::clone(&crew.queue);
            let thread = thread::Builder::new().name(format!("crew-{number}"));
            crew.threads.push(thread.spawn(move || toil(&runtime, &queue))?);
        }
        Ok(crew)
    }

    /// Waits until every thread is done with what it has in hand; blocks.
    pub(crate) fn dismiss(mut self) {
        self.queue.pieces.close();
        for thread in self.threads.drain(..) {
            // Work that panics is caught, so a thread ends well.
            let _ = thread.join();
        }
    }

    /// Has `work` done by one of the threads.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Abandoned> {
        self.give(|_| async { work() }).await
    }

    /// Has `work`, which may wait, done by one of the threads, on that thread's connections. What nobody waits for any more
    /// is not begun, or dropped where it waits.
    pub(crate) async fn give<T, F>(
        &self,
        work: impl FnOnce(Rc<Connections>) -> F + Send + 'static,
    ) -> Result<T, Abandoned>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (mut answer, answered) = oneshot::channel();
        let piece: Work = Box::new(move |connections| {
            Box::pin(async move {
                if answer.is_closed() {
                    return;
                }
                let done = AssertUnwindSafe(async { work(connections).await }).catch_unwind();
                let done = tokio::select! {
                    biased;
                    // A panic loses the answer, which tells the caller, and not the thread.
                    done = done => done.ok(),
                    () = answer.closed() => None,
                };
                if let Some(done) = done {
                    // Whoever asked may have gone meanwhile.
                    let _ = answer.send(done);
                }
            })
        });
        self.queue.work.lock().map_err(|_| Abandoned)?.push_back(piece);
        self.queue.pieces.add_permits(1);
        answered.await.map_err(|_| Abandoned)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.queue.pieces.close();
    }
}

/// How many threads a crew has.
pub(crate) fn cores() -> usize {
    // Asked once: the system reads the limits of control groups for the answer.
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// What one thread has under way at a time.
pub(crate) fn each() -> usize {
    if cores() < TOGETHER { EACH } else { LEAST }
}

/// The life of one thread.
fn toil(runtime: &Runtime, queue: &Queue) {
    runtime.block_on(async {
        let connections = Rc::new(Connections::default());
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
                piece = queue.pieces.acquire(), if under_way.len() < each() => {
                    let Ok(piece) = piece else { break };
                    piece.forget();
                    let next = queue.work.lock().ok().and_then(|mut work| work.pop_front());
                    under_way.extend(next.map(|work| work(Rc::clone(&connections))));
                }
            }
        }
        while let Some(()) = under_way.next().await {}
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_answered_and_a_panic_is_told() {
        let crew = Crew::hire().expect("threads can be made");
        assert_eq!(crew.run(|| 6 * 7).await, Ok(42));
        for _ in 0..=cores() {
            assert_eq!(crew.run(|| panic!("on purpose")).await, Err::<(), _>(Abandoned));
        }
        assert_eq!(crew.run(|| "still here").await, Ok("still here"));
    }

    #[tokio::test]
    async fn what_waits_keeps_nobody_from_work_and_is_dropped_when_nobody_waits_for_it() {
        let crew = Crew::hire().expect("threads can be made");
        let held = Arc::new(());
        let waits = |held: Arc<()>| {
            crew.give(move |_| async move {
                std::future::pending::<()>().await;
                drop(held);
            })
        };
        let mut waiting: Vec<_> =
            (0..cores() * (each() - 1)).map(|_| Box::pin(waits(Arc::clone(&held)))).collect();
        for wait in &mut waiting {
            assert!(futures::poll!(wait).is_pending());
        }
        for number in 0..100 {
            assert_eq!(crew.run(move || number).await, Ok(number));
        }
        drop(waiting);
        crew.dismiss();
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
