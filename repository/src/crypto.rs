//! Sealing: AES-256-CTR with a Poly1305-AES tag, laid out as restic does: IV ‖ ciphertext ‖ MAC.
//!
//! Owns the keys in memory. Knows nothing of passwords, files or compression.

use std::fmt;

use aes256ctr_poly1305aes::aead::AeadInPlace as _;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key as CipherKey, Nonce, Tag};
use rand::RngCore as _;

/// Bytes of the initialisation vector in front.
pub(crate) const IV: usize = 16;
/// Bytes of the tag behind.
pub(crate) const MAC: usize = 16;
/// Bytes that sealing adds.
pub(crate) const OVERHEAD: usize = IV + MAC;

/// The tag does not fit: another key, or damaged bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not authentic")]
pub(crate) struct NotAuthentic;

/// The three secrets of restic's `crypto.Key`.
#[derive(Clone)]
pub(crate) struct Secrets {
    /// AES-256 key of the stream.
    pub(crate) encrypt: [u8; 32],
    /// AES-128 key of the tag.
    pub(crate) mac_k: [u8; 16],
    /// The point of the tag's polynomial.
    pub(crate) mac_r: [u8; 16],
}

impl Secrets {
    /// New random ones.
    pub(crate) fn random() -> Self {
        let mut secrets = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        let mut random = rand::rng();
        random.fill_bytes(&mut secrets.encrypt);
        random.fill_bytes(&mut secrets.mac_k);
        random.fill_bytes(&mut secrets.mac_r);
        secrets
    }

    /// From 64 bytes in restic's order: stream, tag key, tag point.
    pub(crate) fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut secrets = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        secrets.encrypt.copy_from_slice(&bytes[..32]);
        secrets.mac_k.copy_from_slice(&bytes[32..48]);
        secrets.mac_r.copy_from_slice(&bytes[48..]);
        secrets
    }
}

/// A key that is ready to use; safe to share between threads.
pub(crate) struct Key {
    cipher: Aes256CtrPoly1305Aes,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    pub(crate) fn new(secrets: &Secrets) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&secrets.encrypt);
        bytes[32..48].copy_from_slice(&secrets.mac_k);
        bytes[48..].copy_from_slice(&secrets.mac_r);
        Self { cipher: Aes256CtrPoly1305Aes::new(CipherKey::from_slice(&bytes)) }
    }

    /// Seals `frame` where it stands: its first 16 and last 16 bytes are room, the plain bytes lie between.
    pub(crate) fn seal(&self, frame: &mut [u8]) {
        let (iv, rest) = frame.split_at_mut(IV);
        let (body, mac) = rest.split_at_mut(rest.len() - MAC);
        fresh_iv(iv);
        let tag = self
            .cipher
            .encrypt_in_place_detached(Nonce::from_slice(iv), b"", body)
            .expect("a frame is far below the cipher's limit");
        mac.copy_from_slice(&tag);
    }

    /// Proves the tag, then decrypts `frame` where it stands and returns the plain part.
    pub(crate) fn open<'a>(&self, frame: &'a mut [u8]) -> Result<&'a mut [u8], NotAuthentic> {
        if frame.len() < OVERHEAD {
            return Err(NotAuthentic);
        }
        let (iv, rest) = frame.split_at_mut(IV);
        let (body, mac) = rest.split_at_mut(rest.len() - MAC);
        self.cipher
            .decrypt_in_place_detached(Nonce::from_slice(iv), b"", body, Tag::from_slice(mac))
            .map_err(|_| NotAuthentic)?;
        Ok(body)
    }

    /// Seals a copy of `plain`.
    pub(crate) fn sealed(&self, plain: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(plain.len() + OVERHEAD);
        frame.resize(IV, 0);
        frame.extend_from_slice(plain);
        frame.resize(plain.len() + OVERHEAD, 0);
        self.seal(&mut frame);
        frame
    }
}

/// Restic counts blocks in 128 bits, our cipher in 64: keep away from the one place where they differ.
fn fresh_iv(iv: &mut [u8]) {
    loop {
        rand::rng().fill_bytes(iv);
        if iv[8..12] != [0xff; 4] {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sealed_bytes_open_and_damage_is_seen() {
        let key = Key::new(&Secrets::random());
        let sealed = key.sealed(b"plain");
        assert_eq!(sealed.len(), 5 + OVERHEAD);
        assert_eq!(key.open(&mut sealed.clone()).unwrap(), b"plain");
        for place in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[place] ^= 1;
            assert_eq!(key.open(&mut damaged), Err(NotAuthentic), "byte {place}");
        }
        assert_eq!(key.open(&mut [0; 31]), Err(NotAuthentic));
    }
}
