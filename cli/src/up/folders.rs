//! The folders that `up` runs in: made where they are missing, and judged where they are not ours alone.
//!
//! The data folder is open for passing through and not for reading (0711), since a QEMU of another user reaches its
//! scratch files and sockets below it.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agent::Folders;

use crate::exit::Failure;

/// What stands behind the sockets' folder in the longest path: `/<32 hex digits>/nbd`.
const BELOW: usize = 1 + 32 + 4;
/// The longest path of a unix socket: `sun_path` less its final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Makes the folders of the data folder `data`, which is absolute.
///
/// # Errors
/// When one cannot be made, or belongs to somebody else.
pub fn prepare(data: &Path, scratch: Option<PathBuf>, hooks: Option<PathBuf>) -> Result<Folders, Failure> {
    make(data, 0o711)?;
    let sockets = sockets_folder(data, &std::env::temp_dir())?;
    let folders = Folders {
        state: data.join("agent"),
        scratch: scratch.unwrap_or_else(|| data.join("scratch")),
        sockets,
        // The operator's own: judged at each use, by the agent.
        hooks,
    };
    make(&folders.state, 0o700)?;
    make(&folders.scratch, 0o711)?;
    make(&folders.sockets, 0o711)?;
    if !folders.sockets.starts_with(data) {
        must_be_ours(&folders.sockets)?;
    }
    Ok(folders)
}

/// `run` in the data folder, or a folder of this data folder's own below `temp` where sockets' paths grew too long.
fn sockets_folder(data: &Path, temp: &Path) -> Result<PathBuf, Failure> {
    let fits = |folder: &Path| folder.as_os_str().as_bytes().len() + BELOW <= SOCKET_PATH_MAX;
    let here = data.join("run");
    let there = temp.join(format!("backstay-{:016x}", fnv(data.as_os_str().as_bytes())));
    [here, there].into_iter().find(|folder| fits(folder)).ok_or_else(|| {
        Failure::usage(format!(
            "no unix socket fits below {} or below {}: their paths are too long. Take a shorter --data, or set TMPDIR",
            data.display(),
            temp.display()
        ))
    })
}

/// FNV-1a, 64 bits: the same name in every version of Backstay, which the standard library's hasher does not promise.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Makes a folder with its parents; one that is there keeps its mode.
fn make(folder: &Path, mode: u32) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::failed(format!("{} cannot be made: {error}", folder.display()));
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match fs::DirBuilder::new().mode(mode).create(folder) {
        // The umask may have taken bits away that a QEMU of another user needs.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(mode)).map_err(failed),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Below a folder that everyone may write to, the name may have been taken by somebody else.
fn must_be_ours(folder: &Path) -> Result<(), Failure> {
    let shown = folder.display();
    let found = fs::symlink_metadata(folder).map_err(|error| Failure::failed(format!("{shown}: {error}")))?;
    if found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{shown} is another user's, a link, or writable by others: remove it, or set TMPDIR"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sockets_are_in_the_data_folder_while_their_paths_fit() {
        let temp = Path::new("/tmp");
        let of = |length: usize| {
            let data = PathBuf::from(format!("/{}", "d".repeat(length - 1)));
            (sockets_folder(&data, temp).unwrap(), data)
        };
        // 107 less `/run` and `/<32 hex digits>/nbd`.
        let (sockets, data) = of(66);
        assert_eq!(sockets, data.join("run"));
        let (sockets, _) = of(67);
        assert!(sockets.starts_with("/tmp/") && sockets.to_string_lossy().starts_with("/tmp/backstay-"));
        assert_ne!(of(67).0, of(68).0);
        let long = PathBuf::from(format!("/{}", "t".repeat(100)));
        assert!(sockets_folder(&long, &long).unwrap_err().to_string().contains("TMPDIR"));
    }

    #[test]
    fn folders_are_made_once_and_keep_what_an_operator_set() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a/data");
        let folders = prepare(&data, None, None).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&data), mode(&folders.state), mode(&folders.scratch)), (0o711, 0o700, 0o711));
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        prepare(&data, None, None).unwrap();
        assert_eq!(mode(&data), 0o755);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (open, own) = (folder.path().join("open"), folder.path().join("own"));
        for (path, mode) in [(&open, 0o777), (&own, 0o711)] {
            fs::create_dir(path).unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        assert!(must_be_ours(&own).is_ok());
        assert!(must_be_ours(&open).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert!(must_be_ours(&link).is_err());
    }
}
