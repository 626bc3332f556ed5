//! `Offer`: a view stays up for readers outside until a time. Nothing is changed here: the readers come to QEMU's NBD
//! server, and what is watched is only whether there is still something to come to: whether QEMU lives, whether the guard
//! gave the view up, and whether it can be read.

use std::path::Path;
use std::time::Duration;

use journal::effect::{Offer, Way};
use journal::names::{self, Role};
use journal::outcome::{Done, Failure, FailureClass};
use journal::{IntentId, Time};

use super::guard::BREAKS;
use super::note::{self, Note};
use super::{now, reach};
use crate::nbd::{Limits, Nbd, NbdError};
use crate::task::{Answer, Task};

/// The wall clock may be set while a view is offered: it is asked again at least so often.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How often a sector of each disk is read.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Bytes of one.
const SECTOR: usize = 512;

pub(crate) async fn offer(_: IntentId, effect: &Offer, task: &Task) -> Answer {
    if reach::gone(effect.process) {
        return Err(ended(effect)).into();
    }
    let Some(note) = noted(effect, task).await.filter(|note| note.given_up.is_none()) else {
        return Err(lost(effect, task).await).into();
    };
    let broken = broken(&note, task);
    // Watched already, unless another agent began it.
    task.guards.arm(note.clone(), &task.folders);
    let over = task.guards.over(effect.installation, effect.view);
    tokio::select! {
        () = over.cancelled() => Err(lost(effect, task).await),
        what = broken => Err(Failure::new(FailureClass::ViewLost, what)),
        () = task.cancelled.cancelled() => {
            Err(Failure::new(FailureClass::Cancelled, "removed before its time was over"))
        }
        () = reached(effect.until) => Ok(Done::Plain),
    }
    .into()
}

async fn noted(effect: &Offer, task: &Task) -> Option<Note> {
    note::of_view(&task.folders.scratch_of(effect.vm.id), effect.installation, effect.view).await
}

/// Why there is nothing to offer any more.
async fn lost(effect: &Offer, task: &Task) -> Failure {
    if reach::gone(effect.process) {
        return ended(effect);
    }
    let given_up = noted(effect, task).await.and_then(|note| note.given_up);
    let taken_down = || {
        format!(
            "the view of {} on {} is not there any more, or its storage is not",
            effect.view, effect.vm.name
        )
    };
    Failure::new(FailureClass::ViewLost, given_up.unwrap_or_else(taken_down))
}

fn ended(effect: &Offer) -> Failure {
    let what = format!("QEMU ended ({}), and the export with it", effect.process);
    Failure::new(FailureClass::ProcessGone, what)
}

/// Until a disk of a filter's view cannot be read any more: what QEMU says. Nobody else is told that such a view broke.
async fn broken(note: &Note, task: &Task) -> String {
    if note.way != Way::CopyBeforeWrite {
        return std::future::pending().await;
    }
    let socket = task.folders.nbd_socket_of(note.vm.id);
    let mut readers = Vec::from_iter((0..note.disks).map(|_| None));
    loop {
        tokio::time::sleep(READ_AGAIN).await;
        for (disk, reader) in readers.iter_mut().enumerate() {
            let export = names::temporary(note.installation, note.view, disk, Role::Export);
            if let Err(error @ NbdError::Server { .. }) = read_sector(reader, &socket, &export).await {
                return format!("{error}; {BREAKS}");
            }
        }
    }
}

/// Anything but QEMU's own word says nothing about the view: it is asked again, by a new connection.
async fn read_sector(reader: &mut Option<Nbd>, socket: &Path, export: &str) -> Result<(), NbdError> {
    let open = match reader.take() {
        Some(open) => open,
        None => Nbd::connect(socket, export, &[], Limits::default()).await?,
    };
    open.read(0, vec![0; SECTOR]).await?;
    *reader = Some(open);
    Ok(())
}

async fn reached(until: Time) {
    loop {
        let left = Duration::from_micros(u64::try_from(until.0.saturating_sub(now().0)).unwrap_or(0));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(ASK_AGAIN)).await;
    }
}
