//! Writing a disk and reading it back, on all cores. Blocks; asked to stop, it stops after the chunks in hand.
//!
//! A new image's chunks are hashed once, where it proves most: when they come back from the image's storage. On their way
//! there their MAC alone says that they are the repository's.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use repository::{Aligned, Digest, LANES};

use super::RestoreError;
use super::image::Image;
use super::source::{Piece, Source};
use crate::nbd::Extent;
use crate::pipeline::crew::cores;
use crate::pipeline::hash::is_zero;
use crate::repositories::Watch;

/// How far a restore is: every byte is dealt with twice, written and read back.
pub(super) struct Pace<'a> {
    watch: &'a Watch,
    done: AtomicU64,
    total: u64,
}

impl<'a> Pace<'a> {
    /// The whole of it.
    pub(super) fn new(watch: &'a Watch, source: &Source) -> Self {
        Self { watch, done: AtomicU64::new(0), total: 2 * source.size }
    }

    /// Goes on where the writing ended, in a work of its own.
    pub(super) fn second_half(&self, source: &Source) {
        self.done.store(source.size, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.watch.report(done, self.total)
    }
}

/// What is known of an image before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It is new: all zeros, all holes.
    Zeros,
    /// It holds something, of which what is right already stays.
    Something,
}

/// Bytes of a disk that are written, and synced, before they are read back: so many that the syncs do not count.
const WINDOW_BYTES: u64 = 256 << 20;

/// Bytes of the buffers of all threads that write, and of all that read back, unless single chunks are too large for that.
const BUFFERS_BYTES: u64 = 128 << 20;

/// Writes what of the source the image lacks, and makes it durable; returns how many bytes were written.
pub(super) fn write(
    source: &Source,
    image: &impl Image,
    before: Before,
    pace: &Pace<'_>,
) -> Result<u64, RestoreError> {
    write_some(source, &source.pieces, image, before, (pace, &AtomicBool::new(false)))
}

/// Reads everything back: every chunk must have its digest.
pub(super) fn verify(source: &Source, image: &impl Image, pace: &Pace<'_>) -> Result<(), RestoreError> {
    verify_some(source, &source.pieces, image, (pace, &AtomicBool::new(false)))
}

/// Both, window by window: one is read back while the next is written, so that neither the processor nor the storage
/// waits for the other.
pub(super) fn write_and_verify(
    source: &Source,
    image: &impl Image,
    before: Before,
    pace: &Pace<'_>,
) -> Result<u64, RestoreError> {
    let stop = AtomicBool::new(false);
    let under = (pace, &stop);
    let (written, to_verify) = mpsc::sync_channel::<&[Piece]>(1);
    thread::scope(|scope| {
        let verifier = scope
            .spawn(move || to_verify.iter().try_for_each(|window| verify_some(source, window, image, under)));
        let mut bytes = 0;
        let end = windows(&source.pieces).try_for_each(|window| {
            if before == Before::Zeros {
                let data: Vec<Piece> =
                    window.iter().filter(|piece| !source.is_zero(piece)).copied().collect();
                stretches(&data).try_for_each(|data| image.expect(data)).map_err(RestoreError::Image)?;
            }
            bytes += write_some(source, window, image, before, under)?;
            // A verifier that has ended says why.
            let _ = written.send(window);
            Ok(())
        });
        // The verifier's last window is the last one sent.
        drop(written);
        verifier.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        end.map(|()| bytes)
    })
}

/// Pieces that follow one another, in windows of about [`WINDOW_BYTES`].
fn windows(pieces: &[Piece]) -> impl Iterator<Item = &[Piece]> {
    pieces.chunk_by(|one, next| one.extent.offset / WINDOW_BYTES == next.extent.offset / WINDOW_BYTES)
}

/// Where pieces are, neighbours together.
fn stretches(pieces: &[Piece]) -> impl Iterator<Item = Extent> {
    let touching = pieces.chunk_by(|one, next| one.extent.end() == next.extent.offset);
    touching.map(|pieces| {
        Extent::new(pieces[0].extent.offset, pieces.iter().map(|piece| piece.extent.length).sum())
    })
}

fn write_some(
    source: &Source,
    pieces: &[Piece],
    image: &impl Image,
    before: Before,
    under: (&Pace<'_>, &AtomicBool),
) -> Result<u64, RestoreError> {
    let written = AtomicU64::new(0);
    each(pieces, under, |run, buffer| {
        let bytes = match before {
            Before::Zeros => write_new(source, image, run, buffer)?,
            Before::Something => write_different(source, image, run, buffer)?,
        };
        written.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    })?;
    image.sync().map_err(RestoreError::Image)?;
    Ok(written.into_inner())
}

fn verify_some(
    source: &Source,
    pieces: &[Piece],
    image: &impl Image,
    under: (&Pace<'_>, &AtomicBool),
) -> Result<(), RestoreError> {
    each(pieces, under, |run, buffer| {
        let Some(piece) = missing(source, image, run, buffer)?.pop() else { return Ok(()) };
        // Either the repository gave something else than the chunk's name says, or the image's storage did.
        source.repository.load_blob_into(&piece.digest, buffer)?;
        Err(RestoreError::NotAsWritten(piece.extent))
    })
}

/// The pieces of a run that the image does not hold.
fn missing(
    source: &Source,
    image: &impl Image,
    run: &[Piece],
    buffer: &mut Aligned,
) -> Result<Vec<Piece>, RestoreError> {
    let (mut zeros, mut data) = (Vec::new(), Vec::new());
    for piece in run {
        match source.is_zero(piece) {
            true if image.is_hole(piece.extent).map_err(RestoreError::Image)? => {}
            true => zeros.push(*piece),
            false => data.push(*piece),
        }
    }
    for stretch in stretches(&zeros).chain(stretches(&data)) {
        let read = image.read(stretch.offset, &mut buffer[place(run, stretch)]);
        read.map_err(RestoreError::Image)?;
    }
    zeros.retain(|piece| !is_zero(&buffer[place(run, piece.extent)]));
    let chunks: Vec<&[u8]> = data.iter().map(|piece| &buffer[place(run, piece.extent)]).collect();
    let read = data.iter().zip(Digest::of_each(&chunks));
    zeros.extend(read.filter(|(piece, digest)| piece.digest != *digest).map(|(piece, _)| *piece));
    Ok(zeros)
}

fn write_new(
    source: &Source,
    image: &impl Image,
    run: &[Piece],
    buffer: &mut Aligned,
) -> Result<u64, RestoreError> {
    let mut data = Vec::with_capacity(run.len());
    for piece in run.iter().filter(|piece| !source.is_zero(piece)) {
        let mut chunk = &mut buffer[place(run, piece.extent)];
        source.repository.load_authentic_blob_into(&piece.digest, &mut chunk)?;
        // Zeros of an unusual length: a chunk that another tool cut.
        if !is_zero(chunk) {
            data.push(*piece);
        }
    }
    for stretch in stretches(&data) {
        image.write(stretch.offset, &buffer[place(run, stretch)]).map_err(RestoreError::Image)?;
    }
    Ok(data.iter().map(|piece| piece.extent.length).sum())
}

fn write_different(
    source: &Source,
    image: &impl Image,
    run: &[Piece],
    buffer: &mut Aligned,
) -> Result<u64, RestoreError> {
    let missing = missing(source, image, run, buffer)?;
    for piece in &missing {
        if source.is_zero(piece) {
            image.zero(piece.extent).map_err(RestoreError::Image)?;
        } else {
            source.repository.load_blob_into(&piece.digest, buffer)?;
            image.write(piece.extent.offset, buffer).map_err(RestoreError::Image)?;
        }
    }
    Ok(missing.iter().map(|piece| piece.extent.length).sum())
}

/// Where an extent of a run lies in the run's buffer.
fn place(run: &[Piece], extent: Extent) -> Range<usize> {
    let start = extent.offset - run[0].extent.offset;
    let place = |bytes| usize::try_from(bytes).expect("a run is in memory");
    place(start)..place(start + extent.length)
}

/// The next pieces of those that are left: as many as are hashed side by side and a buffer has room for, and one at least.
fn next_run<'a>(left: &Mutex<&'a [Piece]>) -> Option<&'a [Piece]> {
    let mut left = left.lock().expect("cutting a slice where it is long enough does not panic");
    let start = left.first()?.extent.offset;
    let fits = |piece: &&Piece| piece.extent.end() - start <= BUFFERS_BYTES / threads() as u64;
    let (run, rest) = left.split_at(left.iter().take(LANES).take_while(fits).count().max(1));
    *left = rest;
    Some(run)
}

/// How many write, and as many read back: most of them wait for the image's storage, past any cache, or for the repository's.
fn threads() -> usize {
    4 * cores()
}

/// Has every piece dealt with, in runs, in about their order; the first error ends it, and whatever else looks at `stop`.
/// The buffer has the run's length.
fn each(
    pieces: &[Piece],
    (pace, stop): (&Pace<'_>, &AtomicBool),
    deal: impl Fn(&[Piece], &mut Aligned) -> Result<(), RestoreError> + Sync,
) -> Result<(), RestoreError> {
    let left = Mutex::new(pieces);
    let failure = Mutex::new(None::<RestoreError>);
    let toil = || {
        let mut buffer = Aligned::default();
        while let (false, Some(run)) = (stop.load(Ordering::Relaxed), next_run(&left)) {
            let bytes = run.iter().map(|piece| piece.extent.length).sum();
            buffer.resize(place(run, Extent::new(run[0].extent.offset, bytes)).end);
            let dealt = deal(run, &mut buffer).and_then(|()| match pace.advance(bytes) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(RestoreError::Cancelled),
            });
            if let Err(error) = dealt {
                stop.store(true, Ordering::Relaxed);
                failure.lock().expect("setting a value does not panic").get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads() {
            scope.spawn(toil);
        }
        toil();
    });
    failure.into_inner().expect("setting a value does not panic").map_or(Ok(()), Err)
}
