//! The two ways in which a disk's digests become nodes of the snapshot's tree: one file, or a folder of parts.
//!
//! With a parent, what did not change is taken from its nodes. All that is taken over is looked up in the index first,
//! unchanged parts too (some seconds for a terabyte in chunks of 256 KiB), so that a point never refers to a chunk that the repository lost.

use std::sync::{Arc, Mutex, MutexGuard};

use chrono::{DateTime, Utc};
use repository::{BlobKind, Content, Digest, Node, Session, Tree, TreeBuilder, TreeError};

use super::proof::{Fingerprint, fingerprint};
use crate::pipeline::disk::{Broken, Ledger};
use crate::pipeline::layout::{Layout, PART_CHUNKS, Part};

/// The one file in the folder of a part.
pub(crate) const PART_FILE: &str = "part";

/// The name of a disk in the tree: a file, or a folder of parts.
pub(crate) fn file_of(disk: &str, layout: Layout) -> String {
    if layout.is_whole() { whole_file(disk) } else { parts_folder(disk) }
}

/// The file of a disk that is stored whole.
pub(crate) fn whole_file(disk: &str) -> String {
    format!("{disk}.img")
}

/// The folder of a disk that is stored in parts.
pub(crate) fn parts_folder(disk: &str) -> String {
    format!("{disk}.img.parts")
}

/// What the parent has of a disk.
#[derive(Debug)]
pub(crate) enum ParentDisk {
    /// A file of these chunks.
    Whole(Vec<Digest>),
    /// Parts: the tree and the fingerprint of each.
    Parts(Vec<StoredPart>),
}

/// One part in the repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredPart {
    pub(crate) tree: Digest,
    pub(crate) fingerprint: Digest,
}

/// One disk's entry in the making.
#[derive(Debug)]
pub(crate) struct DiskLedger {
    session: Arc<Session>,
    time: DateTime<Utc>,
    layout: Layout,
    parent: Option<ParentDisk>,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    whole: Vec<Digest>,
    parts: Vec<Option<StoredPart>>,
}

impl DiskLedger {
    /// An empty one. `time` is what files and folders carry.
    pub(crate) fn new(
        session: Arc<Session>,
        time: DateTime<Utc>,
        layout: Layout,
        parent: Option<ParentDisk>,
    ) -> Self {
        Self { session, time, layout, parent, found: Mutex::default() }
    }

    /// How the disk is cut.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The same disk, read whole: nothing is taken from a parent.
    pub(crate) fn without_parent(&self) -> Self {
        Self::new(Arc::clone(&self.session), self.time, self.layout, None)
    }

    /// Of each section of the disk, whether the parent has something other than zeros there. Loads nothing: `zeros`,
    /// the digests of a whole chunk of zeros and of the disk's last chunk as zeros, tell the fingerprints of zeros.
    pub(crate) fn with_data(&self, zeros: [Digest; 2]) -> Result<Vec<bool>, Broken> {
        match &self.parent {
            None => Ok(Vec::new()),
            Some(ParentDisk::Whole(chunks)) => {
                self.layout.parts().try_for_each(|part| fits(part, chunks))?;
                let sections = chunks.chunks(PART_CHUNKS as usize);
                Ok(sections.map(|section| section.iter().any(|digest| !zeros.contains(digest))).collect())
            }
            Some(ParentDisk::Parts(parts)) => {
                let mut shapes = self.layout.parts();
                let shapes = [shapes.next(), shapes.last()].map(|part| of_zeros(part.as_ref(), zeros));
                let last = parts.len() - 1;
                let parts = parts.iter().enumerate();
                Ok(parts.map(|(number, it)| it.fingerprint != shapes[usize::from(number == last)]).collect())
            }
        }
    }

    /// The parent's chunks of one section of the disk.
    pub(crate) fn section(&self, section: usize) -> Result<Vec<Digest>, Broken> {
        match &self.parent {
            None => Ok(Vec::new()),
            Some(ParentDisk::Whole(chunks)) => {
                let mut sections = chunks.chunks(PART_CHUNKS as usize);
                Ok(sections.nth(section).unwrap_or_default().to_vec())
            }
            Some(ParentDisk::Parts(parts)) => {
                let part =
                    self.layout.parts().nth(section).expect("sections of a disk in parts are its parts");
                let chunks = self.load_part(part, parts[section])?;
                fits(part, &chunks)?;
                Ok(chunks)
            }
        }
    }

    /// Enters the disk into the tree, and says by what its content is known. Every part is complete by then.
    pub(crate) fn enter(&self, disk: &str, tree: &mut TreeBuilder) -> Result<Fingerprint, TreeError> {
        let found = std::mem::take(&mut *self.found());
        let path = file_of(disk, self.layout);
        if self.layout.is_whole() {
            let whole = fingerprint(&found.whole);
            tree.file(&path, self.layout.disk_bytes(), found.whole)?;
            return Ok(Fingerprint { whole, parts: Vec::new() });
        }
        let mut parts = Vec::with_capacity(found.parts.len());
        for (number, part) in found.parts.into_iter().enumerate() {
            let part = part.expect("the pipeline completes every part");
            tree.stored_folder(&format!("{path}/{number:08}"), part.tree)?;
            parts.push(part.fingerprint);
        }
        Ok(Fingerprint { whole: fingerprint(&parts), parts })
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().expect("nothing panics while it holds what was found")
    }

    /// The chunks of a part that the parent stored on its own.
    fn load_part(&self, part: Part, stored: StoredPart) -> Result<Vec<Digest>, Broken> {
        let tree = self.session.repository().load_tree(&stored.tree)?;
        match tree.find(PART_FILE).map(|node| &node.content) {
            Some(Content::File { chunks, .. }) if fingerprint(chunks) == stored.fingerprint => {
                Ok(chunks.clone())
            }
            _ => Err(Broken::Parent(format!("part {} is not what the parent's proof says", part.number))),
        }
    }

    /// Refuses chunks that are not there, or not cut as `part` is.
    fn prove(&self, part: Part, chunks: &[Digest]) -> Result<(), Broken> {
        fits(part, chunks)?;
        let repository = self.session.repository();
        for (chunk, digest) in chunks.iter().enumerate() {
            match repository.blob_length(digest) {
                Some(length) if length == part.chunk_length(chunk) => {}
                Some(length) => {
                    return Err(Broken::Parent(format!(
                        "its chunk {chunk} has {length} bytes: cut another way"
                    )));
                }
                None => {
                    return Err(Broken::Parent(format!("its chunk {digest} is no longer in the repository")));
                }
            }
        }
        Ok(())
    }
}

/// Refuses another number of chunks than `part` has.
fn fits(part: Part, chunks: &[Digest]) -> Result<(), Broken> {
    let (found, wanted) = (chunks.len(), part.chunks());
    if found == wanted {
        return Ok(());
    }
    Err(Broken::Parent(format!("it has {found} chunks where {wanted} are needed")))
}

/// The fingerprint of a part that holds nothing but zeros.
fn of_zeros(part: Option<&Part>, zeros: [Digest; 2]) -> Digest {
    let chunks = part.map_or(0, |part| part.chunks());
    let mut digests = vec![zeros[0]; chunks];
    // All parts but the last end with a whole chunk.
    if let (Some(last), Some(part)) = (digests.last_mut(), part)
        && part.chunk_length(chunks - 1) < part.chunk_bytes as usize
    {
        *last = zeros[1];
    }
    fingerprint(&digests)
}

impl Ledger for DiskLedger {
    fn begin(&self, part: Part) -> Result<Vec<Digest>, Broken> {
        let chunks = match &self.parent {
            None => return Ok(vec![Digest([0; 32]); part.chunks()]),
            Some(ParentDisk::Whole(chunks)) => chunks.clone(),
            Some(ParentDisk::Parts(parts)) => self.load_part(part, parts[part.number as usize])?,
        };
        self.prove(part, &chunks)?;
        Ok(chunks)
    }

    fn complete(&self, part: Part, digests: Option<Vec<Digest>>) -> Result<(), Broken> {
        if self.layout.is_whole() {
            let whole = match digests {
                Some(digests) => digests,
                None => self.begin(part)?,
            };
            self.found().whole = whole;
            return Ok(());
        }
        let stored = match (digests, &self.parent) {
            (None, Some(ParentDisk::Parts(parts))) => {
                self.begin(part)?;
                parts[part.number as usize]
            }
            (digests, _) => {
                let chunks = digests.unwrap_or_default();
                let fingerprint = fingerprint(&chunks);
                let nodes = vec![Node::file(PART_FILE, part.length, chunks, self.time)];
                let saved = self.session.save(BlobKind::Tree, &Tree { nodes }.to_bytes())?;
                StoredPart { tree: saved.digest, fingerprint }
            }
        };
        let mut found = self.found();
        let number = part.number as usize;
        if found.parts.len() <= number {
            found.parts.resize(number + 1, None);
        }
        found.parts[number] = Some(stored);
        Ok(())
    }
}
