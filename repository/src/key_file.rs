//! `keys/`: the master key, sealed by a key that scrypt makes from the password.
//!
//! Owns restic's key file. Knows nothing of what the master key seals.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, BackendError, FileKind, FileName};
use crate::crypto::{Key, Secrets};
use crate::id::FileId;
use crate::keys::KeyInfo;
use crate::machine;

/// How expensive it is to try a password: scrypt's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyDerivation {
    /// As restic does: about half a second on this machine, with 32 MiB of memory.
    #[default]
    Calibrated,
    /// Fixed parameters; for tests, and for a password that is a long random text anyway.
    Fixed {
        /// Binary logarithm of N.
        log_n: u8,
        /// Block size.
        r: u32,
        /// Rounds.
        p: u32,
    },
}

/// How long one try should take.
const TARGET: Duration = Duration::from_millis(500);
const LOG_N: u8 = 15;
const R: u32 = 8;

impl KeyDerivation {
    /// `None` for fixed parameters that scrypt, or our limit on memory, does not allow.
    fn params(self) -> Option<scrypt::Params> {
        match self {
            Self::Fixed { log_n, r, p } => params(log_n, r, p),
            Self::Calibrated => {
                let start = Instant::now();
                derive("calibration", &[0; 64], &params(LOG_N, R, 1)?)?;
                let rounds = TARGET.as_millis() / start.elapsed().as_millis().max(1);
                params(LOG_N, R, u32::try_from(rounds.clamp(1, 16)).ok()?)
            }
        }
    }
}

/// Parameters within scrypt's own limits, and below 1 GiB of memory: a key file is not authentic before it is opened.
fn params(log_n: u8, r: u32, p: u32) -> Option<scrypt::Params> {
    let memory = 128_u64.checked_mul(u64::from(r))?.checked_shl(u32::from(log_n))?;
    if log_n >= 32 || memory > 1 << 30 || p > 1 << 10 {
        return None;
    }
    scrypt::Params::new(log_n, r, p, 64).ok()
}

fn derive(password: &str, salt: &[u8], params: &scrypt::Params) -> Option<Key> {
    let mut bytes = [0; 64];
    scrypt::scrypt(password.as_bytes(), salt, params, &mut bytes).ok()?;
    Some(Key::new(&Secrets::from_bytes(&bytes)))
}

/// A key file, as restic writes it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeyFile {
    created: DateTime<Utc>,
    username: String,
    hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

#[derive(Serialize, Deserialize)]
struct MasterKey {
    mac: MacKey,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct MacKey {
    k: String,
    r: String,
}

impl KeyFile {
    /// Seals `secrets` with `password`; `None` when the derivation's parameters are not possible.
    pub(crate) fn seal(secrets: &Secrets, password: &str, derivation: KeyDerivation) -> Option<Self> {
        let params = derivation.params()?;
        let salt: [u8; 64] = rand::random();
        let master = MasterKey {
            mac: MacKey { k: BASE64.encode(secrets.mac_k), r: BASE64.encode(secrets.mac_r) },
            encrypt: BASE64.encode(secrets.encrypt),
        };
        let json = serde_json::to_vec(&master).expect("three texts always become JSON");
        let key = derive(password, &salt, &params)?;
        Some(Self {
            created: Utc::now(),
            username: machine::user_name(),
            hostname: machine::host_name(),
            kdf: "scrypt".to_owned(),
            n: 1 << params.log_n(),
            r: params.r(),
            p: params.p(),
            salt: BASE64.encode(salt),
            data: BASE64.encode(key.sealed(&json)),
        })
    }

    /// Writes it under its digest, which is its id.
    pub(crate) fn write(&self, backend: &dyn Backend) -> Result<FileId, BackendError> {
        let json = serde_json::to_vec(self).expect("texts and numbers always become JSON");
        let id = FileId::of(&json);
        backend.write(&FileName::Of(FileKind::Key, id), &json)?;
        Ok(id)
    }

    /// What may be shown of it.
    pub(crate) fn info(&self, id: FileId, password: &str) -> KeyInfo {
        KeyInfo {
            id,
            opens: self.open(password).is_some(),
            host: self.hostname.clone(),
            user: self.username.clone(),
            created: self.created,
        }
    }

    /// The master key, when `password` is the one.
    pub(crate) fn open(&self, password: &str) -> Option<Secrets> {
        if self.kdf != "scrypt" || !self.n.is_power_of_two() {
            return None;
        }
        let params = params(u8::try_from(self.n.ilog2()).ok()?, self.r, self.p)?;
        let key = derive(password, &BASE64.decode(&self.salt).ok()?, &params)?;
        let mut sealed = BASE64.decode(&self.data).ok()?;
        let master: MasterKey = serde_json::from_slice(key.open(&mut sealed).ok()?).ok()?;
        Some(Secrets {
            encrypt: array(&master.encrypt)?,
            mac_k: array(&master.mac.k)?,
            mac_r: array(&master.mac.r)?,
        })
    }
}

fn array<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_password_opens_it() {
        let secrets = Secrets::random();
        let file = KeyFile::seal(&secrets, "right", KeyDerivation::Fixed { log_n: 10, r: 8, p: 1 }).unwrap();
        let file: KeyFile = serde_json::from_slice(&serde_json::to_vec(&file).unwrap()).unwrap();
        assert_eq!(file.open("right").unwrap().encrypt, secrets.encrypt);
        assert!(file.open("wrong").is_none());
    }

    #[test]
    fn a_forged_key_file_cannot_ask_for_all_the_memory() {
        assert!(params(30, 8, 1).is_none());
        assert!(params(70, 8, 1).is_none());
        assert!(params(15, 8, 8).is_some());
    }
}
