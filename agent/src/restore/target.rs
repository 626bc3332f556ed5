//! Where an image appears: beside its final name first, under it only when it is complete and proven.
//!
//! A finished image carries a mark (an extended attribute) that says which intent made it, so that the same intent
//! performed again finds its own work and no other finds anything but a file in the way.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use journal::IntentId;
use journal::effect::Restore;
use repository::Direct;
use rustix::fs::{
    CWD, FlockOperation, OFlags, RenameFlags, XattrFlags, fcntl_lock, fsetxattr, getxattr, renameat_with,
};

use super::RestoreError;
use super::image::RawImage;

/// The mark's name.
const MARK: &str = "user.backstay.restored";

/// What a finished image says of itself, up to the bytes that were written.
fn mark_of(intent: IntentId, effect: &Restore) -> String {
    format!("{intent} {} {} {} ", effect.point, effect.disk, effect.snapshot)
}

/// The bytes that this very intent wrote to the image, if it is there and finished.
pub(super) fn finished(intent: IntentId, effect: &Restore) -> Option<u64> {
    let mut mark = [0; 1024];
    let length = getxattr(&effect.path, MARK, &mut mark).ok()?;
    let mark = std::str::from_utf8(mark.get(..length)?).ok()?;
    mark.strip_prefix(&mark_of(intent, effect))?.parse().ok()
}

/// An image in the making. Dropped unfinished, it takes its file with it.
#[derive(Debug)]
pub(super) struct PartFile {
    /// Where it is now.
    pub(super) path: PathBuf,
    target: PathBuf,
    folder: PathBuf,
    published: bool,
}

impl PartFile {
    /// Makes way for an image: what an earlier attempt at it left is removed, what is there already is refused.
    pub(super) fn prepare(intent: IntentId, target: &Path) -> Result<Self, RestoreError> {
        let (Some(folder), Some(name), true) = (target.parent(), target.file_name(), target.is_absolute())
        else {
            return Err(RestoreError::Asked(format!("{} is no absolute path of a file", target.display())));
        };
        if std::fs::symlink_metadata(target).is_ok() {
            return Err(RestoreError::Exists { path: target.to_owned() });
        }
        if !folder.is_dir() {
            // One level: several disks go into a folder of the name that was asked for. More would be a slip of the pen.
            std::fs::create_dir(folder).map_err(|error| {
                let folder = folder.display();
                RestoreError::Asked(format!("there is no folder {folder}, and it cannot be made: {error}"))
            })?;
        }
        let path = folder.join(format!(".{}.backstay-{intent}.part", name.to_string_lossy()));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(RestoreError::file(&path, error)),
            _ => Ok(Self { path, target: target.to_owned(), folder: folder.to_owned(), published: false }),
        }
    }

    /// Makes an empty raw image of this size, all of it a hole.
    pub(super) fn create_raw(&self, size: u64) -> Result<RawImage, RestoreError> {
        let open = || {
            let file =
                OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&self.path)?;
            file.set_len(size)?;
            Ok(RawImage { file: Direct::new(file), is_file: true })
        };
        open().map_err(|error| RestoreError::file(&self.path, error))
    }

    /// Gives the image its name, durably. What is there under that name by now stays.
    pub(super) fn publish(
        mut self,
        intent: IntentId,
        effect: &Restore,
        written: u64,
    ) -> Result<(), RestoreError> {
        let publish = || {
            let file = File::open(&self.path)?;
            let mark = format!("{}{written}", mark_of(intent, effect));
            if let Err(error) = fsetxattr(&file, MARK, mark.as_bytes(), XattrFlags::empty()) {
                // Without it a repetition would find a file in the way, and say so.
                tracing::debug!(%error, path = %self.path.display(), "the filesystem keeps no attributes");
            }
            file.sync_all()?;
            rename_new(&self.path, &self.target)
        };
        match publish() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(RestoreError::Exists { path: self.target.clone() });
            }
            other => other.map_err(|error| RestoreError::file(&self.target, error))?,
        }
        self.published = true;
        let folder = File::open(&self.folder).and_then(|folder| folder.sync_all());
        folder.map_err(|error| RestoreError::file(&self.folder, error))
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.published {
            // Not there when it was never made; a leftover is removed by the next attempt.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Renames, and never replaces.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // NFS and some others do not know the flag; a second link fails in the same way when the name is taken.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

/// Opens a raw image or a block device that is there, alone, if it has the right size.
pub(super) fn open_in_place(path: &Path, size: u64) -> Result<RawImage, RestoreError> {
    let unfit = |why: String| RestoreError::Unfit { path: path.to_owned(), why };
    let kind = std::fs::metadata(path).map_err(|error| unfit(error.to_string()))?.file_type();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if kind.is_block_device() {
        // The kernel refuses a device that is mounted or part of another one.
        options.custom_flags(i32::try_from(OFlags::EXCL.bits()).unwrap_or(0));
    } else if !kind.is_file() {
        return Err(unfit("it is neither a file nor a block device".to_owned()));
    }
    let mut file = options.open(path).map_err(|error| unfit(error.to_string()))?;
    // QEMU locks bytes of an image that it has open; a lock of all bytes cannot be had beside that.
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| unfit(format!("it is in use ({error}); stop the VM first")))?;
    let found = file.seek(SeekFrom::End(0)).map_err(|error| unfit(error.to_string()))?;
    if found != size {
        return Err(RestoreError::size(path, found, size));
    }
    Ok(RawImage { file: Direct::new(file), is_file: kind.is_file() })
}
