//! One disk of a view: surveying it and reading it. Over NBD, where each thread that reads has a connection of its own; or
//! from the image that QEMU has copied it into.
//!
//! Every request has its time limit, and any error is the end of the view: what was read before it proves nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::image::{Image, ImageError, Place};
use super::plan::Survey;
use crate::nbd::{ALLOCATION, Extent, Limits, Nbd, NbdError, Run, dirty_context};

/// How long the server, or the storage under an image, may take for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// Why a view cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    /// The server, or the connection to it.
    #[error(transparent)]
    Served(#[from] NbdError),
    /// The image.
    #[error(transparent)]
    Copied(#[from] ImageError),
    /// The storage under the image.
    #[error("the storage under the scratch files did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// A thread.
    #[error("a thread that reads scratch files panicked: a bug")]
    Panicked,
}

/// One disk of a view.
#[derive(Debug)]
pub(crate) struct View {
    source: Source,
    has_changes: bool,
}

/// Where a view is read.
#[derive(Debug)]
enum Source {
    /// An export, and a connection for questions.
    Served { export: Arc<Export>, connection: Box<Nbd> },
    /// An image, in which pieces of `unit` bytes are there or not.
    Copied { image: Arc<Image>, unit: u64 },
}

/// Where an export is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Export {
    socket: PathBuf,
    name: String,
}

/// One thread's connections to exports. What several of them read of a view agrees, whatever the server says of several
/// connections: nobody writes to it.
#[derive(Debug, Default)]
pub(crate) struct Connections(RefCell<HashMap<Arc<Export>, Rc<OnceCell<Nbd>>>>);

/// Who reads a view; as many of them as one likes.
#[derive(Debug, Clone)]
pub(crate) enum Reader {
    /// Over the connection of the thread that reads.
    Served(Arc<Export>),
    /// With the runtime that looks into images: what waits there for a storage that hangs holds no thread up that has work.
    Copied(Arc<Image>, Handle),
}

impl View {
    /// Connects to `export`; with `changes` the bitmap of that name must be offered with it.
    pub(crate) async fn connect(
        socket: &Path,
        export: &str,
        changes: Option<&str>,
    ) -> Result<Self, ViewError> {
        let changes = changes.map(dirty_context);
        let contexts = [Some(ALLOCATION), changes.as_deref()].into_iter().flatten().collect::<Vec<_>>();
        let export = Arc::new(Export { socket: socket.to_owned(), name: export.to_owned() });
        let connection = Box::new(export.connect(&contexts).await?);
        Ok(Self { source: Source::Served { export, connection }, has_changes: changes.is_some() })
    }

    /// Opens the image that a disk was copied into: whole, or only what changed, and then in whole pieces of `unit` bytes.
    pub(crate) async fn open(path: &Path, only_changes: bool, unit: u32) -> Result<Self, ViewError> {
        let path = path.to_owned();
        let image = Arc::new(aside(&Handle::current(), move || Image::open(&path)).await?);
        let source = Source::Copied { image, unit: unit.into() };
        Ok(Self { source, has_changes: only_changes })
    }

    /// The disk's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        match &self.source {
            Source::Served { connection, .. } => connection.export().size,
            Source::Copied { image, .. } => image.size(),
        }
    }

    /// Whether what did not change can be read as well.
    pub(crate) fn shows_all(&self) -> bool {
        matches!(self.source, Source::Served { .. }) || !self.has_changes
    }

    /// What is in a stretch of the disk, and what of it changed.
    pub(crate) async fn survey(&self, stretch: Extent) -> Result<Survey, ViewError> {
        let connection = match &self.source {
            Source::Served { connection, .. } => connection,
            Source::Copied { image, unit } => {
                let (image, unit, only_changes) = (Arc::clone(image), *unit, self.has_changes);
                return aside(&Handle::current(), move || {
                    survey_image(&image, stretch, only_changes.then_some(unit))
                })
                .await;
            }
        };
        let mut survey = Survey { data: Vec::new(), changed: self.has_changes.then(Vec::new) };
        let mut walk = connection.walk(stretch);
        while let Some(contexts) = walk.next().await? {
            let mut contexts = contexts.into_iter();
            // A hole that does not promise zeros is read.
            note(&mut survey.data, contexts.next(), |run| !run.is_zero());
            if let Some(changed) = &mut survey.changed {
                note(changed, contexts.next(), Run::is_dirty);
            }
        }
        Ok(survey)
    }

    /// From here on everything counts as changed. Not for a view that does not show all.
    pub(crate) fn disregard_changes(&mut self) {
        self.has_changes = false;
    }

    /// Whether nothing of `extent` changed.
    pub(crate) async fn is_clean(&self, extent: Extent) -> Result<bool, ViewError> {
        Ok(self.survey(extent).await?.changed.is_some_and(|changed| changed.is_empty()))
    }

    /// Who reads it.
    pub(crate) fn reader(&self) -> Reader {
        match &self.source {
            Source::Served { export, .. } => Reader::Served(Arc::clone(export)),
            Source::Copied { image, .. } => Reader::Copied(Arc::clone(image), Handle::current()),
        }
    }
}

impl Reader {
    /// Reads a range in pieces of `request` bytes, all at a time and each into a buffer of its own, of which `spare` is taken
    /// first.
    pub(crate) async fn read_range(
        &self,
        connections: &Connections,
        range: Extent,
        request: u64,
        mut spare: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, ViewError> {
        let starts =
            (range.offset..range.end()).step_by(usize::try_from(request).expect("it fits in memory"));
        try_join_all(starts.map(|start| {
            let piece = Extent::new(start, request.min(range.end() - start));
            self.read(connections, piece, spare.pop().unwrap_or_default())
        }))
        .await
    }

    /// Reads as much as one request may be, into `buffer`, whose length it takes.
    pub(crate) async fn read(
        &self,
        connections: &Connections,
        range: Extent,
        mut buffer: Vec<u8>,
    ) -> Result<Vec<u8>, ViewError> {
        let length = usize::try_from(range.length).expect("it fits in memory");
        buffer.resize(length, 0);
        match self {
            Reader::Served(export) => {
                let connection = connections.to(export);
                let connection = connection.get_or_try_init(|| export.connect(&[])).await?;
                Ok(connection.read(range.offset, buffer).await?)
            }
            Reader::Copied(image, runtime) => {
                let image = Arc::clone(image);
                aside(runtime, move || image.read(range.offset, &mut buffer).map(|()| buffer)).await
            }
        }
    }
}

impl Connections {
    /// The one to this export, made when it is first used.
    fn to(&self, export: &Arc<Export>) -> Rc<OnceCell<Nbd>> {
        Rc::clone(self.0.borrow_mut().entry(Arc::clone(export)).or_default())
    }
}

impl Export {
    async fn connect(&self, contexts: &[&str]) -> Result<Nbd, NbdError> {
        let limits = Limits { request: REQUEST_LIMIT, ..Limits::default() };
        Nbd::connect(&self.socket, &self.name, contexts, limits).await
    }
}

/// A look into an image, aside, since its storage may hang.
async fn aside<T: Send + 'static>(
    runtime: &Handle,
    look: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ViewError> {
    match tokio::time::timeout(REQUEST_LIMIT, runtime.spawn_blocking(look)).await {
        Ok(Ok(found)) => Ok(found?),
        Ok(Err(_)) => Err(ViewError::Panicked),
        Err(_) => Err(ViewError::Slow(REQUEST_LIMIT)),
    }
}

/// What an image has of a stretch. Of one that has only what changed, in pieces of `unit` bytes: a piece that is there in
/// part would be read as if the rest of it were zeros.
fn survey_image(image: &Image, stretch: Extent, unit: Option<u64>) -> Result<Survey, ImageError> {
    let (mut data, mut there) = (Vec::new(), Vec::new());
    for (extent, place) in image.map(stretch)? {
        match place {
            Place::Absent => continue,
            Place::Zeros => {}
            Place::At(_) => join(&mut data, extent),
        }
        join(&mut there, extent);
    }
    let Some(unit) = unit else {
        let whole = there == [stretch] || stretch.length == 0;
        return if whole { Ok(Survey { data, changed: None }) } else { Err(image.incomplete(stretch)) };
    };
    let ends_whole = |end: u64| end.is_multiple_of(unit) || end == image.size();
    match there.iter().find(|it| !it.offset.is_multiple_of(unit) || !ends_whole(it.end())) {
        Some(torn) => Err(image.incomplete(*torn)),
        None => Ok(Survey { data, changed: Some(there) }),
    }
}

/// Appends the runs that are wanted, neighbours joined.
fn note(extents: &mut Vec<Extent>, runs: Option<Vec<Run>>, wanted: impl Fn(&Run) -> bool) {
    runs.unwrap_or_default().into_iter().filter(wanted).for_each(|run| join(extents, run.extent));
}

/// Appends an extent, to the last one where it goes on.
fn join(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.end() == extent.offset => last.length += extent.length,
        _ => extents.push(extent),
    }
}
