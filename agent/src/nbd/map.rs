//! Maps of a whole disk, put together from the pieces in which a server gives them.

use super::connection::Nbd;
use super::error::NbdError;
use super::extent::{Extent, Run};

/// How far one request looks: lengths are 32 bits wide, and this is aligned to everything.
pub(super) const STATUS_AT_A_TIME: u64 = 1 << 31;

/// A walk over the state of a range, piece by piece, so that the map of a disk of any size needs little memory.
#[derive(Debug)]
pub struct Walk<'a> {
    nbd: &'a Nbd,
    rest: Extent,
}

impl Walk<'_> {
    /// The runs of the next piece, for each agreed context; all contexts cover the same bytes. None at the end.
    ///
    /// # Errors
    /// See [`NbdError`]. After an error the same piece is asked for again.
    pub async fn next(&mut self) -> Result<Option<Vec<Vec<Run>>>, NbdError> {
        if self.rest.length == 0 {
            return Ok(None);
        }
        let mut contexts = self.nbd.block_status(self.rest).await?;
        // Each context may be answered to a different length: the shortest decides.
        let end = contexts.iter().filter_map(|runs| Some(runs.last()?.extent.end())).min();
        let end = end.unwrap_or(self.rest.end());
        contexts.iter_mut().for_each(|runs| cut(runs, end));
        self.rest = Extent::new(end, self.rest.end() - end);
        Ok(Some(contexts))
    }
}

impl Nbd {
    /// Walks over the state of a range.
    pub fn walk(&self, extent: Extent) -> Walk<'_> {
        Walk { nbd: self, rest: extent }
    }

    /// The map of the whole disk, for each agreed context in the order in which they were asked for.
    /// Neighbours of the same state are joined.
    ///
    /// # Errors
    /// See [`NbdError`]; [`NbdError::TooFragmented`] beyond [`super::Limits::runs`].
    pub async fn maps(&self) -> Result<Vec<Vec<Run>>, NbdError> {
        let mut maps = vec![Vec::new(); self.export().contexts.len()];
        let mut walk = self.walk(Extent::new(0, self.export().size));
        while let Some(contexts) = walk.next().await? {
            for (map, runs) in maps.iter_mut().zip(contexts) {
                runs.into_iter().for_each(|run| run.append_to(map));
            }
            let limit = self.limits().runs;
            if maps.iter().map(Vec::len).sum::<usize>() > limit {
                return Err(NbdError::TooFragmented { server: self.server().into(), limit });
            }
        }
        Ok(maps)
    }

    /// The extents of the whole disk that a context marks: `wanted` is asked for each run, and neighbours
    /// are joined.
    ///
    /// # Errors
    /// As [`Nbd::maps`]; [`NbdError::ContextNotAgreed`] if the connection was made without the context.
    pub async fn extents(
        &self,
        context: &str,
        wanted: impl Fn(&Run) -> bool,
    ) -> Result<Vec<Extent>, NbdError> {
        let index = self.export().contexts.iter().position(|agreed| agreed.name == context);
        let index = index.ok_or_else(|| NbdError::ContextNotAgreed {
            server: self.server().into(),
            export: self.export().name.clone(),
            context: context.into(),
        })?;
        let runs = self.maps().await?.swap_remove(index);
        let mut extents: Vec<Run> = Vec::new();
        for run in runs.into_iter().filter(wanted) {
            Run { flags: 0, ..run }.append_to(&mut extents);
        }
        Ok(extents.into_iter().map(|run| run.extent).collect())
    }
}

/// Leaves out what is at or after `end`.
fn cut(runs: &mut Vec<Run>, end: u64) {
    runs.retain(|run| run.extent.offset < end);
    if let Some(last) = runs.last_mut() {
        last.extent.length = last.extent.end().min(end) - last.extent.offset;
    }
}
