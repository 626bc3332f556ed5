//! Which process listens on a socket, and whether it is still there.
//!
//! A pid alone is reused; pid and start time together name one process within one boot of the host.

use super::error::QmpError;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use tokio::net::unix::UCred;

/// One process of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its pid in the agent's PID namespace.
    pub pid: u32,
    /// Clock ticks from boot to its start: field 22 of `/proc/PID/stat`, proc(5).
    pub start_time: u64,
}

/// The process at the other end of a unix socket, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process that called `listen`.
    pub process: Process,
    /// Its effective user then.
    pub uid: u32,
    /// Its effective group then.
    pub gid: u32,
}

impl Peer {
    /// Completes what SO_PEERCRED says with the start time. A pid of 0 is a process of another namespace.
    pub(super) fn from_credentials(path: &Path, credentials: io::Result<UCred>) -> Result<Self, QmpError> {
        let fail = |why: String| QmpError::NotIdentified { path: path.into(), why };
        let credentials = credentials.map_err(|error| fail(error.to_string()))?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let pid = pid.ok_or_else(|| fail("the socket tells no pid".into()))?;
        let stat = Stat::read(pid).map_err(|error| fail(format!("/proc/{pid}/stat: {error}")))?;
        let process = Process { pid, start_time: stat.start_time };
        Ok(Self { process, uid: credentials.uid(), gid: credentials.gid() })
    }
}

/// Whether the process may still act. False is a proof that it does not: no such pid, the pid belongs to a
/// later process, or only its exit status is left. Where nothing can be proved the answer is true.
pub fn alive(process: Process) -> bool {
    match Stat::read(process.pid) {
        Ok(stat) => stat.start_time == process.start_time && !stat.ended,
        // With hidepid, /proc hides other users' processes; kill(2) does not.
        Err(error) if error.kind() == io::ErrorKind::NotFound => may_exist(process.pid),
        Err(error) => error.raw_os_error() != Some(Errno::SRCH.raw_os_error()),
    }
}

fn may_exist(pid: u32) -> bool {
    match i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        Some(pid) => rustix::process::test_kill_process(pid) != Err(Errno::SRCH),
        None => false,
    }
}

struct Stat {
    start_time: u64,
    ended: bool,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Self> {
        let text = std::fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not as proc(5) says"))
    }

    /// The name in field 2 may hold spaces and parentheses, so counting starts after the last one.
    fn parse(text: &[u8]) -> Option<Self> {
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<&str> =
            std::str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace().collect();
        let state = *fields.first()?;
        let threads: u64 = fields.get(17)?.parse().ok()?;
        // A leader is a zombie already while other threads of it still finish their writes.
        let ended = matches!(state, "Z" | "X") && threads <= 1;
        Some(Self { start_time: fields.get(19)?.parse().ok()?, ended })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "7 (a ) R (b) S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 3 0 987654 5 6\n";
        let stat = Stat::parse(line.as_bytes()).unwrap();
        assert_eq!((stat.start_time, stat.ended), (987_654, false));
        assert!(Stat::parse(b"7 (x) Z").is_none());
        assert!(
            Stat::parse(line.replace(" S ", " Z ").as_bytes()).is_some_and(|stat| !stat.ended),
            "threads remain"
        );
    }

    #[test]
    fn we_are_alive_and_a_reaped_child_is_not() {
        let pid = std::process::id();
        let me = Process { pid, start_time: Stat::read(pid).unwrap().start_time };
        assert!(alive(me));
        assert!(!alive(Process { start_time: me.start_time + 1, ..me }), "a later process of this pid");
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let it = Process { pid: child.id(), start_time: Stat::read(child.id()).unwrap().start_time };
        assert!(alive(it));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!alive(it));
    }
}
