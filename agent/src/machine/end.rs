//! `End`: a view goes, whatever there still is of it.

use journal::IntentId;
use journal::effect::End;
use journal::outcome::{Done, FailureClass};

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
    let socket = task.folders.nbd_socket_of(effect.vm.id);
    task.guards.disarm(effect.installation, effect.view);
    match reach::find(&effect.vm, effect.process, &task.folders).await {
        Found::It(line) => {
            Objects::of(&line, effect.installation, effect.view).await?.remove(&line).await?;
            serve::stop_if_idle(&line, &socket).await?;
        }
        Found::Gone(_) => serve::remove_if_dead(&socket).await,
        Found::Another(why) | Found::Silent(why) => {
            let what = format!(
                "{why}; the view is still there and costs scratch space until its QEMU answers or ends"
            );
            return Err(Stop::failed(FailureClass::Unreachable, what));
        }
    }
    scratch::remove_view(&task.folders.scratch_of(effect.vm.id), effect.installation, effect.view).await?;
    Ok(Done::Plain)
}
