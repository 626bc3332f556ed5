//! `End`: a view goes, whatever there still is of it.

use journal::effect::{End, VmAddress};
use journal::outcome::{Done, Failure, FailureClass};
use journal::{Installation, IntentId};

use super::reach::{self, Found};
use super::takedown::Objects;
use super::{DYING, Stop, answer, scratch, serve};
use crate::task::{Answer, Task};

pub(crate) async fn end(_: IntentId, effect: &End, task: &Task) -> Answer {
    match run(effect, task).await {
        // With the process went everything but the files.
        Err(Stop::Lost(_)) if reach::gone_within(effect.process, DYING).await => {
            answer(run(effect, task).await)
        }
        end => answer(end),
    }
}

async fn run(effect: &End, task: &Task) -> Result<Done, Stop> {
    task.guards.disarm(effect.installation, effect.view);
    match reach::find(&effect.vm, effect.process, &task.folders).await {
        Found::It(line) => {
            Objects::of(&line, effect.installation, effect.view).await?.remove(&line).await?;
            serve::stop_if_idle(&line, &task.folders.nbd_socket_of(effect.vm.id)).await?;
        }
        Found::Gone(_) => {}
        Found::Another(why) | Found::Silent(why) => {
            let what = format!(
                "{why}; the view is still there and costs scratch space until its QEMU answers or ends"
            );
            return Err(Stop::failed(FailureClass::Unreachable, what));
        }
    }
    remove_files(&effect.vm, effect.installation, effect.view, task).await?;
    Ok(Done::Plain)
}

/// Removes what is left of a view once nothing of it is in a QEMU any more, and its socket if nobody listens there.
pub(super) async fn remove_files(
    vm: &VmAddress,
    installation: Installation,
    view: IntentId,
    task: &Task,
) -> Result<(), Failure> {
    serve::remove_if_dead(&task.folders.nbd_socket_of(vm.id)).await;
    scratch::remove_view(&task.folders.scratch_of(vm.id), installation, view).await
}
