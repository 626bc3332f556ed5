//! Hooks on a real QEMU: what runs around the backups of a policy, and that what comes after one comes whatever happens in
//! between.

mod installation;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use installation::{Installation, MIB, REPO, says, text};
use serde_json::Value;
use tests::backstay::Backstay;
use tests::lab::{Lab, PATIENCE, require_qemu, until};
use tests::qsd::Qsd;
use tests::restic::Restic;

/// An installation with a folder for hooks, a VM, and a policy for it that is paused.
struct Host {
    site: Installation,
    _qsd: Qsd,
}

impl Host {
    #[track_caller]
    fn new() -> Host {
        let lab = Lab::new();
        let restic = Restic::new(&lab, REPO);
        restic.init_cheap();
        let config = lab.path("backstay.toml");
        fs::write(&config, "hooks = \"hooks\"\n").expect("the lab's folder takes a file");
        let hooks = lab.folder("hooks");
        fs::set_permissions(&hooks, fs::Permissions::from_mode(0o755)).expect("a folder of ours");
        let backstay = Backstay::start_with(&lab, "data", &["--config", &text(&config)], &[]);
        let site = Installation { backstay, restic, lab };
        let (path, password) = (site.repository(), site.password());
        site.backstay.ok(&["repo", "add", REPO, "--path", &path, "--password-file", &password]);
        let qsd = site.vm("vm", 1, 4 * MIB);
        let host = Host { site, _qsd: qsd };
        host.hook("quiesce", "");
        host.hook("resume", "");
        host.apply();
        host
    }

    /// Applied with another selection first, so that nothing runs before it is paused.
    fn apply(&self) {
        let file = self.site.lab.path("policy.toml");
        for vms in ["nobody", "vm"] {
            let policy = format!(
                "name = \"p\"\nrepositories = [\"{REPO}\"]\nselect.names = [\"{vms}\"]\nretry.attempts = 1\n\
                 hooks = {{ before = \"quiesce\", after = \"resume\", limit = \"20s\" }}\n\
                 schedules = [{{ cron = \"@every 1s\" }}]\n"
            );
            fs::write(&file, policy).expect("the lab's folder takes a file");
            self.site.backstay.ok(&["policy", "apply", "-f", &text(&file)]);
            self.site.backstay.ok(&["policy", "pause", "p"]);
        }
    }

    /// Puts a program into the folder. It writes down what it is told, and goes on with `more`.
    #[track_caller]
    fn hook(&self, name: &str, more: &str) {
        let told = "$BACKSTAY_ID $BACKSTAY_VM $BACKSTAY_OUTCOME";
        let script = format!("#!/bin/sh\necho \"{told}\" >> {}\n{more}\n", text(&self.site.lab.path("told")));
        let program = self.site.lab.path("hooks").join(name);
        write_program(&program, &script);
    }

    /// What the programs were told in the tries of a job, in order.
    fn told(&self, job: &str) -> Vec<String> {
        let told = fs::read_to_string(self.site.lab.path("told")).unwrap_or_default();
        let of_job = told.lines().filter_map(|line| line.strip_prefix(job)?.strip_prefix(".1."));
        of_job.map(|line| line.trim_end().to_owned()).collect()
    }

    fn jobs(&self) -> Vec<Value> {
        let jobs = self.site.backstay.ok(&["job", "list"]);
        jobs.as_array().into_iter().flatten().filter(|job| job["policy"] == "p").cloned().collect()
    }

    /// Lets the policy go on until it has queued one more job; that job's id. Another may follow before the pause holds.
    #[track_caller]
    fn queue_one(&self) -> String {
        let before = self.jobs().len();
        self.site.backstay.ok(&["policy", "resume", "p"]);
        let id = until("a run is queued", PATIENCE, || {
            let jobs = self.jobs();
            let newer = jobs.len().checked_sub(before + 1)?;
            Some(jobs[newer]["id"].as_str().expect("a job has an id").to_owned())
        });
        self.site.backstay.ok(&["policy", "pause", "p"]);
        id
    }

    #[track_caller]
    fn until_over(&self, id: &str) -> Value {
        until(&format!("{id} is over"), PATIENCE, || {
            let job = self.site.backstay.ok(&["job", "show", id]);
            let over = ["done", "failed", "cancelled"].iter().any(|state| job["state"] == *state);
            over.then_some(job)
        })
    }

    /// Lets the policy go on until the server dies; the id of its run, by what the first program was told.
    #[track_caller]
    fn run_until_it_dies(&mut self) -> String {
        fs::remove_file(self.site.lab.path("told")).ok();
        self.site.backstay.ok(&["policy", "resume", "p"]);
        let process = self.site.backstay.process();
        until("the crash", PATIENCE, || (!process.is_running()).then_some(()));
        let told = fs::read_to_string(self.site.lab.path("told")).expect("a hook ran");
        told.split('.').next().expect("an id").to_owned()
    }

    /// Starts the server again, and waits until all that the policy has queued is over.
    #[track_caller]
    fn restart(&mut self) {
        self.site.backstay.restart();
        self.site.backstay.ok(&["policy", "pause", "p"]);
        for job in self.jobs() {
            self.until_over(job["id"].as_str().expect("a job has an id"));
        }
    }
}

#[track_caller]
fn write_program(path: &Path, script: &str) {
    // Under another name first: what is being written cannot be run.
    let new = path.with_extension("new");
    fs::write(&new, script).expect("the folder takes a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    fs::rename(&new, path).expect("a name in the same folder");
}

fn effects(job: &Value) -> Vec<&str> {
    job["steps"].as_array().into_iter().flatten().filter_map(|step| step["effect"].as_str()).collect()
}

#[test]
fn hooks_run_around_each_try_and_what_they_say_counts() {
    if !require_qemu() {
        return;
    }
    let mut host = Host::new();
    host.site.backstay.expect_log("job failed");
    let id = host.queue_one();
    let job = host.until_over(&id);
    assert_eq!((job["state"].as_str(), job["reason"].as_str()), (Some("done"), None), "{job}");
    assert_eq!(effects(&job), ["hook-before", "begin", "store", "end", "hook-after"]);
    assert_eq!(host.told(&id), ["before vm", "after vm done"]);

    host.hook("quiesce", "echo 'no lock to be had' >&2; exit 3");
    let id = host.queue_one();
    let job = host.until_over(&id);
    assert_eq!(job["state"], "failed", "{job}");
    says(
        job["reason"].as_str().unwrap_or_default(),
        &["nothing was begun", "exit status: 3", "no lock to be had"],
    );
    assert_eq!(effects(&job), ["hook-before", "hook-after"]);
    assert_eq!(host.told(&id), ["before vm", "after vm failed"]);

    host.hook("quiesce", "");
    host.hook("resume", "exit 4");
    let id = host.queue_one();
    let job = host.until_over(&id);
    assert_eq!(job["state"], "done", "{job}");
    says(job["reason"].as_str().unwrap_or_default(), &["hook `resume` (after) of vm", "exit status: 4"]);

    // What anybody could have put there is not run.
    let program = host.site.lab.path("hooks").join("quiesce");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).expect("a file of ours");
    let id = host.queue_one();
    let job = host.until_over(&id);
    says(job["reason"].as_str().unwrap_or_default(), &["may be written to by others"]);
    assert_eq!(host.told(&id), ["after vm failed"]);
}

#[test]
fn what_comes_after_a_backup_comes_after_any_crash() {
    if !require_qemu() {
        return;
    }
    let mut host = Host::new();
    host.site.backstay.expect_log("removing a stale lock");
    // In the middle of the backup: it goes on, and the program is told how it ended.
    host.site.backstay.stop();
    host.site.backstay.set_environment("BACKSTAY_CRASH_AT", Some("store.committed:1"));
    host.site.backstay.restart();
    let id = host.run_until_it_dies();
    assert_eq!(host.told(&id), ["before vm"]);
    host.site.backstay.set_environment("BACKSTAY_CRASH_AT", None);
    host.restart();
    assert_eq!(host.until_over(&id)["state"], "done");
    assert_eq!(host.told(&id), ["before vm", "after vm done"]);

    // When it has run, and nobody knows: it runs again, and is told the same.
    let deadly = host.site.lab.path("deadly");
    fs::write(&deadly, "").expect("the lab's folder takes a file");
    host.hook("resume", &format!("rm {} 2> /dev/null && kill -9 $PPID; true", text(&deadly)));
    let id = host.run_until_it_dies();
    assert_eq!(host.told(&id), ["before vm", "after vm done"]);
    host.restart();
    assert_eq!(host.until_over(&id)["state"], "done");
    assert_eq!(host.told(&id), ["before vm", "after vm done", "after vm done"]);

    // Whose it is stands in every line of the log.
    let log = host.site.backstay.log();
    let about: Vec<&str> = log.lines().filter(|line| line.contains(&format!("job={id} "))).collect();
    assert!(about.len() >= 2, "it was taken up again, and it ended:\n{log}");
    assert!(about.iter().all(|line| line.contains("vm=vm")), "{about:#?}");
    host.site.restic.check();
}
