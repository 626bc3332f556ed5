//! The repositories that are open: each password is proven once, and the work on storage stays off the control path.
//!
//! Trying a password costs about half a second by design (scrypt), so an open repository is kept until its password
//! file or its configuration is another one. Storage may hang (NFS, a network): everything runs on a blocking thread under a time
//! limit, and a thread that hangs is left behind. Knows nothing of what is stored.

mod explain;
mod keys;
mod measure;
mod patience;
mod perform;
mod prune;

pub(crate) use explain::Explain;
pub use keys::keys;
pub use measure::measure;
pub(crate) use patience::{Watch, blocking, watched};
pub use perform::{check, forget, open_repository};
pub use prune::{prune, prune_by};

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use journal::effect::RepositoryAddress;
use journal::observation::RepositorySeen;
use journal::{Failure, FailureClass};
use repository::{
    AppendOnly, Backend, BackendError, Digest, FileName, OpenError, Rate, Repository, Stamp, backend_at,
};

/// How long the storage may take to open a repository, or to list it.
pub(crate) const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// The longest password that is read, in bytes.
const PASSWORD_MAX: u64 = 4096;

/// Every repository that this agent has opened, by its address.
#[derive(Debug, Default)]
pub struct Repositories {
    /// The inner lock is held while a repository is opened, so that two effects do not both prove the password.
    slots: Mutex<HashMap<RepositoryAddress, Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Open>>>;

/// An open repository, and by what it is known to be still the same.
#[derive(Debug)]
struct Open {
    password: Digest,
    /// `config` is written once, so a new stamp is a new repository: going on with the old one's key and index would
    /// ruin it.
    config: Stamp,
    backend: Arc<dyn Backend>,
    repository: Repository,
}

impl Repositories {
    /// The repository at this address, opened now or before.
    ///
    /// # Errors
    /// [`FailureClass::Repository`] when it is not there, is none, or has another password;
    /// [`FailureClass::Unreachable`] when the storage does not answer.
    pub async fn open(&self, address: &RepositoryAddress) -> Result<Repository, Failure> {
        self.enter(address, |address, password, known| match known {
            Some(known) if known.is_still(password) => Ok(known),
            _ => Open::now(backend(address)?, password),
        })
        .await
    }

    /// What is in the repository: the names of its snapshots. Reads none of them.
    pub async fn seen(&self, address: &RepositoryAddress) -> RepositorySeen {
        let snapshots = async {
            let repository = self.open(address).await?;
            let at = address.clone();
            blocking(OPEN_LIMIT, &format!("listing the repository {}", address.path), move || {
                let ids = repository.snapshot_ids().map_err(|error| error.explain(&at))?;
                Ok(ids.into_iter().map(|id| id.to_string()).collect())
            })
            .await
        };
        RepositorySeen { name: address.name.clone(), snapshots: snapshots.await }
    }

    /// Replaces what is known of a repository by what `open` makes of it; nothing is known after a failure.
    async fn enter(
        &self,
        address: &RepositoryAddress,
        open: impl FnOnce(&RepositoryAddress, &str, Option<Open>) -> Result<Open, OpenError> + Send + 'static,
    ) -> Result<Repository, Failure> {
        let slot = self.slot(address);
        let mut slot = slot.lock().await;
        let (known, at) = (slot.take(), address.clone());
        let opened = blocking(OPEN_LIMIT, &format!("opening the repository {}", address.path), move || {
            let password = read_password(&at)?;
            open(&at, &password, known).map_err(|error| error.explain(&at))
        })
        .await?;
        let repository = opened.repository.clone();
        *slot = Some(opened);
        Ok(repository)
    }

    fn slot(&self, address: &RepositoryAddress) -> Slot {
        let mut slots = self.slots.lock().expect("nothing panics while it holds the slots");
        Arc::clone(slots.entry(address.clone()).or_default())
    }
}

impl Open {
    fn now(backend: Arc<dyn Backend>, password: &str) -> Result<Self, OpenError> {
        let config = match backend.stamp(&FileName::Config) {
            Err(BackendError::NotFound { .. }) => {
                return Err(OpenError::NotARepository { path: backend.location() });
            }
            stamp => stamp?,
        };
        let repository = Repository::open(Arc::clone(&backend), password)?;
        Ok(Self { password: Digest::of(password.as_bytes()), config, backend, repository })
    }

    fn is_still(&self, password: &str) -> bool {
        self.password == Digest::of(password.as_bytes())
            && self.backend.stamp(&FileName::Config).is_ok_and(|config| config == self.config)
    }
}

/// The storage of a repository.
fn backend(address: &RepositoryAddress) -> Result<Arc<dyn Backend>, BackendError> {
    let rate = |rate: &journal::effect::Rate| Rate {
        days: Rate::EVERY_DAY,
        from: rate.from_minute.into(),
        to: rate.to_minute.into(),
        bytes_per_second: rate.bytes_per_second,
    };
    let backend = backend_at(&address.path, &address.rates.iter().map(rate).collect::<Vec<_>>())?;
    Ok(if address.append_only { Arc::new(AppendOnly::new(backend)) } else { backend })
}

/// The first line of the repository's password file.
fn read_password(address: &RepositoryAddress) -> Result<String, Failure> {
    read_password_at(address, &address.password_file)
}

/// The first line of a password file, for this repository.
fn read_password_at(address: &RepositoryAddress, path: &str) -> Result<String, Failure> {
    let refused = |why: String| {
        let what = format!(
            "no password for the repository {} ({why}): put it into the first line of {path}, readable by the agent",
            address.path
        );
        Failure::new(FailureClass::Repository, what)
    };
    let mut line = String::new();
    let file = File::open(path).map_err(|error| refused(error.to_string()))?;
    let read = BufReader::new(file.take(PASSWORD_MAX)).read_line(&mut line);
    read.map_err(|error| refused(error.to_string()))?;
    let password =
        line.strip_suffix('\n').map_or(line.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if password.is_empty() {
        return Err(refused("its first line is empty".to_owned()));
    }
    Ok(password.to_owned())
}
