//! Hooks: programs that the operator of this host has put into one folder, for backups to run around their tries.
//!
//! Whoever writes policies names a hook, and only names it: what runs under that name is this host's. So the folder, all
//! above it and the program may be written to by nobody but root and the user whom Backstay runs as. A hook is told all that
//! it needs in its environment, which holds nothing else; it may run for so long, and its last words are kept if it fails.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use journal::IntentId;
use journal::effect::{Hook, HookSide};
use journal::outcome::{Done, Failure, FailureClass};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::task::{Answer, Task};

/// Where a hook looks for programs: nothing of how Backstay itself was started reaches it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a hook has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// So much of the end of what a hook says is kept, in bytes.
const TAIL: usize = 1000;

/// Performs [`journal::Effect::Hook`]. One that was performed before is performed again: only the hook can tell.
pub(crate) async fn hook(_: IntentId, effect: &Hook, task: &Task) -> Answer {
    run(effect, task).await.map(|()| Done::Plain).into()
}

async fn run(effect: &Hook, task: &Task) -> Result<(), Failure> {
    let failure = |class, what: String| {
        let Hook { name, side, vm, .. } = effect;
        Failure::new(class, format!("hook `{name}` ({}) of {}: {what}", side.name(), vm.name))
    };
    let (folders, name) = (task.folders.clone(), effect.name.clone());
    // Aside: the storage under the folder may be slow.
    let looked = tokio::task::spawn_blocking(move || permitted(folders.hooks.as_deref(), name.as_str()));
    let program = looked.await.map_err(|error| failure(FailureClass::Host, error.to_string()))?;
    let program = program.map_err(|why| failure(FailureClass::Invalid, why))?;
    if task.cancelled.is_cancelled() {
        return Err(failure(FailureClass::Cancelled, "cancelled before it was run".to_owned()));
    }
    let cannot = |error: std::io::Error| {
        failure(FailureClass::Host, format!("{} cannot be run: {error}", program.display()))
    };
    let (hears, says) = std::io::pipe().map_err(cannot)?;
    let mut command = Command::new(&program);
    command.env_clear().env("PATH", PATH).envs(told(effect)).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(says.try_clone().map_err(cannot)?).stderr(says);
    let mut child = command.spawn().map_err(cannot)?;
    // With the command goes our end of what the hook writes to.
    drop(command);
    let hears = pipe::Receiver::from_owned_fd(OwnedFd::from(hears)).map_err(cannot)?;
    let limit = Duration::from_millis(effect.limit_ms);
    let (stopped, status, said) = attend(&mut child, hears, limit, task).await.map_err(cannot)?;
    let words = match said.trim() {
        "" => "it said nothing".to_owned(),
        said => format!("its last words: {said}"),
    };
    match stopped {
        Some(Stopped::Late) => {
            Err(failure(FailureClass::Refused, format!("stopped after its limit of {limit:?}; {words}")))
        }
        Some(Stopped::Cancelled) => Err(failure(FailureClass::Cancelled, format!("stopped; {words}"))),
        None if status.success() => Ok(()),
        None => Err(failure(FailureClass::Refused, format!("{status}; {words}"))),
    }
}

/// Why a hook was stopped.
enum Stopped {
    Late,
    Cancelled,
}

/// Waits for the end of a hook, and sees to it that there is one; the end of what it said. What it leaves running does not
/// hold us up.
async fn attend(
    child: &mut Child,
    mut hears: pipe::Receiver,
    limit: Duration,
    task: &Task,
) -> std::io::Result<(Option<Stopped>, ExitStatus, String)> {
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let signal = |signal| {
        // One that has ended has nobody left to hear it.
        let _heard = group.map(|group| kill_process_group(group, signal));
    };
    let (mut said, mut closed, mut stopped) = (Vec::new(), false, None);
    let mut until = Instant::now() + limit;
    let mut buffer = [0; 4096];
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            read = hears.read(&mut buffer), if !closed => match read {
                Ok(0) | Err(_) => closed = true,
                Ok(bytes) => keep(&mut said, &buffer[..bytes]),
            },
            () = tokio::time::sleep_until(until) => {
                signal(if stopped.is_none() { Signal::TERM } else { Signal::KILL });
                stopped.get_or_insert(Stopped::Late);
                until = Instant::now() + GRACE;
            }
            () = task.cancelled.cancelled(), if stopped.is_none() => {
                signal(Signal::TERM);
                stopped = Some(Stopped::Cancelled);
                until = Instant::now() + GRACE;
            }
        }
    };
    while let Ok(bytes @ 1..) = hears.try_read(&mut buffer) {
        keep(&mut said, &buffer[..bytes]);
    }
    Ok((stopped, status, String::from_utf8_lossy(&said).into_owned()))
}

fn keep(said: &mut Vec<u8>, more: &[u8]) {
    said.extend_from_slice(more);
    said.drain(..said.len().saturating_sub(TAIL));
}

/// What a hook is told, in its environment.
fn told(hook: &Hook) -> Vec<(&'static str, String)> {
    let side = hook.side.name();
    let mode = serde_json::to_value(hook.mode).ok();
    let mode = mode.as_ref().and_then(|mode| mode.as_str()).unwrap_or_default().to_owned();
    let mut told = vec![
        ("BACKSTAY_HOOK", side.to_owned()),
        ("BACKSTAY_ID", format!("{}.{}.{side}", hook.job, hook.attempt)),
        ("BACKSTAY_JOB", hook.job.to_string()),
        ("BACKSTAY_ATTEMPT", hook.attempt.to_string()),
        ("BACKSTAY_VM", hook.vm.name.to_string()),
        ("BACKSTAY_VM_ID", hook.vm.id.to_string()),
        ("BACKSTAY_POLICY", hook.policy.to_string()),
        ("BACKSTAY_REPOSITORY", hook.repository.to_string()),
        ("BACKSTAY_MODE", mode),
    ];
    if let HookSide::After { end, reason } = &hook.side {
        told.push(("BACKSTAY_OUTCOME", end.name().to_owned()));
        // No environment holds a zero byte.
        told.push(("BACKSTAY_REASON", reason.as_deref().unwrap_or_default().replace('\0', "")));
    }
    told
}

/// The program of a name, if nobody but root and ourselves can have put it there.
fn permitted(folder: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    let Some(folder) = folder else {
        return Err(
            "this host has no folder for hooks; name one as `hooks` in the configuration file of `up`".into(),
        );
    };
    let at = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let folder = fs::canonicalize(folder).map_err(|error| at(folder, error))?;
    for above in folder.ancestors() {
        let found = fs::symlink_metadata(above).map_err(|error| at(above, error))?;
        // In a folder with the sticky bit, such as /tmp, nobody touches what is another's.
        let shared = above != folder && found.mode() & 0o1000 != 0;
        ours_alone(above, &found, shared)?;
    }
    let program = folder.join(name);
    let found = fs::symlink_metadata(&program).map_err(|error| at(&program, error))?;
    if !found.is_file() || found.mode() & 0o111 == 0 {
        return Err(format!("{} is no executable file", program.display()));
    }
    ours_alone(&program, &found, false)?;
    Ok(program)
}

fn ours_alone(path: &Path, found: &fs::Metadata, shared: bool) -> Result<(), String> {
    let owner = found.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(format!(
            "{} is the user {owner}'s, who could put anything there: give it to root",
            path.display()
        ));
    }
    if found.mode() & 0o022 != 0 && !shared {
        return Err(format!(
            "{} may be written to by others, who could put anything there: chmod go-w",
            path.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
