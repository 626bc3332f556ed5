//! Making a repository and opening one.
//!
//! Knows nothing of what is kept in it.

use std::sync::Arc;

use crate::backend::{Backend, BackendError, FileKind, FileName};
use crate::config::{self, Config, DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE};
use crate::crypto::{Key, Secrets};
use crate::id::FileId;
use crate::key_file::{KeyDerivation, KeyFile};
use crate::repository::Repository;
use crate::store::Store;

/// What is fixed when a repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Bytes of a chunk: a power of two from 64 KiB to 8 MiB; 256 KiB unless chosen otherwise.
    pub chunk_size: u32,
    /// How expensive it is to try a password.
    pub key_derivation: KeyDerivation,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self { chunk_size: DEFAULT_CHUNK_SIZE, key_derivation: KeyDerivation::default() }
    }
}

/// Why a repository was not made or opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// No key file opens with this password.
    #[error("wrong password for the repository at {path}; put the right one into its password file")]
    WrongPassword {
        /// Where.
        path: String,
    },
    /// There is no configuration.
    #[error(
        "there is no repository at {path}; make one with `backstay repo add`, or check that it is mounted"
    )]
    NotARepository {
        /// Where.
        path: String,
    },
    /// There is one already.
    #[error("there is a repository at {path} already")]
    AlreadyInitialised {
        /// Where.
        path: String,
    },
    /// There is no configuration, but there are packs, index files or snapshots.
    #[error(
        "{path} has no configuration but holds {found}: a damaged repository, not an empty folder; nothing was changed"
    )]
    Remains {
        /// Where.
        path: String,
        /// The folder that is not empty.
        found: &'static str,
    },
    /// There is something else.
    #[error(
        "{path} is neither a repository nor an empty place ({why}); nothing was changed: name another one"
    )]
    Foreign {
        /// Where.
        path: String,
        /// What was found.
        why: String,
    },
    /// Another version of the format.
    #[error(
        "the repository has format version {found}, we know version 2; `restic migrate upgrade_repo_v2` upgrades"
    )]
    UnsupportedVersion {
        /// Its version.
        found: u32,
    },
    /// The configuration opens with no key, or makes no sense.
    #[error("the configuration of the repository at {path} is damaged: {what}")]
    DamagedConfig {
        /// Where.
        path: String,
        /// The details.
        what: String,
    },
    /// Not a size that chunks may have.
    #[error(
        "chunks of {size} bytes are not possible: take a power of two from {MIN_CHUNK_SIZE} to {MAX_CHUNK_SIZE}"
    )]
    ChunkSize {
        /// What was asked for, in bytes.
        size: u32,
    },
    /// Not parameters that scrypt takes, or more than 1 GiB of memory.
    #[error("keys cannot be derived with {asked:?}")]
    KeyDerivation {
        /// What was asked for.
        asked: KeyDerivation,
    },
    /// The storage failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl Repository {
    /// Makes a new, empty repository: key first, configuration last, so that an interrupted attempt is no repository. Of
    /// several attempts at once, one makes it.
    ///
    /// # Errors
    /// [`OpenError::AlreadyInitialised`] when there is one; what is there is never touched.
    pub fn init(backend: Arc<dyn Backend>, password: &str, options: &InitOptions) -> Result<Self, OpenError> {
        if !config::allowed_chunk_size(options.chunk_size) {
            return Err(OpenError::ChunkSize { size: options.chunk_size });
        }
        let path = backend.location();
        if backend.exists(&FileName::Config)? {
            return Err(OpenError::AlreadyInitialised { path });
        }
        if let Some(why) = backend.foreign()? {
            return Err(OpenError::Foreign { path, why });
        }
        backend.prepare()?;
        for kind in [FileKind::Pack, FileKind::Index, FileKind::Snapshot] {
            if !backend.list(kind)?.is_empty() {
                return Err(OpenError::Remains { path, found: kind.folder() });
            }
        }
        let stray = backend.list(FileKind::Key)?;
        let secrets = Secrets::random();
        let key_file = KeyFile::seal(&secrets, password, options.key_derivation)
            .ok_or(OpenError::KeyDerivation { asked: options.key_derivation })?;
        let ours = key_file.write(&*backend)?;
        let config = Config::random(options.chunk_size);
        let config_json = serde_json::to_vec(&config).expect("texts and numbers always become JSON");
        let key = Key::new(&secrets);
        if !backend.create(&FileName::Config, &key.sealed(&config_json))? {
            remove_key(&*backend, ours);
            return Err(OpenError::AlreadyInitialised { path });
        }
        // Without a configuration before ours, these are what interrupted attempts left: they open nothing.
        stray.iter().for_each(|key| remove_key(&*backend, key.id));
        Ok(Self::new(Store { backend, key }, config))
    }

    /// Opens a repository that we or restic made. Reads keys and configuration only; the index follows when needed.
    ///
    /// # Errors
    /// [`OpenError::NotARepository`], [`OpenError::WrongPassword`], [`OpenError::UnsupportedVersion`]…
    pub fn open(backend: Arc<dyn Backend>, password: &str) -> Result<Self, OpenError> {
        let path = backend.location();
        let sealed = match backend.read(&FileName::Config) {
            Err(BackendError::NotFound { .. }) => return Err(OpenError::NotARepository { path }),
            other => other?,
        };
        let mut opened_a_key = false;
        for listed in backend.list(FileKind::Key)? {
            let bytes = match backend.read(&FileName::Of(FileKind::Key, listed.id)) {
                Err(BackendError::NotFound { .. }) => continue,
                other => other?,
            };
            // A key file that is not one is no reason to refuse the others.
            let Ok(file) = serde_json::from_slice::<KeyFile>(&bytes) else { continue };
            let Some(secrets) = file.open(password) else { continue };
            opened_a_key = true;
            let key = Key::new(&secrets);
            let mut frame = sealed.clone();
            let Ok(plain) = key.open(&mut frame) else { continue };
            let config = parse_config(plain, &path)?;
            return Ok(Self::new(Store { backend, key }, config));
        }
        Err(if opened_a_key {
            OpenError::DamagedConfig { path, what: "no key opens it".to_owned() }
        } else {
            OpenError::WrongPassword { path }
        })
    }
}

/// Removes a key that opens nothing here: it does no harm where it is.
fn remove_key(backend: &dyn Backend, key: FileId) {
    match backend.remove(&FileName::Of(FileKind::Key, key)) {
        // Refused: the repository is append-only here.
        Ok(()) | Err(BackendError::NotFound { .. } | BackendError::Refused { .. }) => {}
        Err(error) => tracing::warn!(%error, "a key file of no use stays"),
    }
}

fn parse_config(plain: &[u8], path: &str) -> Result<Config, OpenError> {
    let damaged = |what: String| OpenError::DamagedConfig { path: path.to_owned(), what };
    let config: Config = serde_json::from_slice(plain).map_err(|error| damaged(error.to_string()))?;
    if config.version != config::VERSION {
        return Err(OpenError::UnsupportedVersion { found: config.version });
    }
    if !config::allowed_chunk_size(config.fixed_chunk_size) {
        return Err(damaged(format!("it asks for chunks of {} bytes", config.fixed_chunk_size)));
    }
    Ok(config)
}
