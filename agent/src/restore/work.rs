//! Writing a disk and reading it back, on all cores. Blocks; asked to stop, it stops after the chunks in hand.
//!
//! A new image's chunks are hashed once, where it proves most: when they come back from the image's storage. On their way
//! there their MAC alone says that they are the repository's.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use repository::{Aligned, Digest};

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
                data(source, window).try_for_each(|run| image.expect(run)).map_err(RestoreError::Image)?;
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

/// What of a window is not zeros, neighbours together.
fn data<'a>(source: &'a Source, window: &'a [Piece]) -> impl Iterator<Item = Extent> + 'a {
    let runs = window.chunk_by(|one, next| source.is_zero(one) == source.is_zero(next));
    runs.filter(|run| !source.is_zero(&run[0]))
        .map(|run| Extent::new(run[0].extent.offset, run.iter().map(|piece| piece.extent.length).sum()))
}

fn write_some(
    source: &Source,
    pieces: &[Piece],
    image: &impl Image,
    before: Before,
    under: (&Pace<'_>, &AtomicBool),
) -> Result<u64, RestoreError> {
    let written = AtomicU64::new(0);
    each(pieces, under, |piece, buffer| {
        let bytes = match before {
            Before::Zeros => write_new(source, image, piece, buffer)?,
            Before::Something => write_different(source, image, piece, buffer)?,
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
    each(pieces, under, |piece, buffer| {
        if holds(source, image, piece, buffer)? {
            return Ok(());
        }
        // Either the repository gave something else than the chunk's name says, or the image's storage did.
        source.repository.load_blob_into(&piece.digest, buffer)?;
        Err(RestoreError::NotAsWritten(piece.extent))
    })
}

/// Whether the image has a chunk already.
fn holds(
    source: &Source,
    image: &impl Image,
    piece: &Piece,
    buffer: &mut Aligned,
) -> Result<bool, RestoreError> {
    let zero = source.is_zero(piece);
    if zero && image.is_hole(piece.extent).map_err(RestoreError::Image)? {
        return Ok(true);
    }
    buffer.resize(length(piece)?);
    image.read(piece.extent.offset, buffer).map_err(RestoreError::Image)?;
    Ok(if zero { is_zero(buffer) } else { Digest::of(buffer) == piece.digest })
}

fn write_new(
    source: &Source,
    image: &impl Image,
    piece: &Piece,
    buffer: &mut Aligned,
) -> Result<u64, RestoreError> {
    if source.is_zero(piece) {
        return Ok(0);
    }
    source.repository.load_authentic_blob_into(&piece.digest, buffer)?;
    // Zeros of an unusual length: a chunk that another tool cut.
    if is_zero(buffer) {
        return Ok(0);
    }
    image.write(piece.extent.offset, buffer).map_err(RestoreError::Image)?;
    Ok(piece.extent.length)
}

fn write_different(
    source: &Source,
    image: &impl Image,
    piece: &Piece,
    buffer: &mut Aligned,
) -> Result<u64, RestoreError> {
    if holds(source, image, piece, buffer)? {
        return Ok(0);
    }
    if source.is_zero(piece) {
        image.zero(piece.extent).map_err(RestoreError::Image)?;
    } else {
        source.repository.load_blob_into(&piece.digest, buffer)?;
        image.write(piece.extent.offset, buffer).map_err(RestoreError::Image)?;
    }
    Ok(piece.extent.length)
}

fn length(piece: &Piece) -> Result<usize, RestoreError> {
    usize::try_from(piece.extent.length).map_err(|error| RestoreError::Image(io::Error::other(error)))
}

/// Has every piece dealt with, in about their order; the first error ends it, and whatever else looks at `stop`.
fn each(
    pieces: &[Piece],
    (pace, stop): (&Pace<'_>, &AtomicBool),
    deal: impl Fn(&Piece, &mut Aligned) -> Result<(), RestoreError> + Sync,
) -> Result<(), RestoreError> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None::<RestoreError>);
    let toil = || {
        let mut buffer = Aligned::default();
        while let (false, Some(piece)) =
            (stop.load(Ordering::Relaxed), pieces.get(next.fetch_add(1, Ordering::Relaxed)))
        {
            let dealt = deal(piece, &mut buffer).and_then(|()| match pace.advance(piece.extent.length) {
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
        // Most of them wait for the image's storage, past any cache, or for the repository's.
        for _ in 1..4 * cores() {
            scope.spawn(toil);
        }
        toil();
    });
    failure.into_inner().expect("setting a value does not panic").map_or(Ok(()), Err)
}
