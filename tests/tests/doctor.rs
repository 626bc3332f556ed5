//! `doctor` beside other work: its look neither holds the journal up nor waits for it.

use std::fs;
use std::time::{Duration, Instant};

use tests::backstay::Backstay;
use tests::lab::{Lab, require_qemu};
use tests::qsd::{Options, Qsd};
use tests::restic::Restic;

/// Something to append every second, and nothing to do: runs of a paused policy.
const POLICY: &str = r#"
[[policy]]
name = "busy"
repositories = ["repo"]
select.names = ["*"]
keep = "last=1"

[[policy.schedules]]
cron = "@every 1s"
"#;

/// Looks for five seconds: most of that time is within a look, and a record is appended in each second.
#[test]
fn the_journal_goes_on_while_the_doctor_looks() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let qsd = Qsd::start(&lab, Options::new("vm", 1, 4 << 20));
    let restic = Restic::new(&lab, "repo");
    let mut backstay = Backstay::start(&lab, "data");
    backstay.expect_log("run skipped");
    backstay.ok(&["vm", "add", "vm", "--qmp", &qsd.qmp_socket().to_string_lossy(), "--disk", "disk0=disk0"]);
    let (path, password) = (restic.repository().to_string_lossy(), restic.password_file().to_string_lossy());
    backstay.ok(&["repo", "add", "repo", "--path", &path, "--password-file", &password]);

    let policy = lab.path("policy.toml");
    fs::write(&policy, POLICY).expect("the lab's folder takes a file");
    backstay.ok(&["policy", "apply", "-f", &policy.to_string_lossy()]);
    backstay.ok(&["policy", "pause", "busy"]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        assert_eq!(backstay.ok(&["doctor"])["ok"], true);
    }
}
