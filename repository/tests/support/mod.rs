//! What the tests of this crate share: repositories in temporary folders, deterministic bytes, and restic itself.

#![allow(dead_code, clippy::unwrap_used)]

pub mod failing;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use repository::{
    Backend, BlobKind, Digest, InitOptions, KeyDerivation, Local, Repository, Session, SessionOptions,
    Snapshot, SnapshotId, TreeBuilder,
};

pub const PASSWORD: &str = "a password for tests";

/// Cheap to open: the tests are not about guessing passwords.
pub fn options() -> InitOptions {
    InitOptions { key_derivation: KeyDerivation::Fixed { log_n: 10, r: 8, p: 1 }, ..InitOptions::default() }
}

pub fn init(backend: Arc<dyn Backend>) -> Repository {
    Repository::init(backend, PASSWORD, &options()).unwrap()
}

pub fn local(path: &Path) -> Arc<dyn Backend> {
    Arc::new(Local::new(path))
}

/// A repository in a folder that goes away with it.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub repository: Repository,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = init(local(&folder.path().join("repo")));
        Self { repository, folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    /// As another process would see it.
    pub fn reopened(&self) -> Repository {
        Repository::open(local(&self.path()), PASSWORD).unwrap()
    }

    pub fn packs(&self) -> Vec<PathBuf> {
        files(&self.path().join("data"))
    }
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The same bytes for the same seed; about half of them compress.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut made = Vec::with_capacity(length + 8);
    while made.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = if made.len() / 4096 % 2 == 0 { state } else { state & 0x0101 };
        made.extend(word.to_le_bytes());
    }
    made.truncate(length);
    made
}

pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Saves `content` in chunks, as one file called `name` in a folder, with a small second file beside it.
pub fn try_backup(
    session: &Session,
    name: &str,
    content: &[u8],
    tag: &str,
) -> Result<SnapshotId, repository::WriteError> {
    let mut chunks = Vec::new();
    for chunk in content.chunks(1 << 20) {
        chunks.push(session.save(BlobKind::Data, chunk)?.digest);
    }
    let proof = session.save(BlobKind::Data, tag.as_bytes())?.digest;
    let mut tree = TreeBuilder::new(now());
    tree.file(&format!("disks/{name}"), content.len() as u64, chunks).unwrap();
    tree.file("proof.json", tag.len() as u64, vec![proof]).unwrap();
    let tree = tree.save(session)?;
    session.commit()?;
    let mut snapshot = Snapshot::new(tree, now(), vec![format!("/{name}")]);
    snapshot.tags = vec![tag.to_owned()];
    snapshot.program_version = Some("tests".to_owned());
    session.save_snapshot(snapshot)
}

pub fn backup(repository: &Repository, name: &str, content: &[u8], tag: &str) -> SnapshotId {
    try_backup(&repository.session(&SessionOptions::default()).unwrap(), name, content, tag).unwrap()
}

/// The bytes of a file in a snapshot.
pub fn read_file(repository: &Repository, snapshot: SnapshotId, path: &str) -> Vec<u8> {
    let tree = repository.load_snapshot(snapshot).unwrap().tree;
    let repository::Content::File { size, chunks } = repository.node_at(&tree, path).unwrap().content else {
        panic!("{path} is no file")
    };
    let content =
        chunks.iter().flat_map(|chunk: &Digest| repository.load_blob(chunk).unwrap()).collect::<Vec<_>>();
    assert_eq!(content.len() as u64, size);
    content
}

pub fn assert_healthy(repository: &Repository) -> repository::Report {
    let report = repository.check(repository::ReadData::All, &repository::unwatched).unwrap();
    assert!(report.is_healthy(), "{:#?}", report.problems);
    report
}

/// Whether restic is there; loud when not, and fatal on CI.
pub fn restic_is_there() -> bool {
    let there = Command::new("restic").arg("version").output().is_ok_and(|output| output.status.success());
    if !there {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "restic is missing on CI");
        eprintln!("SKIPPED: restic is not installed, its half of the proof is missing");
    }
    there
}

/// restic on a repository, with a time limit.
pub fn restic_command(repo: &Path, password: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["120", "restic", "--no-cache", "-r"]).arg(repo).args(arguments);
    command.env("RESTIC_PASSWORD", password).stdin(Stdio::null());
    command
}

pub fn restic_try(repo: &Path, arguments: &[&str]) -> Output {
    restic_command(repo, PASSWORD, arguments).output().unwrap()
}

/// restic, which must succeed; returns its output.
pub fn restic(repo: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = restic_try(repo, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "restic {arguments:?}: {errors}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    output.stdout
}
