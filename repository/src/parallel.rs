//! The same work on many items, on several threads: as many as there are cores, or more where the storage is far away.
//!
//! Knows nothing of the work.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How many threads do work that waits for up to `transfers` answers of the storage at once.
pub(crate) fn workers(transfers: usize) -> usize {
    thread::available_parallelism().map_or(1, usize::from).max(transfers)
}

/// Does `work` for every item, in no particular order, and returns the first failure; after one no new item is begun.
pub(crate) fn each<T: Sync, E: Send>(
    workers: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    each_with(workers, items, || (), |(), item| work(item)).map(drop)
}

/// As [`each`], with something that each thread makes for itself and hands back at the end.
pub(crate) fn each_with<T: Sync, S: Send, E: Send>(
    workers: usize,
    items: &[T],
    make: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> Result<(), E> + Sync,
) -> Result<Vec<S>, E> {
    let next = AtomicUsize::new(0);
    let finished = Mutex::new((Vec::new(), Ok(())));
    let run = || {
        let mut own = make();
        let mut done = Ok(());
        while let (Ok(()), Some(item)) = (&done, items.get(next.fetch_add(1, Ordering::Relaxed))) {
            done = work(&mut own, item);
        }
        let mut finished = finished.lock().expect("pushing to a list does not panic");
        finished.0.push(own);
        if done.is_err() {
            next.store(items.len(), Ordering::Relaxed);
            if finished.1.is_ok() {
                finished.1 = done;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers.min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    let (own, done) = finished.into_inner().expect("pushing to a list does not panic");
    done.map(|()| own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once_and_the_first_failure() {
        let items = (0..1000_u64).collect::<Vec<_>>();
        let sums = each_with(
            4,
            &items,
            || 0,
            |sum, item| {
                *sum += item;
                Ok::<_, ()>(())
            },
        );
        assert_eq!(sums.map(|sums| sums.into_iter().sum::<u64>()), Ok(499_500));
        assert_eq!(each(4, &items, |item| if *item == 7 { Err(*item) } else { Ok(()) }), Err(7));
        assert_eq!(each(4, &[] as &[u8], |_| Err("nothing to do")), Ok(()));
    }
}
