//! Names made of 32 bytes: what a blob, a pack, a snapshot and any stored file are called.
//!
//! Knows only hexadecimal; nothing about what the names stand for or where they are kept.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::str::FromStr;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::hashing::sha256_each;

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id: expected 64 hexadecimal digits")]
pub struct InvalidId {
    /// What was given.
    pub text: String,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The sha256 of `bytes`.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                // The bytes are a sha256 already: its first eight are as good as any hash of it.
                state.write_u64(first_word(&self.0));
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; 64];
                f.write_str(to_hex(&self.0, &mut text))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let mut bytes = [0; 32];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) => Err(InvalidId { text: text.to_owned() }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut text = [0; 64];
                serializer.serialize_str(to_hex(&self.0, &mut text))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("64 hexadecimal digits")
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

id_type! {
    /// What a blob is called: the sha256 of its plain bytes.
    Digest
}
id_type! {
    /// What a pack is called: the sha256 of the stored file.
    PackId
}
id_type! {
    /// What a snapshot is called: the sha256 of the stored file.
    SnapshotId
}
id_type! {
    /// What any stored file but the configuration is called: the sha256 of its stored bytes.
    FileId
}

impl Digest {
    /// The sha256 of each of these, in order: up to [`LANES`](crate::LANES) of about one length take little more than half the time
    /// that they would one by one.
    #[must_use]
    pub fn of_each(chunks: &[&[u8]]) -> Vec<Self> {
        sha256_each(chunks).into_iter().map(Self).collect()
    }
}

impl From<PackId> for FileId {
    fn from(id: PackId) -> Self {
        Self(id.0)
    }
}

impl From<SnapshotId> for FileId {
    fn from(id: SnapshotId) -> Self {
        Self(id.0)
    }
}

fn first_word(bytes: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *bytes;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn to_hex<'a>(bytes: &[u8; 32], text: &'a mut [u8; 64]) -> &'a str {
    hex::encode_to_slice(bytes, text).expect("64 digits hold 32 bytes");
    std::str::from_utf8(text).expect("hexadecimal digits are ASCII")
}

/// Takes the word that an id offers as its hash, as it is.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

/// A map keyed by ids; no second hashing.
pub(crate) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;
/// A set of ids; no second hashing.
pub(crate) type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hexadecimal_round_trip() {
        let digest = Digest::of(b"hello");
        let text = digest.to_string();
        assert_eq!(text, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert!("abc".parse::<Digest>().is_err());
    }
}
