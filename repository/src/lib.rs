//! Where restore points live: the restic repository format, version 2, written and read by our own code.
//!
//! A repository is opened or made over a [`Backend`] ([`Repository::open`], [`Repository::init`]); a [`Session`] saves
//! chunks into it from several threads, commits them, and writes a [`Snapshot`]; reading goes blob by blob
//! ([`Repository::load_blob`]). Everything is synchronous: run it on threads that may block.
//!
//! restic reads, checks, forgets and prunes what this writes, and this reads what restic leaves. The crate knows no
//! virtual machine: it sees chunks, files, folders and tags.
//!
//! While a lock is held, `restic unlock` on the same host sends this process SIGHUP to see whether it lives: the
//! program must not die of it.

mod append_only;
mod backend;
mod blob;
mod check;
mod compression;
mod config;
mod crypto;
mod direct;
mod go_quote;
mod hashing;
mod id;
mod index;
mod key_file;
mod keys;
mod local;
mod lock;
mod machine;
mod open;
mod pace;
mod paced;
mod pack;
mod parallel;
mod place;
mod polynomial;
mod progress;
mod prune;
mod repository;
mod s3;
mod session;
mod snapshot;
mod stats;
mod store;
mod tree;
mod tree_builder;
mod walk;

pub use append_only::AppendOnly;
pub use backend::{Backend, BackendError, FileKind, FileName, Listed, Stamp};
pub use blob::BlobKind;
pub use check::{CheckError, Problem, ReadData, Report};
pub use config::{DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE};
pub use direct::{Aligned, Direct};
pub use hashing::LANES;
pub use id::{Digest, FileId, InvalidId, PackId, SnapshotId};
pub use key_file::KeyDerivation;
pub use keys::{KeyError, KeyInfo};
pub use local::Local;
pub use lock::{Holder, Lock, LockError, LockKind};
pub use open::{InitOptions, OpenError};
pub use pace::{Line, Pace, Rate, Timetable, Turn, UnknownZone, Zone};
pub use pack::TooLarge;
pub use place::backend_at;
pub use progress::{Cancelled, Progress, Stage, Watch, unwatched};
pub use prune::{PruneError, PruneOptions, PruneReport};
pub use repository::{ForgetError, Repository};
pub use s3::{AccessKey, Patience, S3, S3Options};
pub use session::{Saved, Session, SessionOptions, WriteError};
pub use snapshot::Snapshot;
pub use stats::{Group, Stats, StatsError};
pub use store::{Damage, ReadError, Room};
pub use tree::{Content, Node, Tree};
pub use tree_builder::{TreeBuilder, TreeError};
