//! `Freeze` and `Thaw`, through the guest agent.
//!
//! A guest must never stay frozen because an answer was lost: a freeze is called failed only when a thaw, or the
//! agent itself, has confirmed that nothing is frozen.

use std::path::Path;
use std::time::Duration;

use journal::IntentId;
use journal::effect::{Freeze, Thaw, VmAddress};
use journal::outcome::{Done, Failure, FailureClass};

use crate::qmp::guest::GuestAgent;
use crate::qmp::{Limits, QmpError};
use crate::task::{Answer, Task};

/// How long the agent may take to thaw; while it still works on a freeze, it hears nothing else.
const THAW: Duration = Duration::from_secs(10);

/// How long the agent may take to say whether it is frozen.
const STATUS: Duration = Duration::from_secs(5);

pub(crate) async fn freeze(_: IntentId, effect: &Freeze, task: &Task) -> Answer {
    let Some(socket) = &effect.vm.guest_agent else {
        let what = format!("{}: no guest agent's socket is known, so it cannot be frozen", effect.vm.name);
        return Err(Failure::new(FailureClass::Invalid, what)).into();
    };
    if task.cancelled.is_cancelled() {
        return Err(Failure::new(FailureClass::Cancelled, "cancelled before the freeze")).into();
    }
    let mut agent = match GuestAgent::connect(Path::new(socket), Limits::default()).await {
        Ok(agent) => agent,
        Err(error) => return Err(unreachable(&effect.vm, &error)).into(),
    };
    // An earlier performing, whose answer was lost, may have frozen it.
    match agent.is_frozen(STATUS).await {
        Ok(true) => return Ok(Done::Plain).into(),
        Ok(false) => {}
        Err(error) => {
            return take_back(&mut agent, &effect.vm, refused_or_unreachable(&error), error.to_string())
                .await;
        }
    }
    match agent.freeze(Duration::from_millis(effect.limit_ms)).await {
        Ok(0) => {
            let what = "the guest agent found no file system that can be frozen".to_owned();
            take_back(&mut agent, &effect.vm, FailureClass::Refused, what).await
        }
        Ok(_) => Ok(Done::Plain).into(),
        Err(error) => {
            take_back(&mut agent, &effect.vm, refused_or_unreachable(&error), error.to_string()).await
        }
    }
}

/// A freeze that did not go well: thaw, and only then say that it failed.
async fn take_back(agent: &mut GuestAgent, vm: &VmAddress, class: FailureClass, why: String) -> Answer {
    match confirm_thawed(agent).await {
        Ok(_) => Err(Failure::new(class, format!("{}: {why}; nothing is frozen", vm.name))).into(),
        Err(error) => {
            Answer::Unknown(format!("{}: {why}; and then the thaw was not confirmed: {error}", vm.name))
        }
    }
}

pub(crate) async fn thaw(_: IntentId, effect: &Thaw, _: &Task) -> Answer {
    // Without an agent nothing was ever frozen.
    let nothing = Done::Thawed { filesystems: 0 };
    let Some(socket) = &effect.vm.guest_agent else { return Ok(nothing).into() };
    let mut agent = match GuestAgent::connect(Path::new(socket), Limits::default()).await {
        Ok(agent) => agent,
        // The guest ended, and its freeze with it.
        Err(QmpError::NotThere { .. } | QmpError::Refused { .. }) => return Ok(nothing).into(),
        Err(error) => return Err(unreachable(&effect.vm, &error)).into(),
    };
    match confirm_thawed(&mut agent).await {
        Ok(filesystems) => Ok(Done::Thawed { filesystems }).into(),
        Err(failure) => Err(Failure::new(failure.class, format!("{}: {failure}", effect.vm.name))).into(),
    }
}

/// Thaws, asks whether it did, and answers how many file systems it was. An agent that cannot thaw cannot freeze either.
async fn confirm_thawed(agent: &mut GuestAgent) -> Result<u64, Failure> {
    let failure = |error: QmpError| Failure::new(refused_or_unreachable(&error), error.to_string());
    let thawed = match agent.thaw(THAW).await {
        Ok(thawed) => thawed,
        Err(QmpError::CommandNotFound { .. }) => return Ok(0),
        Err(error) => return Err(failure(error)),
    };
    match agent.is_frozen(STATUS).await.map_err(failure)? {
        false => Ok(thawed),
        true => {
            Err(Failure::new(FailureClass::Refused, "the guest says that it is frozen after it was thawed"))
        }
    }
}

fn unreachable(vm: &VmAddress, error: &QmpError) -> Failure {
    let what = format!("{}: the guest agent does not answer: {error}", vm.name);
    Failure::new(FailureClass::Unreachable, what)
}

fn refused_or_unreachable(error: &QmpError) -> FailureClass {
    match error {
        QmpError::Refusal { .. } | QmpError::CommandNotFound { .. } => FailureClass::Refused,
        _ => FailureClass::Unreachable,
    }
}
