//! Walking everything that snapshots refer to, each tree once.
//!
//! Knows nothing of what is done with it.

use std::sync::Mutex;

use crate::id::{Digest, IdSet};
use crate::parallel;
use crate::progress::{Cancelled, Counter, Stage, Watch};
use crate::tree::{Content, Tree};

/// The blobs that snapshots need.
#[derive(Debug, Default)]
pub(crate) struct Used {
    pub(crate) trees: IdSet<Digest>,
    pub(crate) data: IdSet<Digest>,
}

/// Visits every tree below `roots` once, on so many threads. `load` may answer `None` for a tree that it has dealt with.
pub(crate) fn walk<E: Send + From<Cancelled>>(
    workers: usize,
    roots: impl IntoIterator<Item = Digest>,
    load: impl Fn(&Digest) -> Result<Option<Tree>, E> + Sync,
    watch: Watch<'_>,
) -> Result<Used, E> {
    let counter = Counter::new(watch, Stage::Trees, 0);
    let mut trees = IdSet::default();
    let mut level = roots.into_iter().filter(|root| trees.insert(*root)).collect::<Vec<_>>();
    let found = Mutex::new((IdSet::default(), Vec::new()));
    while !level.is_empty() {
        counter.expect_more(level.len());
        parallel::each(workers, &level, |digest| {
            if let Some(tree) = load(digest)? {
                let (data, below) = &mut *found.lock().expect("collecting digests does not panic");
                for node in tree.nodes {
                    match node.content {
                        Content::File { chunks, .. } => data.extend(chunks),
                        Content::Folder { tree } => below.push(tree),
                        Content::Other { .. } => {}
                    }
                }
            }
            counter.one_more().map_err(E::from)
        })?;
        let (_, below) = &mut *found.lock().expect("collecting digests does not panic");
        level = below.drain(..).filter(|tree| trees.insert(*tree)).collect();
    }
    let (data, _) = found.into_inner().expect("collecting digests does not panic");
    Ok(Used { trees, data })
}
