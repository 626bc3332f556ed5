//! Real programs: what one is told, what is kept of it, how it is stopped; and which are not run at all.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use journal::effect::{TryEnd, VmAddress};
use journal::record::Mode;
use journal::wire::Progress;
use journal::{JobId, VmId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::task::Folders;

/// A folder for hooks, with one program.
struct Host(tempfile::TempDir);

impl Host {
    fn new(script: &str) -> Host {
        let host = Host(tempfile::tempdir().unwrap());
        fs::write(host.program(), format!("#!/bin/sh\n{script}\n")).unwrap();
        host.chmod("", 0o755);
        host.chmod("program", 0o755);
        host
    }

    fn program(&self) -> PathBuf {
        self.0.path().join("program")
    }

    fn chmod(&self, below: &str, mode: u32) {
        fs::set_permissions(self.0.path().join(below), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn permitted(&self, name: &str) -> Result<PathBuf, String> {
        permitted(Some(self.0.path()), name)
    }

    fn task(&self) -> Task {
        let at = |name| self.0.path().join(name);
        let hooks = Some(self.0.path().to_owned());
        let folders = Folders { state: at("state"), scratch: at("scratch"), sockets: at("run"), hooks };
        Task {
            folders: Arc::new(folders),
            repositories: Arc::default(),
            lines: Arc::default(),
            guards: Arc::default(),
            cancelled: CancellationToken::new(),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    async fn run(&self, side: HookSide, limit_ms: u64) -> Result<(), Failure> {
        run(&asked(side, limit_ms), &self.task()).await
    }
}

fn asked(side: HookSide, limit_ms: u64) -> Hook {
    let id = VmId(uuid::Uuid::from_u128(1));
    Hook {
        vm: VmAddress { id, name: "web".parse().unwrap(), qmp: "/q".into(), guest_agent: None },
        name: "program".parse().unwrap(),
        limit_ms,
        job: JobId(7),
        attempt: 2,
        policy: "nightly".parse().unwrap(),
        repository: "main".parse().unwrap(),
        mode: Mode::Full,
        side,
    }
}

const LONG: u64 = 60_000;

#[tokio::test]
async fn a_hook_is_told_of_its_try_and_of_nothing_else() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("env");
    let host = Host::new(&format!("env | sort > {}", file.display()));
    let after = HookSide::After { end: TryEnd::Failed, reason: Some("main is full\0".into()) };
    host.run(after, LONG).await.unwrap();
    let told = fs::read_to_string(&file).unwrap();
    let told: Vec<&str> = told.lines().filter(|line| line.starts_with("BACKSTAY_")).collect();
    let id = "BACKSTAY_VM_ID=00000000-0000-0000-0000-000000000001";
    let expected = [
        "BACKSTAY_ATTEMPT=2",
        "BACKSTAY_HOOK=after",
        "BACKSTAY_ID=j7.2.after",
        "BACKSTAY_JOB=j7",
        "BACKSTAY_MODE=full",
        "BACKSTAY_OUTCOME=failed",
        "BACKSTAY_POLICY=nightly",
        "BACKSTAY_REASON=main is full",
        "BACKSTAY_REPOSITORY=main",
        "BACKSTAY_VM=web",
        id,
    ];
    assert_eq!(told, expected);
    assert!(!fs::read_to_string(&file).unwrap().contains("CARGO"), "what started us is not passed on");
    host.run(HookSide::Before, LONG).await.unwrap();
    let told = fs::read_to_string(&file).unwrap();
    assert!(told.contains("BACKSTAY_ID=j7.2.before\n") && !told.contains("OUTCOME"), "{told}");
}

#[tokio::test]
async fn the_end_of_what_a_failing_hook_says_is_kept() {
    let host = Host::new("yes begin | head -n 1000; echo 'no lock' >&2; exit 3");
    let failure = host.run(HookSide::Before, LONG).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Refused);
    let what = &failure.what;
    assert!(what.starts_with("hook `program` (before) of web: exit status: 3; its last words: "), "{what}");
    assert!(what.ends_with("begin\nno lock") && what.len() < TAIL + 100, "{what}");
}

#[tokio::test]
async fn what_a_hook_leaves_running_holds_nobody_up() {
    let host = Host::new("sleep 600 & echo $!; exit 1");
    let failure = host.run(HookSide::Before, LONG).await.unwrap_err();
    let left = failure.what.rsplit(' ').next().unwrap().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_hook_is_stopped_at_its_limit_with_all_that_it_started() {
    let host = Host::new("trap '' TERM; echo waiting; sleep 600 & wait; wait");
    let failure = host.run(HookSide::Before, 200).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Refused);
    assert!(failure.what.contains("stopped after its limit of 200ms; its last words: waiting"), "{failure}");
}

#[tokio::test]
async fn a_hook_stops_when_its_job_is_cancelled() {
    let host = Host::new("echo up; exec sleep 600");
    let task = host.task();
    let cancel = task.cancelled.clone();
    let hook = asked(HookSide::Before, LONG);
    let (ended, ()) = tokio::join!(run(&hook, &task), async { cancel.cancel() });
    assert_eq!(ended.unwrap_err().class, FailureClass::Cancelled);
}

#[test]
fn what_somebody_else_may_have_put_there_is_not_run() {
    let host = Host::new("true");
    assert_eq!(host.permitted("program").unwrap(), fs::canonicalize(host.program()).unwrap());
    let refused = |name: &str, why: &str| {
        let refused = host.permitted(name).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    };
    refused("other", "No such file");
    std::os::unix::fs::symlink("/bin/sh", host.0.path().join("link")).unwrap();
    refused("link", "is no executable file");
    for (below, mode, why) in [
        ("program", 0o775, "may be written to by others"),
        ("program", 0o644, "is no executable file"),
        ("", 0o757, "may be written to by others"),
        // Who may not touch another's file there may still put in one of their own.
        ("", 0o1777, "may be written to by others"),
    ] {
        host.chmod(below, mode);
        refused("program", why);
        host.chmod(below, 0o755);
    }
    assert!(host.permitted("program").is_ok());
    assert!(permitted(None, "program").unwrap_err().contains("no folder for hooks"));
}
