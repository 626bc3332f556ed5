//! What lies below an image: the files that QEMU only reads. A bitmap sees none of their changes, so they are named
//! with what would change with them. Knows nothing about who compares it.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::graph::Graph;
use crate::qmp::BlockNode;

/// The longest that the file systems below the images may take, together.
const LIMIT: Duration = Duration::from_secs(5);

/// The drivers whose `file` is a path.
const FILES: [&str; 2] = ["file", "host_device"];

/// Names every file below the image of `disk`: path, inode, size and time of change, one in a line; only the path where
/// nothing more can be learned of it. Empty where the image stands alone. `pid` is QEMU's, whose view of the file system
/// it is.
pub(crate) async fn describe(graph: &Graph, nodes: &[BlockNode], disk: &str, pid: u32) -> String {
    let below = graph.below(disk).into_iter().filter(|it| it.backing && it.last);
    let node = |name: &str| nodes.iter().find(|node| node.node_name.as_deref() == Some(name));
    let mut files: Vec<(String, bool)> = below
        .filter_map(|it| node(it.node))
        .map(|node| (node.file.clone(), FILES.contains(&node.drv.as_str())))
        .collect();
    files.sort();
    files.dedup();
    if files.is_empty() {
        return String::new();
    }
    let bare = files.iter().map(|(file, _)| file.clone()).collect::<Vec<String>>().join("\n");
    let look = move || {
        let lines = files.iter().map(|(file, is_path)| if *is_path { line(file, pid) } else { file.clone() });
        lines.collect::<Vec<String>>().join("\n")
    };
    match tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(described)) => described,
        _ => bare,
    }
}

fn line(file: &str, pid: u32) -> String {
    let path = Path::new(file);
    // As QEMU sees it: it may live in another mount namespace, and in another folder.
    let root = PathBuf::from(format!("/proc/{pid}/{}", if path.is_absolute() { "root" } else { "cwd" }));
    let theirs = root.join(path.strip_prefix("/").unwrap_or(path));
    let Ok(found) = std::fs::metadata(theirs).or_else(|_| std::fs::metadata(path)) else {
        return file.to_owned();
    };
    // A device's inode is made anew at each boot, and its time is not that of its content.
    if found.file_type().is_block_device() || found.file_type().is_char_device() {
        return file.to_owned();
    }
    let (inode, size) = (found.ino(), found.len());
    format!("{file} inode {inode}, {size} bytes, changed {}.{:09}", found.mtime(), found.mtime_nsec())
}
