//! Building the folders of a snapshot from paths.
//!
//! Knows nothing of chunks: a file is given by the digests of blobs that are saved already.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::blob::BlobKind;
use crate::id::Digest;
use crate::session::{Session, WriteError};
use crate::tree::{Node, Tree};

/// A name that cannot stand in a folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Empty, `.` or `..`, or with a slash or a zero byte.
    #[error("{path:?} is no path for a file in a snapshot")]
    BadPath {
        /// What was given.
        path: String,
    },
    /// Two things at one place.
    #[error("{path:?} is in the snapshot already")]
    Occupied {
        /// Where.
        path: String,
    },
}

/// A folder being built. Paths are relative, with `/` between the names; folders on the way come into being.
#[derive(Debug, Clone)]
pub struct TreeBuilder {
    time: DateTime<Utc>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Node(Node),
    Folder(TreeBuilder),
}

impl TreeBuilder {
    /// An empty folder; files and folders carry `time`.
    #[must_use]
    pub fn new(time: DateTime<Utc>) -> Self {
        Self { time, entries: BTreeMap::new() }
    }

    /// Adds a file of `size` bytes that the data blobs `chunks` make up, in order.
    ///
    /// # Errors
    /// When the path is no path, or taken.
    pub fn file(&mut self, path: &str, size: u64, chunks: Vec<Digest>) -> Result<(), TreeError> {
        let time = self.time;
        self.insert(path, |name| Node::file(name, size, chunks, time))
    }

    /// Adds a folder that is stored already, such as an unchanged part of the previous snapshot.
    ///
    /// # Errors
    /// When the path is no path, or taken.
    pub fn stored_folder(&mut self, path: &str, tree: Digest) -> Result<(), TreeError> {
        let time = self.time;
        self.insert(path, |name| Node::folder(name, tree, time))
    }

    /// Adds a node as it is, under the folder `folder` ("" is this one).
    ///
    /// # Errors
    /// When the path is no path, or taken.
    pub fn node(&mut self, folder: &str, node: Node) -> Result<(), TreeError> {
        let path = if folder.is_empty() { node.name.clone() } else { format!("{folder}/{}", node.name) };
        self.insert(&path, |name| Node { name, ..node })
    }

    fn insert(&mut self, path: &str, node: impl FnOnce(String) -> Node) -> Result<(), TreeError> {
        let occupied = || TreeError::Occupied { path: path.to_owned() };
        let good = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
        if !path.split('/').all(good) {
            return Err(TreeError::BadPath { path: path.to_owned() });
        }
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut place = self;
        for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
            let time = place.time;
            let entry =
                place.entries.entry(folder.to_owned()).or_insert_with(|| Entry::Folder(Self::new(time)));
            match entry {
                Entry::Folder(inner) => place = inner,
                Entry::Node(_) => return Err(occupied()),
            }
        }
        if place.entries.contains_key(name) {
            return Err(occupied());
        }
        place.entries.insert(name.to_owned(), Entry::Node(node(name.to_owned())));
        Ok(())
    }

    /// Saves all folders, inner ones first, and returns the tree of this one.
    ///
    /// # Errors
    /// As [`Session::save`].
    pub fn save(self, session: &Session) -> Result<Digest, WriteError> {
        let mut nodes = Vec::with_capacity(self.entries.len());
        for (name, entry) in self.entries {
            nodes.push(match entry {
                Entry::Node(node) => node,
                Entry::Folder(folder) => Node::folder(name, folder.save(session)?, self.time),
            });
        }
        Ok(session.save(BlobKind::Tree, &Tree { nodes }.to_bytes())?.digest)
    }
}
