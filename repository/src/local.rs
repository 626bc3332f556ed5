//! A repository in a local folder, laid out as restic does it.
//!
//! Owns durability on a POSIX file system: a file without a name, fsync, its name, fsync of the folder. Knows nothing of
//! what the files contain.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::backend::{Backend, BackendError, FileKind, FileName, Listed, Stamp};
use crate::direct;

/// What separates the final name from the random rest in a temporary name; restic's local backend uses the same,
/// so that each tool knows the leftovers of the other.
const TEMPORARY: &str = "-tmp-";

/// Read-only for its owner from the start, as restic leaves its files: they never change.
const FINAL: u32 = 0o400;

/// What a new file system has, and no repository.
const LOST_AND_FOUND: &str = "lost+found";

/// A folder.
#[derive(Debug, Clone)]
pub struct Local {
    root: PathBuf,
}

impl Local {
    /// The repository at `root`; touches nothing yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, name: &FileName) -> PathBuf {
        self.root.join(name.path())
    }

    /// Visits every entry of the folders of one family: its name, whether it is a file, its path.
    fn visit(
        &self,
        kind: FileKind,
        mut each: impl FnMut(&str, &fs::DirEntry) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let top = self.root.join(kind.folder());
        let mut folders = vec![top.clone()];
        if kind == FileKind::Pack {
            // Files directly under data/ are older layouts and leftovers; packs lie one folder deeper.
            for entry in entries(&top)? {
                let entry = entry.map_err(|error| BackendError::from_io(&top, error))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        for folder in folders {
            for entry in entries(&folder)? {
                let entry = entry.map_err(|error| BackendError::from_io(&folder, error))?;
                let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
                if let (true, Some(name)) = (is_file, entry.file_name().to_str()) {
                    each(name, &entry)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a file whole and durable before it has its name. It has none at all until then where the file system can do
    /// that, so that whoever is killed leaves nothing; otherwise a temporary one, which `settle` makes the file's.
    fn write_then(
        &self,
        path: &Path,
        bytes: &[u8],
        settle: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        let made = make_nameless(folder).or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            make_folder(folder)?;
            sync_folder(folder.parent().unwrap_or(&self.root))?;
            make_nameless(folder)
        });
        let named = match made? {
            Some(file) => fill(&file, bytes).and_then(|()| name(&file, path))?,
            None => false,
        };
        if !named {
            write_temporary(path, bytes, settle)?;
        }
        sync_folder(folder)
    }
}

/// By way of a temporary name. Without `settle` having succeeded nothing remains.
fn write_temporary(
    path: &Path,
    bytes: &[u8],
    settle: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!("{TEMPORARY}{:016x}", rand::random::<u64>()));
    let temporary = PathBuf::from(temporary);
    let made = OpenOptions::new().write(true).create_new(true).mode(FINAL).open(&temporary);
    made.and_then(|file| fill(&file, bytes)).and_then(|()| settle(&temporary, path)).inspect_err(|_| {
        // Best effort: what stays is swept by the next prune.
        let _ = fs::remove_file(&temporary);
    })
}

/// Opens a file that is in no folder (open(2), `O_TMPFILE`), or nothing where the file system has no such files.
fn make_nameless(folder: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::io::Errno;
    match open(folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(FINAL)) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn fill(file: &File, bytes: &[u8]) -> io::Result<()> {
    direct::write_new(file, bytes)?;
    file.sync_all()
}

/// Gives a nameless file its name. False where the name is taken, or this process may not do so: without `/proc`.
fn name(file: &File, path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use rustix::io::Errno;
    let through = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(CWD, through.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOENT | Errno::XDEV | Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn entries(folder: &Path) -> Result<fs::ReadDir, BackendError> {
    fs::read_dir(folder).map_err(|error| BackendError::from_io(folder, error))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Renames a file unless the new name is taken (renameat2(2), `RENAME_NOREPLACE`); on a file system that cannot do that,
/// such as NFS, after a look.
fn rename_to_nothing(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if to.try_exists()? => {
            Err(io::ErrorKind::AlreadyExists.into())
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::rename(from, to),
        done => done.map_err(io::Error::from),
    }
}

impl Backend for Local {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn foreign(&self) -> Result<Option<String>, BackendError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Ok(Some("it is not a folder".to_owned()));
            }
            entries => entries.map_err(|error| BackendError::from_io(&self.root, error))?,
        };
        for entry in entries {
            let name = entry.map_err(|error| BackendError::from_io(&self.root, error))?.file_name();
            let ours = FileName::is_top_level(&name.to_string_lossy()) || name == LOST_AND_FOUND;
            if !ours {
                return Ok(Some(format!("it holds {}", name.display())));
            }
        }
        Ok(None)
    }

    fn prepare(&self) -> Result<(), BackendError> {
        let make =
            |folder: PathBuf| make_folder(&folder).map_err(|error| BackendError::from_io(folder, error));
        for kind in FileKind::ALL {
            make(self.root.join(kind.folder()))?;
        }
        let data = self.root.join(FileKind::Pack.folder());
        for prefix in 0..=u8::MAX {
            make(data.join(format!("{prefix:02x}")))?;
        }
        let parent = self.root.parent().filter(|parent| !parent.as_os_str().is_empty());
        for folder in [Some(data.as_path()), Some(self.root.as_path()), parent].into_iter().flatten() {
            sync_folder(folder).map_err(|error| BackendError::from_io(folder, error))?;
        }
        Ok(())
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, BackendError> {
        let mut found = Vec::new();
        self.visit(kind, |name, entry| {
            let Ok(id) = name.parse() else { return Ok(()) };
            match entry.metadata() {
                Ok(metadata) => found.push(Listed { id, size: metadata.len() }),
                // Removed since the folder was read: a lock that was released, say.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(BackendError::from_io(entry.path(), error)),
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn read(&self, name: &FileName) -> Result<Vec<u8>, BackendError> {
        let path = self.path(name);
        fs::read(&path).map_err(|error| BackendError::from_io(path, error))
    }

    fn read_range(&self, name: &FileName, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        let path = self.path(name);
        File::open(&path)
            .and_then(|file| file.read_exact_at(buffer, offset))
            .map_err(|error| BackendError::from_io(path, error))
    }

    fn write(&self, name: &FileName, bytes: &[u8]) -> Result<(), BackendError> {
        let path = self.path(name);
        self.write_then(&path, bytes, |from, to| fs::rename(from, to))
            .map_err(|error| BackendError::from_io(path, error))
    }

    fn create(&self, name: &FileName, bytes: &[u8]) -> Result<bool, BackendError> {
        let path = self.path(name);
        match self.write_then(&path, bytes, rename_to_nothing) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(BackendError::from_io(path, error)),
        }
    }

    fn remove(&self, name: &FileName) -> Result<(), BackendError> {
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.root);
        fs::remove_file(&path)
            .and_then(|()| sync_folder(folder))
            .map_err(|error| BackendError::from_io(&path, error))
    }

    fn stamp(&self, name: &FileName) -> Result<Stamp, BackendError> {
        let path = self.path(name);
        let file = fs::metadata(&path).map_err(|error| BackendError::from_io(path, error))?;
        let (device, inode, length) = (file.dev(), file.ino(), file.len());
        Ok(Stamp(format!("{device}.{inode}.{length}.{}.{:09}", file.mtime(), file.mtime_nsec())))
    }

    fn sweep(&self) -> Result<u64, BackendError> {
        let mut removed = 0;
        for entry in entries(&self.root)? {
            let path = entry.map_err(|error| BackendError::from_io(&self.root, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.strip_prefix("config").is_some_and(|rest| rest.starts_with(TEMPORARY)) {
                fs::remove_file(&path).map_err(|error| BackendError::from_io(&path, error))?;
                removed += 1;
            }
        }
        for kind in FileKind::ALL {
            self.visit(kind, |name, entry| {
                let leftover = name.split_once(TEMPORARY).is_some_and(|(id, _)| id.len() == 64);
                if leftover {
                    fs::remove_file(entry.path())
                        .map_err(|error| BackendError::from_io(entry.path(), error))?;
                    removed += 1;
                }
                Ok(())
            })?;
        }
        Ok(removed)
    }
}
