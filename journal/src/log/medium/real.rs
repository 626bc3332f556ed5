//! A real folder on a local file system.
//!
//! Owns the system calls. Knows nothing of what is in the files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::direct::Direct;
use super::{Disk, DiskFile, write_zeros};

/// A folder of a local file system.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    writable: bool,
    /// It may well not be there yet.
    made_when_needed: bool,
}

impl RealDisk {
    /// The folder `dir`, made if it is not there, with its name durable in its parent.
    ///
    /// # Errors
    /// The system's.
    pub fn create(dir: &Path) -> io::Result<RealDisk> {
        make_folder(dir)?;
        Ok(RealDisk { dir: dir.to_owned(), writable: true, made_when_needed: false })
    }

    /// The folder `dir`, for reading only.
    #[must_use]
    pub fn read_only(dir: &Path) -> RealDisk {
        RealDisk { dir: dir.to_owned(), writable: false, made_when_needed: false }
    }
}

fn make_folder(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        fs::create_dir_all(dir)?;
        if let Some(parent) = dir.canonicalize()?.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

impl Disk for RealDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.made_when_needed => {
                return Ok(names);
            }
            entries => entries?,
        };
        for entry in entries {
            // A name that is not text is not one of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        match OpenOptions::new().read(true).write(self.writable).open(self.dir.join(name)) {
            Ok(file) => Ok(Some(Box::new(RealFile::new(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        if self.made_when_needed {
            make_folder(&self.dir)?;
        }
        let mut options = OpenOptions::new();
        // The journal names every machine and what was done to it: it is nobody else's to read.
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = RealFile::new(options.open(self.dir.join(name))?);
        write_zeros(&file, 0, len)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn archive(&self) -> Box<dyn Disk> {
        Box::new(RealDisk { dir: self.dir.join("archive"), writable: self.writable, made_when_needed: true })
    }
}

struct RealFile {
    file: File,
    appends: Mutex<Appends>,
}

/// By which way a file is appended to.
enum Appends {
    /// It was not appended to yet.
    Untried,
    Direct(Direct),
    /// Through the page cache, and synced.
    Cached,
}

impl RealFile {
    fn new(file: File) -> RealFile {
        RealFile { file, appends: Mutex::new(Appends::Untried) }
    }
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn append(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut appends = self.appends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Appends::Untried = *appends {
            *appends = Direct::open(&self.file).map_or(Appends::Cached, Appends::Direct);
        }
        if let Appends::Direct(direct) = &mut *appends
            && direct.append(bytes, offset, &self.file)?
        {
            return Ok(());
        }
        self.write_at(bytes, offset)?;
        self.sync()
    }
}
