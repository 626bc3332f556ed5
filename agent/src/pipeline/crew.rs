//! A crew: as many threads as there are cores, which do the work that needs a processor.
//!
//! Not tokio's blocking pool: that grows to as many threads as there is work, and each that saves keeps a pack open.
//! Knows nothing of what the work is.

use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// The threads. They end when the crew is dismissed or dropped, each after what it has in hand.
#[derive(Debug)]
pub(crate) struct Crew {
    work: mpsc::Sender<Work>,
    threads: Vec<JoinHandle<()>>,
}

/// The work was not done: it panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a thread that hashes and stores panicked: a bug")]
pub(crate) struct Abandoned;

impl Crew {
    /// Hires one thread for each core. The queue has no bound of its own: the callers' buffers bound it.
    pub(crate) fn hire() -> std::io::Result<Self> {
        let (work, queue) = mpsc::channel::<Work>();
        let queue = Arc::new(Mutex::new(queue));
        let hire = |number| {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("crew-{number}")).spawn(move || toil(&queue))
        };
        let threads = (0..cores()).map(hire).collect::<Result<_, _>>()?;
        Ok(Self { work, threads })
    }

    /// Waits until every thread is done with what it has in hand; blocks.
    pub(crate) fn dismiss(self) {
        drop(self.work);
        for thread in self.threads {
            // Work that panics is caught, so a thread ends well.
            let _ = thread.join();
        }
    }

    /// Has `work` done by one of the threads. Work whose answer nobody waits for any more is left undone.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Abandoned> {
        let (answer, answered) = oneshot::channel();
        let work = Box::new(move || {
            if !answer.is_closed() {
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(work());
            }
        });
        self.work.send(work).map_err(|_| Abandoned)?;
        answered.await.map_err(|_| Abandoned)
    }
}

/// How many threads a crew has.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn toil(queue: &Mutex<mpsc::Receiver<Work>>) {
    loop {
        let next = queue.lock().map(|queue| queue.recv());
        let Ok(Ok(work)) = next else { return };
        // A panic loses the answer, which tells the caller, and not the thread.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    }
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
}
