//! Packs: sealed blobs one after the other, then a sealed header that lists them, then its length.
//!
//! Owns the layout of restic's design document, "Pack Format". Knows nothing of where packs are stored.

use std::io;

use sha2::{Digest as _, Sha256};

use crate::blob::{BlobEntry, BlobKind};
use crate::compression::{self, Compression};
use crate::crypto::{IV, Key, OVERHEAD};
use crate::direct::Aligned;
use crate::id::{Digest, PackId};
use crate::index::IndexPack;
use crate::store::Damage;

/// A pack is closed once it has this many bytes: restic's default.
pub(crate) const TARGET_SIZE: usize = 16 << 20;

/// Bytes of the header's length at the very end.
const LENGTH_FIELD: usize = 4;
/// Kind, length, digest.
const PLAIN_ENTRY: usize = 1 + 4 + 32;
/// Kind, length, plain length, digest.
const COMPRESSED_ENTRY: usize = PLAIN_ENTRY + 4;

/// A blob that does not fit in what a pack can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a blob of {length} bytes is too large for a pack")]
pub struct TooLarge {
    /// Its plain bytes.
    pub length: usize,
}

/// A pack being filled, together with what filling needs; one thread works on it at a time.
///
/// Blobs are compressed straight into its buffer and sealed there: no byte is copied in between.
pub(crate) struct PackBuilder {
    /// All of it initialised; `used` bytes of it are the pack so far.
    buffer: Aligned,
    used: usize,
    blobs: Vec<BlobEntry>,
    /// Runs along while the bytes are still in the processor's cache.
    hasher: Sha256,
}

/// A pack that only has to be written.
pub(crate) struct FinishedPack {
    /// What an index file will say about it.
    pub(crate) listing: IndexPack,
    buffer: Aligned,
    used: usize,
}

impl FinishedPack {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.used]
    }

    /// Gives the buffer back for the next pack.
    pub(crate) fn into_parts(self) -> (IndexPack, Aligned) {
        (self.listing, self.buffer)
    }
}

impl PackBuilder {
    /// An empty pack that reuses `buffer`, whatever it holds.
    pub(crate) fn new(buffer: Aligned) -> Self {
        Self { buffer, used: 0, blobs: Vec::new(), hasher: Sha256::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used >= TARGET_SIZE
    }

    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Compresses, seals and appends; returns the bytes that it takes in the pack.
    pub(crate) fn add(
        &mut self,
        key: &Key,
        compression: &mut Compression,
        (kind, id): (BlobKind, Digest),
        plain: &[u8],
    ) -> Result<u64, TooLarge> {
        let too_large = || TooLarge { length: plain.len() };
        let raw_length = u32::try_from(plain.len()).map_err(|_| too_large())?;
        let start = self.used;
        self.make_room(compression::room_for(plain.len()) + OVERHEAD).ok_or_else(too_large)?;
        let body = &mut self.buffer[start + IV..];
        let compressed = compression.compress(plain, body);
        let length = compressed.unwrap_or_else(|| {
            body[..plain.len()].copy_from_slice(plain);
            plain.len()
        });
        let frame = &mut self.buffer[start..start + length + OVERHEAD];
        key.seal(frame);
        let raw_length = if compressed.is_some() { raw_length } else { 0 };
        let length = frame.len();
        self.record(kind, id, length, raw_length).ok_or_else(too_large)
    }

    /// Appends a blob that is sealed already, by the same key; the caller has proved it.
    pub(crate) fn add_sealed(&mut self, blob: &BlobEntry, sealed: &[u8]) -> Result<u64, TooLarge> {
        let too_large = || TooLarge { length: blob.plain_length() };
        self.make_room(sealed.len()).ok_or_else(too_large)?;
        self.buffer[self.used..self.used + sealed.len()].copy_from_slice(sealed);
        self.record(blob.kind, blob.id, sealed.len(), blob.raw_length).ok_or_else(too_large)
    }

    /// Appends everything that `other` holds and returns its buffer.
    pub(crate) fn absorb(&mut self, other: Self) -> Result<Aligned, TooLarge> {
        for blob in &other.blobs {
            let start = blob.offset as usize;
            self.add_sealed(blob, &other.buffer[start..start + blob.length as usize])?;
        }
        Ok(other.buffer)
    }

    fn make_room(&mut self, bytes: usize) -> Option<()> {
        let end = self.used.checked_add(bytes)?;
        u32::try_from(end).ok()?;
        if self.buffer.len() < end {
            self.buffer.resize(end);
        }
        Some(())
    }

    fn record(&mut self, kind: BlobKind, id: Digest, length: usize, raw_length: u32) -> Option<u64> {
        let offset = u32::try_from(self.used).ok()?;
        let short = u32::try_from(length).ok()?;
        self.hasher.update(&self.buffer[self.used..self.used + length]);
        self.used += length;
        self.blobs.push(BlobEntry { id, kind, offset, length: short, raw_length });
        Some(u64::from(short))
    }

    /// Appends the header and names the pack.
    pub(crate) fn finish(mut self, key: &Key) -> FinishedPack {
        let header = key.sealed(&encode_header(&self.blobs));
        let length = u32::try_from(header.len()).expect("a header is far smaller than its pack");
        let end = self.used + header.len() + LENGTH_FIELD;
        if self.buffer.len() < end {
            self.buffer.resize(end);
        }
        let (place, tail) = self.buffer[self.used..end].split_at_mut(header.len());
        place.copy_from_slice(&header);
        tail.copy_from_slice(&length.to_le_bytes());
        self.hasher.update(&self.buffer[self.used..end]);
        let id = PackId(self.hasher.finalize().into());
        FinishedPack { listing: IndexPack { id, blobs: self.blobs }, buffer: self.buffer, used: end }
    }
}

fn encode_header(blobs: &[BlobEntry]) -> Vec<u8> {
    let mut header = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY);
    for blob in blobs {
        let compressed = blob.raw_length != 0;
        header.push(match (blob.kind, compressed) {
            (BlobKind::Data, false) => 0,
            (BlobKind::Tree, false) => 1,
            (BlobKind::Data, true) => 2,
            (BlobKind::Tree, true) => 3,
        });
        header.extend(blob.length.to_le_bytes());
        if compressed {
            header.extend(blob.raw_length.to_le_bytes());
        }
        header.extend(blob.id.0);
    }
    header
}

/// How large a pack with these blobs is, with its header: bytes.
pub(crate) fn expected_size(blobs: &[BlobEntry]) -> u64 {
    let fixed = (OVERHEAD + LENGTH_FIELD) as u64;
    let each = |blob: &BlobEntry| {
        let entry = if blob.raw_length == 0 { PLAIN_ENTRY } else { COMPRESSED_ENTRY };
        u64::from(blob.length) + entry as u64
    };
    blobs.iter().map(each).sum::<u64>() + fixed
}

/// The blobs that a pack's own header lists.
pub(crate) fn parse(key: &Key, pack: &[u8]) -> Result<Vec<BlobEntry>, Damage> {
    let (rest, length) = pack.split_last_chunk::<LENGTH_FIELD>().ok_or(Damage::CutOff)?;
    let length = u32::from_le_bytes(*length) as usize;
    let start = rest.len().checked_sub(length).ok_or(Damage::CutOff)?;
    let mut sealed = rest[start..].to_vec();
    let header = key.open(&mut sealed).map_err(|_| Damage::NotAuthentic)?;
    decode_header(header).map_err(|error| Damage::malformed(&error))
}

fn decode_header(mut header: &[u8]) -> io::Result<Vec<BlobEntry>> {
    use io::Read as _;
    let mut blobs = Vec::new();
    let mut offset = 0_u32;
    while !header.is_empty() {
        let mut kind = [0];
        let mut word = [0; 4];
        header.read_exact(&mut kind)?;
        let (kind, compressed) = match kind[0] {
            0 => (BlobKind::Data, false),
            1 => (BlobKind::Tree, false),
            2 => (BlobKind::Data, true),
            3 => (BlobKind::Tree, true),
            other => return Err(io::Error::other(format!("unknown kind of blob {other} in the header"))),
        };
        header.read_exact(&mut word)?;
        let length = u32::from_le_bytes(word);
        let mut raw_length = 0;
        if compressed {
            header.read_exact(&mut word)?;
            raw_length = u32::from_le_bytes(word);
        }
        let mut id = [0; 32];
        header.read_exact(&mut id)?;
        blobs.push(BlobEntry { id: Digest(id), kind, offset, length, raw_length });
        offset = offset.checked_add(length).ok_or_else(|| io::Error::other("a pack of more than 4 GiB"))?;
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::compression::Effort;
    use crate::crypto::Secrets;
    use crate::store::unseal_blob;

    proptest! {
        #[test]
        fn a_pack_tells_what_it_holds(blobs in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(0..4_u8, 0..3000)), 1..20), cut in 0..20_usize) {
            let key = Key::new(&Secrets::random());
            let mut zstd = Compression::new(&Effort::new(1)).unwrap();
            let (mut first, mut second) = (PackBuilder::new(Aligned::zeroed(10)), PackBuilder::new(Aligned::default()));
            for (number, (tree, plain)) in blobs.iter().enumerate() {
                let kind = if *tree { BlobKind::Tree } else { BlobKind::Data };
                let pack = if number < cut { &mut first } else { &mut second };
                pack.add(&key, &mut zstd, (kind, Digest::of(plain)), plain).unwrap();
            }
            first.absorb(second).unwrap();
            let pack = first.finish(&key);
            prop_assert_eq!(pack.listing.id, PackId::of(pack.bytes()));
            prop_assert_eq!(expected_size(&pack.listing.blobs), pack.bytes().len() as u64);
            let listed = parse(&key, pack.bytes()).unwrap();
            prop_assert_eq!(&listed, &pack.listing.blobs);
            let mut plain = Vec::new();
            for (entry, (_, expected)) in listed.iter().zip(&blobs) {
                let start = entry.offset as usize;
                let mut sealed = pack.bytes()[start..start + entry.length as usize].to_vec();
                plain.resize(entry.plain_length(), 0);
                unseal_blob(&key, entry, &mut sealed, &mut plain).unwrap();
                prop_assert_eq!(&plain, expected);
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_header(&bytes);
            let _ = parse(&Key::new(&Secrets::random()), &bytes);
        }
    }
}
