//! Who and where this process is, as restic's files record it.
//!
//! Knows nothing of repositories.

use std::env;
use std::fs;

use rustix::process::{Pid, getgid, getuid, test_kill_process};
use rustix::system::uname;

/// The name of this host.
pub(crate) fn host_name() -> String {
    uname().nodename().to_string_lossy().into_owned()
}

/// The name of the user, or its number where the environment names none.
pub(crate) fn user_name() -> String {
    ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| user_id().to_string())
}

/// The number of the user.
pub(crate) fn user_id() -> u32 {
    getuid().as_raw()
}

/// The number of the group.
pub(crate) fn group_id() -> u32 {
    getgid().as_raw()
}

/// Whether a process of this number runs on this host. A process of another user counts: it answers "not permitted".
pub(crate) fn process_runs(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// When the process of this number started, in clock ticks since the machine did (proc(5), `stat`, field 22). With it a
/// number stands for one process only: a container or a machine that starts again gives the same numbers again.
pub(crate) fn process_start(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 2 is the name, which may hold anything; field 3 is the first behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_the_instant_of_its_start() {
        let us = std::process::id();
        assert!(process_start(us).is_some_and(|ticks| ticks > 0));
        assert_eq!(process_start(us), process_start(us));
        assert_eq!(process_start(4_194_305), None);
    }

    #[test]
    fn tells_the_living_from_the_dead() {
        assert!(process_runs(std::process::id()));
        assert!(!process_runs(0));
        assert!(!process_runs(u32::MAX));
        assert!(!process_runs(4_194_305), "above the kernel's largest possible pid");
        assert!(!host_name().is_empty());
        assert!(!user_name().is_empty());
    }
}
