//! The keys of a repository: each opens it with a password of its own.
//!
//! A key file seals the same master key each time, so that passwords come and go and no data is written anew. Knows
//! nothing of where passwords are kept.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::backend::{Backend, BackendError, FileKind, FileName};
use crate::crypto::Secrets;
use crate::id::FileId;
use crate::key_file::{KeyDerivation, KeyFile};
use crate::lock::{LockError, LockKind};
use crate::repository::Repository;

/// A key, as far as it is no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// The name of its file.
    pub id: FileId,
    /// Whether the password that was given opens it.
    pub opens: bool,
    /// The host on which it was made.
    pub host: String,
    /// The user who made it.
    pub user: String,
    /// When.
    pub created: DateTime<Utc>,
}

/// Why the keys are as they were.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyError {
    /// No key file opens with the password.
    #[error("the password opens no key of the repository at {path}")]
    WrongPassword {
        /// Where.
        path: String,
    },
    /// No key of this name.
    #[error("the repository at {path} has no key {asked}, or several that begin so")]
    NoSuchKey {
        /// Where.
        path: String,
        /// What was asked for.
        asked: String,
    },
    /// Without it the agent, or nobody, could open the repository.
    #[error("key {key} stays: {why}")]
    Needed {
        /// Which.
        key: FileId,
        /// Why.
        why: &'static str,
    },
    /// Not parameters that scrypt takes.
    #[error("keys cannot be derived with {asked:?}")]
    KeyDerivation {
        /// What was asked for.
        asked: KeyDerivation,
    },
    /// Somebody else holds the repository.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The storage failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl Repository {
    /// All keys, oldest first, and which of them `password` opens.
    ///
    /// # Errors
    /// [`KeyError::Backend`] when they cannot be read.
    pub fn keys(&self, password: &str) -> Result<Vec<KeyInfo>, KeyError> {
        let keys = self.read_keys()?;
        let mut seen: Vec<KeyInfo> = keys.iter().map(|(id, key)| key.info(*id, password)).collect();
        seen.sort_by_key(|key| (key.created, key.id));
        Ok(seen)
    }

    /// Adds a key that opens with `new`, unless one does already; answers which. `password` is one that opens the
    /// repository now.
    ///
    /// # Errors
    /// [`KeyError::WrongPassword`] when `password` does not open it.
    pub fn add_key(&self, password: &str, new: &str, derivation: KeyDerivation) -> Result<FileId, KeyError> {
        let _lock = self.lock(LockKind::Shared)?;
        self.add_unless_there(password, new, derivation)
    }

    /// Replaces the keys that open with `password` by one that opens with `new`: the new one is there before the old
    /// ones go, so that a repetition ends what was interrupted.
    ///
    /// # Errors
    /// [`KeyError::WrongPassword`] when neither password opens the repository.
    pub fn change_key(
        &self,
        password: &str,
        new: &str,
        derivation: KeyDerivation,
    ) -> Result<FileId, KeyError> {
        self.inner.store.backend.may_remove()?;
        let _lock = self.lock(LockKind::Exclusive)?;
        let added = self.add_unless_there(password, new, derivation)?;
        for (id, key) in self.read_keys()? {
            if id != added && key.open(password).is_some() {
                self.remove(id)?;
            }
        }
        Ok(added)
    }

    /// Removes a key, named by its id or the beginning of it. One that is gone already is removed.
    ///
    /// # Errors
    /// [`KeyError::Needed`] for the last one, and for the one that `password` opens.
    pub fn remove_key(&self, password: &str, key: &str) -> Result<(), KeyError> {
        self.inner.store.backend.may_remove()?;
        let _lock = self.lock(LockKind::Exclusive)?;
        let keys = self.read_keys()?;
        let mut named = keys.iter().filter(|(id, _)| !key.is_empty() && id.to_string().starts_with(key));
        let (Some((id, file)), None) = (named.next(), named.next()) else {
            if key.parse::<FileId>().is_ok() {
                return Ok(());
            }
            return Err(KeyError::NoSuchKey { path: self.location(), asked: key.to_owned() });
        };
        if keys.len() == 1 {
            return Err(KeyError::Needed { key: *id, why: "it is the only one" });
        }
        let others = || keys.iter().filter(|(other, _)| other != id);
        if file.open(password).is_some() && !others().any(|(_, other)| other.open(password).is_some()) {
            let why = "the repository is opened with it; change it, or use another password file first";
            return Err(KeyError::Needed { key: *id, why });
        }
        self.remove(*id)
    }

    fn add_unless_there(
        &self,
        password: &str,
        new: &str,
        derivation: KeyDerivation,
    ) -> Result<FileId, KeyError> {
        let keys = self.read_keys()?;
        let opened = |with: &str| keys.iter().find_map(|(id, key)| Some((*id, key.open(with)?)));
        if let Some((id, _)) = opened(new) {
            return Ok(id);
        }
        let wrong = || KeyError::WrongPassword { path: self.location() };
        let (_, secrets): (_, Secrets) = opened(password).ok_or_else(wrong)?;
        let file =
            KeyFile::seal(&secrets, new, derivation).ok_or(KeyError::KeyDerivation { asked: derivation })?;
        Ok(file.write(&*self.inner.store.backend)?)
    }

    /// Those that are key files; others are restic's own business.
    fn read_keys(&self) -> Result<Vec<(FileId, KeyFile)>, BackendError> {
        let backend: &Arc<dyn Backend> = &self.inner.store.backend;
        let mut keys = Vec::new();
        for listed in backend.list(FileKind::Key)? {
            match backend.read(&FileName::Of(FileKind::Key, listed.id)) {
                Ok(bytes) => keys.extend(serde_json::from_slice(&bytes).ok().map(|key| (listed.id, key))),
                Err(BackendError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(keys)
    }

    fn remove(&self, key: FileId) -> Result<(), KeyError> {
        match self.inner.store.backend.remove(&FileName::Of(FileKind::Key, key)) {
            Ok(()) | Err(BackendError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
