//! Hosts on a real QEMU: a host that is at its limit holds back its VMs and says so; one that is given another name keeps them.

mod installation;

use std::fs;

use installation::{Installation, MIB, REPO, is_full, is_incremental, says, write};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::backstay::Backstay;
use tests::lab::{PATIENCE, require_qemu, until};

/// What the configuration says from the next start on.
fn configure(site: &Installation, host: &str) -> String {
    let file = site.path("up.toml");
    let text = format!("host = \"{host}\"\nlimits.jobs_per_host = 1\n");
    fs::write(&file, text).expect("the lab's folder takes a file");
    file
}

/// An installation on a host of this name, on which one job runs at once.
fn on_host(host: &str) -> Installation {
    let mut site = Installation::new();
    site.backstay.stop();
    let config = configure(&site, host);
    site.backstay = Backstay::start_with(&site.lab, "data", &["--config", &config], &[]);
    site
}

fn queue(site: &Installation, vm: &str) -> String {
    let queued = site.backstay.ok(&["backup", vm]);
    queued["jobs"][0]["id"].as_str().expect("a job").to_owned()
}

/// Waits until a job shows this in one of its fields.
fn until_shown(site: &Installation, id: &str, field: &str, part: &str) {
    until(&format!("{field} of {id} says `{part}`"), PATIENCE, || {
        let job = site.backstay.ok(&["job", "show", id]);
        job[field].as_str().is_some_and(|shown| shown.contains(part)).then_some(())
    });
}

#[test]
fn a_full_host_holds_back_its_vms_and_job_list_says_so() {
    if !require_qemu() {
        return;
    }
    let site = on_host("kvm-1");
    let mut one = site.vm("one", 1, 4 * MIB);
    let _two = site.vm("two", 1, 4 * MIB);
    one.process().signal(Signal::STOP);
    let first = queue(&site, "one");
    until_shown(&site, &first, "state", "running");
    let second = queue(&site, "two");
    until_shown(
        &site,
        &second,
        "reason",
        "1 at work on host kvm-1, as many as `limits.jobs_per_host` allows",
    );
    one.process().signal(Signal::CONT);
    for job in [first, second] {
        until_shown(&site, &job, "state", "done");
    }
}

#[test]
fn a_host_with_another_name_keeps_its_vms_and_their_chains() {
    if !require_qemu() {
        return;
    }
    let mut site = on_host("kvm-1");
    site.backstay.expect_log("run skipped");
    let qsd = site.vm("vm", 1, 4 * MIB);
    let file = site.path("rack.toml");
    let policy = format!(
        "name = \"rack\"\nrepositories = [\"{REPO}\"]\nselect.hosts = [\"kvm-1\"]\nschedules = [{{ cron = \"30 2 1 1 *\" }}]\n"
    );
    fs::write(&file, policy).expect("the lab's folder takes a file");
    site.backstay.ok(&["policy", "apply", "-f", &file]);
    let vms = |site: &Installation| site.backstay.ok(&["policy", "show", "rack"])["vms"].clone();
    let day = ["policy", "preview", "--from", "2030-01-01T00:00:00Z", "--to", "2030-01-02T00:00:00Z"];
    let load = json!([{ "hour": "2030-01-01T02:00:00Z", "host": "kvm-1", "backups": 1 }]);
    assert_eq!((vms(&site), &site.backstay.ok(&day)["load"]), (json!(["vm"]), &load));
    is_full(&site.backup("vm"), "disk0", "the first backup");

    site.backstay.stop();
    configure(&site, "kvm-2");
    site.backstay.restart();
    assert_eq!(site.backstay.ok(&["vm", "show", "vm"])["host"], "kvm-2");
    let log = site.backstay.ok(&["journal", "log", "--vm", "vm"]);
    let said = |kind: &str| -> Vec<String> {
        let of = log.as_array().into_iter().flatten().filter(|record| record["kind"] == kind);
        of.map(|record| record["summary"].as_str().expect("a text").to_owned()).collect()
    };
    says(&said("VmAdded").concat(), &["on host kvm-1"]);
    assert_eq!(said("VmHosted"), ["on host kvm-2"]);
    assert_eq!(vms(&site), json!([]));
    let preview = site.backstay.ok(&day);
    assert_eq!((&preview["runs"], &preview["load"]), (&json!([]), &json!([])));
    assert_eq!(preview["not_run"][0]["reason"], "the policy selects no VM");

    write(&qsd.file("disk0"), 0, 65536, 3);
    is_incremental(&site.backup("vm"), "disk0");
    site.backstay.stop();
    site.backstay.restart();
    let again = site.backstay.ok(&["journal", "log", "--vm", "vm"]);
    let hosted =
        again.as_array().into_iter().flatten().filter(|record: &&Value| record["kind"] == "VmHosted");
    assert_eq!(hosted.count(), 1, "the same name again is nothing new");
}
