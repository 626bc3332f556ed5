//! Sealed files: the backend together with the key, and restic's coding of everything that is not a pack.
//!
//! Owns compression and sealing of JSON files and the errors of reading. Knows nothing of what the JSON means.

use std::cell::RefCell;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::{Backend, BackendError, FileKind, FileName};
use crate::blob::{BlobEntry, BlobKind};
use crate::crypto::Key;
use crate::direct::Aligned;
use crate::id::{Digest, FileId, PackId, SnapshotId};
use crate::parallel;

/// First byte of a compressed file in format version 2; without it the JSON stands plain.
const COMPRESSED: u8 = 2;

/// What is wrong with bytes that were read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The tag does not fit: bytes were changed, or sealed by another key.
    #[error("its bytes were changed (the MAC does not match)")]
    NotAuthentic,
    /// The file ends too early.
    #[error("it is cut off")]
    CutOff,
    /// The sha256 is not the one that its name promises.
    #[error("its sha256 is {found}")]
    WrongDigest {
        /// The one found, as hexadecimal digits.
        found: String,
    },
    /// Authentic, and still not what the format wants.
    #[error("it is malformed: {what}")]
    Malformed {
        /// The details.
        what: String,
    },
}

impl Damage {
    pub(crate) fn malformed(what: &(impl ToString + ?Sized)) -> Self {
        Self::Malformed { what: what.to_string() }
    }
}

/// Why something could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The storage failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A file other than a pack is damaged.
    #[error("{file} is damaged: {damage}; run a check")]
    DamagedFile {
        /// The file.
        file: FileName,
        /// What is wrong.
        damage: Damage,
    },
    /// A blob in a pack is damaged.
    #[error("{kind} blob {digest} in pack {pack} is damaged: {damage}; run a check that reads the data")]
    DamagedBlob {
        /// The kind of the blob.
        kind: BlobKind,
        /// The blob.
        digest: Digest,
        /// The pack that holds it.
        pack: PackId,
        /// What is wrong.
        damage: Damage,
    },
    /// No index file lists the blob.
    #[error("{kind} blob {digest} is in no index; run a check")]
    MissingBlob {
        /// The kind of the blob.
        kind: BlobKind,
        /// The blob.
        digest: Digest,
    },
    /// There is no such snapshot (any more).
    #[error("there is no snapshot {id}; it may have been forgotten")]
    NoSnapshot {
        /// Which.
        id: SnapshotId,
    },
    /// The snapshot's tree has nothing at this path.
    #[error("there is no {path:?} in the tree {tree}")]
    NoSuchPath {
        /// The path.
        path: String,
        /// Where the search began.
        tree: Digest,
    },
}

/// Memory that a blob is read into.
pub trait Room {
    /// Has this many bytes from now on, whatever they are; `None` where it cannot.
    fn make(&mut self, length: usize) -> Option<&mut [u8]>;
}

impl Room for Vec<u8> {
    fn make(&mut self, length: usize) -> Option<&mut [u8]> {
        self.resize(length, 0);
        Some(self)
    }
}

impl Room for Aligned {
    fn make(&mut self, length: usize) -> Option<&mut [u8]> {
        self.resize(length);
        Some(self)
    }
}

/// Room for exactly so many bytes.
impl Room for &mut [u8] {
    fn make(&mut self, length: usize) -> Option<&mut [u8]> {
        (self.len() == length).then_some(self)
    }
}

/// A backend and the master key of the repository in it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) key: Key,
}

impl Store {
    /// How many threads may usefully read and write at once.
    pub(crate) fn workers(&self) -> usize {
        parallel::workers(self.backend.transfers())
    }

    /// Writes `value` as compressed, sealed JSON; durable on return.
    pub(crate) fn write_json<T: Serialize>(&self, kind: FileKind, value: &T) -> Result<FileId, BackendError> {
        let json =
            serde_json::to_vec(value).expect("our own structures have string keys and no failing parts");
        let mut plain = vec![COMPRESSED];
        plain.extend(
            zstd::bulk::compress(&json, 3).expect("the output buffer has the size that zstd asks for"),
        );
        let sealed = self.key.sealed(&plain);
        let id = FileId::of(&sealed);
        self.backend.write(&FileName::Of(kind, id), &sealed)?;
        Ok(id)
    }

    /// Reads what [`Self::write_json`] or restic wrote.
    pub(crate) fn read_json<T: DeserializeOwned>(&self, kind: FileKind, id: FileId) -> Result<T, ReadError> {
        let file = FileName::Of(kind, id);
        let mut sealed = self.backend.read(&file)?;
        let found = FileId::of(&sealed);
        let damaged = |damage| ReadError::DamagedFile { file, damage };
        if found != id {
            return Err(damaged(Damage::WrongDigest { found: found.to_string() }));
        }
        let plain = self.key.open(&mut sealed).map_err(|_| damaged(Damage::NotAuthentic))?;
        let parsed = match plain {
            [COMPRESSED, compressed @ ..] => {
                let json =
                    zstd::stream::decode_all(&*compressed).map_err(|e| damaged(Damage::malformed(&e)))?;
                serde_json::from_slice(&json)
            }
            json => serde_json::from_slice(json),
        };
        parsed.map_err(|error| damaged(Damage::malformed(&error)))
    }

    /// Reads one blob of a pack into `plain`, which is as long as the blob; proves the tag and the digest.
    pub(crate) fn read_blob(
        &self,
        pack: PackId,
        blob: &BlobEntry,
        plain: &mut [u8],
    ) -> Result<(), ReadError> {
        self.read_authentic_blob(pack, blob, plain)?;
        prove(blob, plain).map_err(|damage| damaged(pack, blob, damage))
    }

    /// As [`Self::read_blob`]; proves the tag, and leaves the digest to the caller.
    pub(crate) fn read_authentic_blob(
        &self,
        pack: PackId,
        blob: &BlobEntry,
        plain: &mut [u8],
    ) -> Result<(), ReadError> {
        thread_local! {
            static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        SEALED.with_borrow_mut(|sealed| {
            sealed.resize(blob.length as usize, 0);
            let name = FileName::pack(pack);
            let damaged = |damage| damaged(pack, blob, damage);
            self.backend.read_range(&name, u64::from(blob.offset), sealed).map_err(|error| match error {
                BackendError::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                    damaged(Damage::CutOff)
                }
                other => other.into(),
            })?;
            open_blob(&self.key, blob, sealed, plain).map_err(damaged)
        })
    }
}

/// A blob that is not as long as the caller knows it to be.
pub(crate) fn wrong_length(pack: PackId, blob: &BlobEntry) -> ReadError {
    let length = blob.plain_length();
    damaged(pack, blob, Damage::malformed(&format!("it has {length} bytes, which is not what was expected")))
}

fn damaged(pack: PackId, blob: &BlobEntry, damage: Damage) -> ReadError {
    ReadError::DamagedBlob { kind: blob.kind, digest: blob.id, pack, damage }
}

/// Turns the sealed bytes of one blob into plain ones, as many as the blob has, and proves them by tag and digest;
/// `sealed` is used up as scratch space.
pub(crate) fn unseal_blob(
    key: &Key,
    blob: &BlobEntry,
    sealed: &mut [u8],
    plain: &mut [u8],
) -> Result<(), Damage> {
    open_blob(key, blob, sealed, plain)?;
    prove(blob, plain)
}

fn open_blob(key: &Key, blob: &BlobEntry, sealed: &mut [u8], plain: &mut [u8]) -> Result<(), Damage> {
    thread_local! {
        static DECOMPRESSOR: RefCell<zstd::bulk::Decompressor<'static>> = RefCell::default();
    }
    let opened = key.open(sealed).map_err(|_| Damage::NotAuthentic)?;
    if blob.raw_length == 0 {
        plain.copy_from_slice(opened);
    } else {
        let length = DECOMPRESSOR
            .with_borrow_mut(|zstd| zstd.decompress_to_buffer(opened, plain))
            .map_err(|error| Damage::malformed(&format!("zstd: {error}")))?;
        if length != plain.len() {
            return Err(Damage::malformed(&format!("{length} bytes where the index says {}", plain.len())));
        }
    }
    Ok(())
}

fn prove(blob: &BlobEntry, plain: &[u8]) -> Result<(), Damage> {
    let found = Digest::of(plain);
    if found == blob.id { Ok(()) } else { Err(Damage::WrongDigest { found: found.to_string() }) }
}
