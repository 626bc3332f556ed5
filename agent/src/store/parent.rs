//! The parent of an incremental reading: found in the repository and checked before anything is read.

use journal::effect::{DiskMode, StoreDisk};
use repository::{Content, Node, ReadError, Repository, Snapshot, SnapshotId};

use super::error::StoreError;
use super::ledger::{ParentDisk, StoredPart, parts_folder, whole_file};
use super::proof::Proof;
use crate::pipeline::layout::Layout;

/// What the parent of this disk has of it; none for a full reading.
///
/// # Errors
/// [`StoreError::Parent`] when there is no such parent, or it does not fit: a full reading is needed then.
pub(crate) fn find(
    repository: &Repository,
    disk: &StoreDisk,
    layout: Layout,
) -> Result<Option<ParentDisk>, StoreError> {
    let DiskMode::Incremental { parent, snapshot, .. } = &disk.mode else { return Ok(None) };
    let unfit = |why: String| StoreError::Parent { disk: disk.disk.clone(), parent: *parent, why };
    let id = snapshot.parse::<SnapshotId>().map_err(|error| unfit(error.to_string()))?;
    // The cache of snapshots may remember one that was forgotten since.
    if !repository.snapshot_exists(id)? {
        return Err(unfit(format!("its snapshot {snapshot} is no longer in the repository")));
    }
    let root = repository.load_snapshot(id)?;
    let found = if layout.is_whole() {
        whole(repository, &root, disk)
    } else {
        parts(repository, &root, disk, layout)
    };
    match found {
        Ok(Ok(found)) => Ok(Some(found)),
        Ok(Err(why)) => Err(unfit(why)),
        Err(StoreError::Read(ReadError::NoSuchPath { path, .. })) => Err(unfit(format!("it has no {path}"))),
        Err(StoreError::Proof(why)) => Err(unfit(format!("its proof cannot be used: {why}"))),
        Err(error) => Err(error),
    }
}

/// What was found, or why it does not fit.
type Fit = Result<Result<ParentDisk, String>, StoreError>;

fn whole(repository: &Repository, root: &Snapshot, disk: &StoreDisk) -> Fit {
    let path = whole_file(disk.disk.as_str());
    Ok(match repository.node_at(&root.tree, &path)?.content {
        Content::File { size, chunks } if size == disk.size_bytes => Ok(ParentDisk::Whole(chunks)),
        Content::File { size, .. } => Err(other_size(size, disk)),
        _ => Err(format!("{path} is not a file")),
    })
}

fn parts(repository: &Repository, root: &Snapshot, disk: &StoreDisk, layout: Layout) -> Fit {
    let path = parts_folder(disk.disk.as_str());
    let Content::Folder { tree } = repository.node_at(&root.tree, &path)?.content else {
        return Ok(Err(format!("{path} is not a folder")));
    };
    let proof = Proof::read(repository, root)?;
    let Some(proof) = proof.disks.into_iter().find(|proven| proven.name == disk.disk) else {
        return Ok(Err("its proof does not name the disk".to_owned()));
    };
    if proof.size != disk.size_bytes {
        return Ok(Err(other_size(proof.size, disk)));
    }
    let nodes = repository.load_tree(&tree)?.nodes;
    if nodes.len() != layout.parts().len() || nodes.len() != proof.parts.len() {
        return Ok(Err(format!("it has {} parts where {} are needed", nodes.len(), layout.parts().len())));
    }
    let part = |(node, fingerprint): (Node, _)| match node.content {
        Content::Folder { tree } => Ok(StoredPart { tree, fingerprint }),
        _ => Err(format!("{path}/{} is not a folder", node.name)),
    };
    Ok(nodes.into_iter().zip(proof.parts).map(part).collect::<Result<_, _>>().map(ParentDisk::Parts))
}

fn other_size(size: u64, disk: &StoreDisk) -> String {
    format!("its disk has {size} bytes, this one {}", disk.size_bytes)
}
