//! Sealing: AES-256-CTR with a Poly1305-AES tag, laid out as restic does: IV ‖ ciphertext ‖ MAC.
//!
//! Owns the keys in memory. Knows nothing of passwords, files or compression.

use std::fmt;

use aes::cipher::{BlockEncrypt as _, InnerIvInit as _, KeyInit as _, StreamCipher as _};
use aes::{Aes128, Aes256};
use ctr::{Ctr128BE, CtrCore};
use poly1305::Poly1305;
use poly1305::universal_hash::UniversalHash as _;
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

/// Bytes that are encrypted and then authenticated while they are in the processor's nearest cache.
const STRIDE: usize = 16 << 10;
/// Bytes of a block of Poly1305.
const BLOCK: usize = 16;

/// A key that is ready to use; safe to share between threads.
pub(crate) struct Key {
    stream: Aes256,
    mac_k: Aes128,
    mac_r: [u8; 16],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    pub(crate) fn new(secrets: &Secrets) -> Self {
        let Secrets { encrypt, mac_k, mac_r } = secrets;
        Self { stream: Aes256::new(encrypt.into()), mac_k: Aes128::new(mac_k.into()), mac_r: *mac_r }
    }

    /// The stream of one IV. It counts its blocks in 128 bits, as restic does.
    fn stream(&self, iv: &[u8]) -> Ctr128BE<Aes256> {
        Ctr128BE::from_core(CtrCore::inner_iv_init(self.stream.clone(), iv.into()))
    }

    /// The tag's polynomial of one IV: Poly1305-AES has the encrypted IV for its second half.
    fn polynomial(&self, iv: &[u8]) -> Poly1305 {
        let mut key = poly1305::Key::default();
        let (r, s) = key.split_at_mut(BLOCK);
        r.copy_from_slice(&self.mac_r);
        s.copy_from_slice(iv);
        self.mac_k.encrypt_block(s.into());
        Poly1305::new(&key)
    }

    /// Seals `frame` where it stands: its first 16 and last 16 bytes are room, the plain bytes lie between.
    pub(crate) fn seal(&self, frame: &mut [u8]) {
        let (iv, rest) = frame.split_at_mut(IV);
        let (body, mac) = rest.split_at_mut(rest.len() - MAC);
        rand::rng().fill_bytes(iv);
        let (mut stream, mut polynomial) = (self.stream(iv), self.polynomial(iv));
        let mut strides = body.chunks_exact_mut(STRIDE);
        for stride in &mut strides {
            stream.apply_keystream(stride);
            polynomial.update_padded(stride);
        }
        let rest = strides.into_remainder();
        stream.apply_keystream(rest);
        mac.copy_from_slice(&tag(polynomial, rest));
    }

    /// Proves the tag, then decrypts `frame` where it stands and returns the plain part.
    pub(crate) fn open<'a>(&self, frame: &'a mut [u8]) -> Result<&'a mut [u8], NotAuthentic> {
        if frame.len() < OVERHEAD {
            return Err(NotAuthentic);
        }
        let (iv, rest) = frame.split_at_mut(IV);
        let (body, mac) = rest.split_at_mut(rest.len() - MAC);
        let found = tag(self.polynomial(iv), body);
        // All bytes are looked at, so that the time tells nothing.
        if found.iter().zip(mac).fold(0, |all, (found, wanted)| all | (found ^ *wanted)) != 0 {
            return Err(NotAuthentic);
        }
        self.stream(iv).apply_keystream(body);
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

/// The tag once `bytes` are in it too. Whole blocks go in several at a time; one by one takes a quarter more time.
fn tag(mut polynomial: Poly1305, bytes: &[u8]) -> poly1305::Tag {
    let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK);
    polynomial.update_padded(blocks);
    polynomial.compute_unpadded(rest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aes256ctr_poly1305aes::Aes256CtrPoly1305Aes;
    use aes256ctr_poly1305aes::aead::AeadInPlace as _;

    use super::*;

    /// Another's implementation of the same, which restic's repositories are known to open with.
    #[test]
    fn what_is_sealed_is_what_others_seal() {
        let secrets = Secrets::random();
        let bytes = [&secrets.encrypt[..], &secrets.mac_k, &secrets.mac_r].concat();
        let other = Aes256CtrPoly1305Aes::new(bytes.as_slice().into());
        for length in [0, 1, 15, 16, 17, 63, 64, 65, 1000, STRIDE - 1, STRIDE, STRIDE + 1, 3 * STRIDE + 77] {
            let plain = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>();
            let sealed = Key::new(&secrets).sealed(&plain);
            let (iv, rest) = sealed.split_at(IV);
            let (body, mac) = rest.split_at(length);
            let mut body = body.to_vec();
            // The other one counts blocks in 64 bits, which is the same unless the IV is within a few of their end.
            let opened = other.decrypt_in_place_detached(iv.into(), b"", &mut body, mac.into());
            assert!(opened.is_ok() && body == plain, "{length} bytes");
        }
    }

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
