//! `Clean`: leftovers that reconcile named, and nothing else. A name that does not carry the mark of the effect's own
//! installation is refused before anything is touched.

use journal::IntentId;
use journal::effect::Clean;
use journal::names::{self, Owner};
use journal::outcome::{Done, FailureClass};

use super::reach::{self, Found};
use super::takedown::Objects;
use super::{DYING, Stop, answer, scratch, serve};
use crate::task::{Answer, Task};

pub(crate) async fn clean(_: IntentId, effect: &Clean, task: &Task) -> Answer {
    match run(effect, task).await {
        // With the process went everything but the files.
        Err(Stop::Lost(_)) if reach::gone_within(effect.process, DYING).await => {
            answer(run(effect, task).await)
        }
        end => answer(end),
    }
}

async fn run(effect: &Clean, task: &Task) -> Result<Done, Stop> {
    refuse_foreign(effect)?;
    let socket = task.folders.nbd_socket_of(effect.vm.id);
    match reach::find(&effect.vm, effect.process, &task.folders).await {
        Found::It(line) => {
            let Clean { exports, jobs, nodes, bitmaps, .. } = effect.clone();
            let there = Objects { exports, jobs, nodes, bitmaps };
            there.present(&line).await?.with_filters(&line).await?.remove(&line).await?;
            serve::stop_if_idle(&line, &socket).await?;
        }
        Found::Gone(_) => {
            only_files(effect)?;
            serve::remove_if_dead(&socket).await;
        }
        Found::Another(why) | Found::Silent(why) => return Err(Stop::failed(FailureClass::Unreachable, why)),
    }
    scratch::remove(&task.folders.scratch_of(effect.vm.id), effect.files.clone()).await?;
    Ok(Done::Plain)
}

/// Exports, jobs and nodes end with their process. A bitmap may be stored in the image, where nobody can reach it.
fn only_files(effect: &Clean) -> Result<(), Stop> {
    if effect.bitmaps.is_empty() {
        return Ok(());
    }
    let what = format!(
        "{}: the QEMU process is gone, and its bitmaps may be stored; observe the VM again",
        effect.vm.name
    );
    Err(Stop::failed(FailureClass::ProcessGone, what))
}

fn refuse_foreign(effect: &Clean) -> Result<(), Stop> {
    let ours = |name: &str| names::owner(name).filter(|owner| owner.installation() == effect.installation);
    let temporary = |name: &&String| !matches!(ours(name), Some(Owner::Temporary(..)));
    let objects =
        effect.exports.iter().chain(&effect.jobs).chain(&effect.nodes).chain(&effect.files).find(temporary);
    let bitmaps = effect.bitmaps.iter().map(|(_, name)| name).find(|name| ours(name).is_none());
    match objects.or(bitmaps) {
        None => Ok(()),
        Some(foreign) => {
            let what = format!(
                "`{foreign}` is not ours (installation {}): nothing was touched",
                effect.installation
            );
            Err(Stop::failed(FailureClass::Invalid, what))
        }
    }
}
