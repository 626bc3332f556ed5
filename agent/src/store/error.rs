//! Why a restore point was not stored, and what class of failure that is.

use journal::effect::{DiskMode, RepositoryAddress};
use journal::{DiskName, Failure, FailureClass, PointId};
use repository::{BackendError, ReadError, TreeError, WriteError};

use super::proof::PROOF_FILE;
use crate::nbd::NbdError;
use crate::pipeline::disk::Broken;
use crate::pipeline::view::ViewError;
use crate::repositories::Explain;

/// Why a point was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Reading the repository.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing to it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Listing it.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A tree that cannot be.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A proof that cannot be read.
    #[error("{PROOF_FILE} cannot be read: {0}")]
    Proof(String),
    /// The parent is gone, or does not fit.
    #[error("{disk} cannot be read incrementally from {parent}: {why}; back it up in full")]
    Parent {
        /// The disk.
        disk: DiskName,
        /// The parent.
        parent: PointId,
        /// What is wrong with it.
        why: String,
    },
    /// The view.
    #[error("the view of {disk} cannot be read: {error}")]
    View {
        /// The disk.
        disk: DiskName,
        /// What happened.
        error: ViewError,
    },
    /// The view shows another size.
    #[error(
        "the view of {disk} has {found} bytes, expected {expected}: the disk was resized; observe the VM again"
    )]
    Size {
        /// The disk.
        disk: DiskName,
        /// What the view has.
        found: u64,
        /// What the intent says.
        expected: u64,
    },
    /// A thread, or the whole pipeline.
    #[error("{0}")]
    Host(String),
    /// Nothing moves any more.
    #[error("{0}")]
    Stalled(String),
    /// The operator's wish.
    #[error("cancelled; nothing was stored")]
    Cancelled,
}

impl StoreError {
    pub(super) fn broken(broken: Broken, disk: &DiskName, mode: &DiskMode) -> Self {
        match (broken, mode) {
            (Broken::View(error), _) => Self::View { disk: disk.clone(), error },
            (Broken::Read(error), _) => Self::Read(error),
            (Broken::Write(error), _) => Self::Write(error),
            (Broken::Parent(why), DiskMode::Incremental { parent, .. }) => {
                Self::Parent { disk: disk.clone(), parent: *parent, why }
            }
            (broken @ Broken::Stalled(_), _) => Self::Stalled(broken.to_string()),
            (broken, _) => Self::Host(broken.to_string()),
        }
    }

    pub(super) fn failure(&self, at: &RepositoryAddress) -> Failure {
        match self {
            Self::Read(error) => error.explain(at),
            Self::Write(error) => error.explain(at),
            Self::Backend(error) => error.explain(at),
            _ => Failure::new(self.class(), self.to_string()),
        }
    }

    fn class(&self) -> FailureClass {
        match self {
            Self::Read(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Backend(error) => error.class(),
            Self::Tree(_) | Self::Size { .. } => FailureClass::Invalid,
            Self::Proof(_) => FailureClass::Damaged,
            Self::Parent { .. } => FailureClass::Repository,
            Self::View {
                error: ViewError::Served(NbdError::Timeout { .. }) | ViewError::Slow(_), ..
            }
            | Self::Stalled(_) => FailureClass::Unreachable,
            Self::View { .. } => FailureClass::ViewLost,
            Self::Host(_) => FailureClass::Host,
            Self::Cancelled => FailureClass::Cancelled,
        }
    }
}
