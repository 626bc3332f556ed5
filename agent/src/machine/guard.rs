//! The guard of a view: it watches what the scratch files take, and takes the view down before they take more than they
//! may, or more than their file system can spare. A view of the backup job's kind needs it for the guest's sake: QEMU
//! fails the guest's write when the scratch file cannot grow. The filter's kind breaks by itself, and the copies of a push
//! have their room from the beginning: they are watched for the sake of whatever else lives on that file system.
//!
//! A guard is armed before the instant of its view and goes when the view's note goes, its process ends, or it is
//! disarmed. An agent that starts arms one for each note that it finds. Watching needs no word with QEMU.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::effect::{Store, Way};
use journal::outcome::{Failure, FailureClass, Outcome};
use journal::{Installation, IntentId};
use tokio_util::sync::CancellationToken;

use super::note::{self, Note};
use super::reach::{self, Found};
use super::scratch::{self, Room};
use super::takedown::Objects;
use super::{Stop, serve};
use crate::task::{Answer, Folders};

/// How often the files are looked at. Between two looks a fast disk takes some hundred MiB.
const EVERY: Duration = Duration::from_millis(100);

/// How often a takedown that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The guards of an agent. They end with it.
#[derive(Debug, Default)]
pub(crate) struct Guards(Mutex<HashMap<(Installation, IntentId), CancellationToken>>);

impl Drop for Guards {
    fn drop(&mut self) {
        self.disarm_all();
    }
}

impl Guards {
    fn table(&self) -> MutexGuard<'_, HashMap<(Installation, IntentId), CancellationToken>> {
        // The table is only ever changed whole, so a panic elsewhere cannot have left it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a view from now on, unless it is watched already.
    pub(super) fn arm(&self, note: Note, folders: &Arc<Folders>) {
        let mut table = self.table();
        table.retain(|_, over| !over.is_cancelled());
        if note.given_up.is_some() || table.contains_key(&(note.installation, note.view)) {
            return;
        }
        let over = CancellationToken::new();
        table.insert((note.installation, note.view), over.clone());
        let folders = Arc::clone(folders);
        tokio::spawn(async move {
            let _over = over.clone().drop_guard();
            let watch = Watch { note, folders: &folders };
            over.run_until_cancelled(watch.run()).await;
        });
    }

    /// Watches the views that an earlier agent began.
    pub(crate) async fn arm_noted(&self, folders: &Arc<Folders>) {
        for note in note::all(folders).await {
            self.arm(note, folders);
        }
    }

    /// Cancelled once a view is not watched any more: its process is gone, it was given up, or it has ended.
    pub(super) fn over(&self, installation: Installation, view: IntentId) -> CancellationToken {
        let unwatched = || {
            let over = CancellationToken::new();
            over.cancel();
            over
        };
        self.table().get(&(installation, view)).cloned().unwrap_or_else(unwatched)
    }

    /// Lets a view go unwatched.
    pub(super) fn disarm(&self, installation: Installation, view: IntentId) {
        if let Some(over) = self.table().remove(&(installation, view)) {
            over.cancel();
        }
    }

    /// Ends all guards.
    pub(crate) fn disarm_all(&self) {
        self.table().drain().for_each(|(_, over)| over.cancel());
    }
}

/// Refuses a view where there is no room for it to begin with.
pub(super) fn check_room(room: Room) -> Result<(), Failure> {
    let reserve = reserve(room.total);
    if room.free > reserve {
        return Ok(());
    }
    let what = format!(
        "the scratch folder's file system has {} free, and {} of it are left alone for whatever else lives there; free \
         some, or give the agent another scratch folder",
        size(room.free),
        size(reserve)
    );
    Err(Failure::new(FailureClass::Full, what))
}

/// Refuses copies of disks that can take more than there is room for, or than they may.
pub(super) fn check_copies(room: Room, needed: u64, limit: u64) -> Result<(), Failure> {
    let reserve = reserve(room.total);
    let free = room.free.saturating_sub(reserve);
    let what = if needed >= limit {
        format!("and may take {}; raise `scratch` under `[limits]` in the configuration", size(limit))
    } else if needed > free {
        format!(
            "and its file system has {} free, of which {} are left alone; free some, or give the agent another scratch \
             folder",
            size(room.free),
            size(reserve)
        )
    } else {
        return Ok(());
    };
    let why = "this QEMU must copy what is to be stored into the scratch folder first, since an iothread works on a disk of \
               the VM and a view of it must not be read; that can take";
    Err(Failure::new(FailureClass::Full, format!("{why} {} there, {what}", size(needed))))
}

/// Why a filter's view may be over though nobody gave it up.
pub(super) const BREAKS: &str = "a view of this kind breaks by itself where its scratch storage is full, fails, or is slower \
                                 than the guest may wait (`stall` under `[limits]` in the configuration)";

/// What a failure to read a view says, with what is known of why the view broke.
pub(crate) async fn explain(store: &Store, folders: &Folders, answer: Answer) -> Answer {
    let Answer::Settled(Outcome::Failed(failure)) = &answer else { return answer };
    if failure.class != FailureClass::ViewLost {
        return answer;
    }
    let noted = note::of_view(&folders.scratch_of(store.vm.id), store.installation, store.view).await;
    let why = match (noted.and_then(|note| note.given_up), store.way) {
        (Some(why), _) => why,
        (None, Way::CopyBeforeWrite) => BREAKS.to_owned(),
        (None, Way::BackupJob | Way::Push) => return answer,
    };
    Err(Failure::new(FailureClass::ViewLost, format!("{}; {why}", failure.what))).into()
}

/// What is left alone on a file system: a twentieth, but 1 GiB at least and 4 GiB at most, and no more than a quarter.
fn reserve(total: u64) -> u64 {
    (total / 20).clamp(1 << 30, 4 << 30).min(total / 4)
}

/// Why a view cannot go on, if it cannot. What came in one look may come in the next, and once more while the view is
/// taken down.
fn over(now: Room, grown: u64, note: &Note) -> Option<String> {
    let (ahead, limit, reserve) = (grown.saturating_mul(2), note.limits.scratch_bytes, reserve(now.total));
    let given_up = format!(
        "the view was given up so that the guest could go on: its scratch files took {}",
        size(now.used)
    );
    if now.used.saturating_add(ahead) >= limit {
        Some(format!(
            "{given_up}, and may take {}; raise `scratch` under `[limits]` in the configuration, or back this VM up when \
             it writes less",
            size(limit)
        ))
    } else if now.free <= reserve.saturating_add(ahead) {
        Some(format!(
            "{given_up}, and left {} free on their file system, of which {} are left alone; give the agent a scratch \
             folder with more room, or back this VM up when it writes less",
            size(now.free),
            size(reserve)
        ))
    } else {
        None
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// One guard at work.
struct Watch<'a> {
    note: Note,
    folders: &'a Folders,
}

impl Watch<'_> {
    async fn run(self) {
        let folder = self.folders.scratch_of(self.note.vm.id);
        let mut before: Option<Room> = None;
        loop {
            tokio::time::sleep(EVERY).await;
            if reach::gone(self.note.process) {
                return;
            }
            let now = match scratch::room_of(&folder, self.note.file(), self.note.scratch_files()).await {
                Ok(Some(now)) => now,
                Ok(None) => return,
                // Storage that does not answer now is not full now; and QEMU must not be touched while it does not.
                Err(_) => continue,
            };
            let grown = before.map_or(0, |before| now.used.saturating_sub(before.used));
            before = Some(now);
            let Some(why) = over(now, grown, &self.note) else { continue };
            match self.give_up(&why).await {
                Ok(()) => return,
                Err(stop) => {
                    tracing::error!(
                        vm = %self.note.vm.name, view = %self.note.view, stop = stop.why(), why,
                        "a view must end, and cannot be taken down yet; it is tried again"
                    );
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Takes the view out of QEMU, frees its scratch space, and leaves the reason for whoever comes to read it.
    async fn give_up(&self, why: &str) -> Result<(), Stop> {
        let Note { vm, process, installation, view, .. } = &self.note;
        let line = match reach::find(vm, *process, self.folders).await {
            Found::It(line) => line,
            Found::Gone(_) => return Ok(()),
            Found::Another(why) | Found::Silent(why) => {
                return Err(Stop::failed(FailureClass::Unreachable, why));
            }
        };
        tracing::warn!(vm = %vm.name, %view, why, "a view is given up");
        // First, since whoever reads the view may ask as soon as it is gone. It may have ended meanwhile.
        Note { given_up: Some(why.to_owned()), ..self.note.clone() }.rewrite(self.folders).await?;
        Objects::of(&line, *installation, *view).await?.remove(&line).await?;
        serve::stop_if_idle(&line, &self.folders.nbd_socket_of(vm.id)).await?;
        Ok(scratch::remove(&self.folders.scratch_of(vm.id), self.note.scratch_files()).await?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn the_reserve_fits_its_file_system() {
        assert_eq!(reserve(2000 * GIB), 4 * GIB);
        assert_eq!(reserve(40 * GIB), 2 * GIB);
        assert_eq!(reserve(10 * GIB), GIB);
        assert_eq!(reserve(16 * MIB), 4 * MIB);
        assert!(check_room(Room { used: 0, free: 4 * MIB + 1, total: 16 * MIB }).is_ok());
        let full = check_room(Room { used: 0, free: 4 * MIB, total: 16 * MIB }).unwrap_err();
        assert_eq!(full.class, FailureClass::Full);
        let room = Room { used: 0, free: 54 * GIB, total: 100 * GIB };
        assert!(check_copies(room, 50 * GIB, u64::MAX).is_ok());
        let full = check_copies(room, 51 * GIB, u64::MAX).unwrap_err().what;
        assert!(full.contains("51 GiB there") && full.contains("54 GiB free, of which 4 GiB"), "{full}");
        let limit = check_copies(room, 50 * GIB, 50 * GIB).unwrap_err().what;
        assert!(limit.contains("may take 50 GiB; raise `scratch`"), "{limit}");
    }

    #[test]
    fn a_view_is_given_up_before_its_limit_and_sooner_the_faster_it_grows() {
        let note = |scratch_bytes| Note {
            vm: journal::effect::VmAddress {
                id: journal::VmId(uuid::Uuid::nil()),
                name: "web-01".parse().unwrap(),
                qmp: String::new(),
                guest_agent: None,
            },
            process: journal::Process { pid: 1, started_ticks: 1, boot: uuid::Uuid::nil() },
            installation: Installation(1),
            view: IntentId(1),
            disks: 1,
            way: Way::BackupJob,
            limits: journal::effect::ViewLimits { scratch_bytes, stall_ms: 1 },
            instant: journal::Time(0),
            given_up: None,
        };
        let room = |used, free| Room { used, free, total: 100 * GIB };
        assert_eq!(over(room(5 * GIB, 50 * GIB), 0, &note(10 * GIB)), None);
        let limit = over(room(9 * GIB, 50 * GIB), GIB / 2, &note(10 * GIB)).unwrap();
        assert!(limit.contains("`scratch` under `[limits]`") && limit.contains("10 GiB"), "{limit}");
        assert_eq!(over(room(5 * GIB, 50 * GIB), GIB, &note(u64::MAX)), None);
        let full = over(room(5 * GIB, 6 * GIB), GIB, &note(u64::MAX)).unwrap();
        assert!(full.contains("6 GiB free") && full.contains("4 GiB are left alone"), "{full}");
    }
}
