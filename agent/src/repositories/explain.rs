//! From the errors of a repository to failures: the class for decisions, and where it was for people.

use journal::effect::RepositoryAddress;
use journal::{Failure, FailureClass};
use repository::{
    BackendError, ForgetError, KeyError, LockError, OpenError, PruneError, ReadError, StatsError, WriteError,
};

/// Turns an error of the repository at an address into a failure that names it.
pub(crate) trait Explain: std::error::Error {
    /// The kind of failure.
    fn class(&self) -> FailureClass;

    /// The failure.
    fn explain(&self, address: &RepositoryAddress) -> Failure {
        Failure::new(self.class(), format!("repository {} ({}): {self}", address.name, address.path))
    }
}

impl Explain for BackendError {
    fn class(&self) -> FailureClass {
        match self {
            Self::NotFound { .. } | Self::Refused { .. } => FailureClass::Repository,
            Self::Unreachable { .. } => FailureClass::Unreachable,
            Self::Full { .. } => FailureClass::Full,
            Self::Io { .. } => FailureClass::Host,
        }
    }
}

impl Explain for OpenError {
    fn class(&self) -> FailureClass {
        match self {
            Self::WrongPassword { .. }
            | Self::NotARepository { .. }
            | Self::AlreadyInitialised { .. }
            | Self::Foreign { .. }
            | Self::Remains { .. }
            | Self::UnsupportedVersion { .. } => FailureClass::Repository,
            Self::DamagedConfig { .. } => FailureClass::Damaged,
            Self::ChunkSize { .. } | Self::KeyDerivation { .. } => FailureClass::Invalid,
            Self::Backend(error) => error.class(),
        }
    }
}

impl Explain for ReadError {
    fn class(&self) -> FailureClass {
        match self {
            // A file that the index lists and the storage lacks.
            Self::Backend(BackendError::NotFound { .. })
            | Self::DamagedFile { .. }
            | Self::DamagedBlob { .. }
            | Self::MissingBlob { .. } => FailureClass::Damaged,
            Self::Backend(error) => error.class(),
            Self::NoSnapshot { .. } | Self::NoSuchPath { .. } => FailureClass::Repository,
        }
    }
}

impl Explain for LockError {
    fn class(&self) -> FailureClass {
        match self {
            // In use by others: it may be tried again, as if it had not answered.
            Self::Locked { .. } | Self::Lost => FailureClass::Unreachable,
            Self::Read(error) => error.class(),
            Self::Write(error) => error.class(),
        }
    }
}

impl Explain for WriteError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Backend(error) => error.class(),
            Self::Read(error) => error.class(),
            Self::Lock(error) => error.class(),
            Self::TooLarge(_) | Self::Level { .. } => FailureClass::Invalid,
            Self::Abandoned | Self::Uncommitted { .. } | Self::NoTree { .. } => FailureClass::Host,
        }
    }
}

impl Explain for ForgetError {
    fn class(&self) -> FailureClass {
        match self {
            Self::NoSnapshot { .. } => FailureClass::Repository,
            Self::Lock(error) => error.class(),
            Self::Backend(error) => error.class(),
        }
    }
}

impl Explain for KeyError {
    fn class(&self) -> FailureClass {
        match self {
            Self::WrongPassword { .. } => FailureClass::Repository,
            Self::NoSuchKey { .. } | Self::Needed { .. } | Self::KeyDerivation { .. } => {
                FailureClass::Invalid
            }
            Self::Lock(error) => error.class(),
            Self::Backend(error) => error.class(),
        }
    }
}

impl Explain for StatsError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Lock(error) => error.class(),
            Self::Backend(error) => error.class(),
            Self::Read(error) => error.class(),
            Self::Cancelled(_) => FailureClass::Cancelled,
        }
    }
}

impl Explain for PruneError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Missing { .. } | Self::DamagedPack { .. } => FailureClass::Damaged,
            Self::Lock(error) => error.class(),
            Self::Read(error) => error.class(),
            Self::Backend(error) => error.class(),
            Self::TooLarge(_) => FailureClass::Host,
            Self::Cancelled(_) => FailureClass::Cancelled,
        }
    }
}
