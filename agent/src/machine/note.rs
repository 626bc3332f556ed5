//! A view's note: what is known of it while it is up, in a file beside its scratch files. It outlives the agent, so the
//! next one knows the view's instant, watches its scratch files on, and can say why it was given up.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use journal::effect::{Begin, ViewLimits, VmAddress, Way};
use journal::names::{self, Owner, Role};
use journal::outcome::Failure;
use journal::{Installation, IntentId, Process, Time};
use serde::{Deserialize, Serialize};

use super::scratch::{self, within};
use crate::task::Folders;

/// What is known of one view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) vm: VmAddress,
    pub(super) process: Process,
    pub(super) installation: Installation,
    /// The `Begin` that made it.
    pub(super) view: IntentId,
    pub(super) disks: usize,
    pub(super) way: Way,
    pub(super) limits: ViewLimits,
    /// The instant that it shows, written just before it came: for the answer of a repeat whose first answer was lost.
    pub(super) instant: Time,
    /// Why it was given up, once it was.
    pub(super) given_up: Option<String>,
}

impl Note {
    pub(super) fn new(view: IntentId, begin: &Begin, instant: Time) -> Self {
        let (vm, process) = (begin.checkpoint.vm.clone(), begin.checkpoint.process);
        let (installation, disks) = (begin.checkpoint.installation, begin.disks.len());
        let (way, limits) = (begin.way, begin.limits);
        Self { vm, process, installation, view, disks, way, limits, instant, given_up: None }
    }

    /// The names of the view's scratch files.
    pub(super) fn scratch_files(&self) -> Vec<String> {
        let name = |disk| names::temporary(self.installation, self.view, disk, Role::Scratch);
        (0..self.disks).map(name).collect()
    }

    /// The name of its own file.
    pub(super) fn file(&self) -> String {
        file(self.installation, self.view)
    }

    fn path(&self, folders: &Folders) -> PathBuf {
        folders.scratch_of(self.vm.id).join(self.file())
    }

    /// Writes it, and makes sure that a later agent finds it whole or not at all.
    pub(super) async fn write(&self, folders: &Folders) -> Result<(), Failure> {
        let (path, text) = (self.path(folders), self.text());
        within(&path.clone(), move || std::fs::write(path, text)).await
    }

    /// Writes it over the one that is there; where there is none any more, the view has ended and nothing is left to note.
    pub(super) async fn rewrite(&self, folders: &Folders) -> Result<(), Failure> {
        let (path, text) = (self.path(folders), self.text());
        within(&path.clone(), move || match File::options().write(true).truncate(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            opened => opened?.write_all(&text),
        })
        .await
    }

    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and numbers always serialise")
    }
}

/// The note goes by the name of the view's first job, so whoever cleans up knows whose it is.
fn file(installation: Installation, view: IntentId) -> String {
    names::temporary(installation, view, 0, Role::Job)
}

/// The note of a view, if it has one that can be read.
pub(super) async fn of_view(folder: &Path, installation: Installation, view: IntentId) -> Option<Note> {
    read(folder.join(file(installation, view))).await
}

async fn read(path: PathBuf) -> Option<Note> {
    let text = within(&path.clone(), move || std::fs::read(path)).await.ok()?;
    serde_json::from_slice(&text).ok()
}

/// The notes of all views on this host.
pub(super) async fn all(folders: &Folders) -> Vec<Note> {
    let mut notes = Vec::new();
    for vm in scratch::list(&folders.scratch).await.unwrap_or_default() {
        let folder = folders.scratch.join(vm);
        for file in scratch::list(&folder).await.unwrap_or_default() {
            if matches!(names::owner(&file), Some(Owner::Temporary(.., Role::Job))) {
                notes.extend(read(folder.join(file)).await);
            }
        }
    }
    notes
}
