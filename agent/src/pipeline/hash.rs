//! What a thread of the crew does with a range that it read: chunks, digests, and what is new into the session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use repository::{BlobKind, Digest, Session, WriteError};

/// The chunks of one range.
#[derive(Debug)]
pub(crate) struct Hashed {
    /// Their digests, in order.
    pub(crate) digests: Vec<Digest>,
    /// Bytes that they added to the repository, compressed and sealed.
    pub(crate) stored_bytes: u64,
    /// The range's buffers, to be used again.
    pub(crate) buffers: Vec<Vec<u8>>,
}

/// Where chunks go: the session, and the digests of zeros, of which there is one for each length.
#[derive(Debug)]
pub(crate) struct Sink {
    session: Arc<Session>,
    zeros: Mutex<HashMap<usize, Digest>>,
}

impl Sink {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session, zeros: Mutex::default() }
    }

    /// The session that it fills.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The digest of this many zeros, which are then in the repository. Hashed once.
    pub(crate) fn zeros(&self, length: usize) -> Result<Digest, WriteError> {
        let mut zeros = self.zeros.lock().expect("nothing panics while it holds the digests of zeros");
        if let Some(digest) = zeros.get(&length) {
            return Ok(*digest);
        }
        let digest = self.session.save(BlobKind::Data, &vec![0; length])?.digest;
        zeros.insert(length, digest);
        Ok(digest)
    }

    /// Cuts a range, of which each buffer holds whole chunks of `chunk_bytes` (the last as short as it is), and saves each chunk.
    pub(crate) fn take(&self, buffers: Vec<Vec<u8>>, chunk_bytes: usize) -> Result<Hashed, WriteError> {
        let chunks = buffers.iter().flat_map(|buffer| buffer.chunks(chunk_bytes));
        let chunks: Vec<_> = chunks.map(|chunk| (chunk, is_zero(chunk))).collect();
        let data: Vec<_> = chunks.iter().filter(|(_, zero)| !zero).map(|(chunk, _)| *chunk).collect();
        let mut hashed = Digest::of_each(&data).into_iter();
        let mut digests = Vec::with_capacity(chunks.len());
        let mut stored_bytes = 0;
        for (chunk, zero) in chunks {
            if zero {
                digests.push(self.zeros(chunk.len())?);
                continue;
            }
            let digest = hashed.next().expect("every chunk that is not zero was hashed");
            stored_bytes += self.session.save_hashed(BlobKind::Data, digest, chunk)?.stored;
            digests.push(digest);
        }
        Ok(Hashed { digests, stored_bytes, buffers })
    }
}

/// Whether all bytes are zero. Looks at a page at a time: the first one mostly tells, and a page is compared in wide
/// registers.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        let mut bytes = vec![0; 10_000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for place in [0, 4095, 4096, 9_999] {
            bytes[place] = 1;
            assert!(!is_zero(&bytes), "{place}");
            bytes[place] = 0;
        }
    }
}
