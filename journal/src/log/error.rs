//! What can go wrong with the log, and what to do about it.
//!
//! Owns the error and the description of a damaged place. Knows nothing of how damage is found.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::frame::{BODY_LIMIT, Position};
use super::lock::Holder;

/// One damaged place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// File name of the segment; `mark` for the mark.
    pub segment: String,
    /// Byte offset in that file.
    pub offset: u64,
    /// The sequence of the frame that should be there.
    pub seq: u64,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { segment, offset, seq, what, advice } = self;
        write!(f, "{segment}, byte {offset}, sequence {seq}: {what}. {advice}")
    }
}

/// Why the log did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk refused.
    #[error("the journal could not {doing} {name}: {source}")]
    Io {
        /// What was being done, a verb.
        doing: &'static str,
        /// To which file of the journal.
        name: String,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// Bytes that were acknowledged are not as they were written.
    #[error("the journal is damaged: {0}")]
    Damaged(Box<Problem>),
    /// Another process writes this log.
    #[error("the journal in {} is in use by {holder}; stop that process first", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// A body is over the limit; nothing was written.
    #[error("a record of {bytes} bytes is over the journal's limit of {BODY_LIMIT}; nothing was written")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Nothing to append.
    #[error("an append of no records was asked for")]
    Empty,
    /// An earlier append failed. Whether its records are on the disk is known only after a restart.
    #[error(
        "the journal takes no more records, since an append failed: {first}. Mend the disk, then restart"
    )]
    Poisoned {
        /// The first failure.
        first: String,
    },
    /// The log was closed.
    #[error("the journal is closed")]
    Closed,
    /// Compare-and-append: the medium's end is not where the writer believes it is.
    #[error("the journal ends with {} and not {}: another writer was here; restart", found.seq, expected.seq)]
    Moved {
        /// Where the writer believes the end to be.
        expected: Position,
        /// Where it is.
        found: Position,
    },
    /// The medium lets the newest writer alone append, and this one is not it.
    #[error("another writer has opened the journal since: this one appends nothing more; stop it")]
    Superseded,
    /// No room for another segment. Nothing was written, and the log goes on.
    #[error(
        "the journal's disk is full: {needed} bytes were not to be had ({source}), so that nothing new is begun. What is \
         under way goes on; free some room, and work is taken again without a restart"
    )]
    Full {
        /// Bytes of the segment that was to be made.
        needed: u64,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The frame from which the caller wants to go on is not in this log.
    #[error("frame {seq} of the journal is not the one that was meant, or is not there")]
    NotOnChain {
        /// Its sequence.
        seq: u64,
    },
    /// A sequence was asked for that lies before the first that is here.
    #[error("sequence {seq} is no longer here: the journal begins with {first}; look in the archive")]
    NotHere {
        /// The one asked for.
        seq: u64,
        /// The first that is here.
        first: u64,
    },
}

impl LogError {
    /// Wraps the system's answer to `doing` something to the file `name`.
    pub(crate) fn io(doing: &'static str, name: &str) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Io { doing, name: name.to_owned(), source: Arc::new(source) }
    }
}

impl From<Problem> for LogError {
    fn from(problem: Problem) -> LogError {
        LogError::Damaged(Box::new(problem))
    }
}
