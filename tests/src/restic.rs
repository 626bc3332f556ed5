//! Debian's restic on a repository: the judge of what Backstay wrote. Knows nothing of Backstay.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use repository::{InitOptions, KeyDerivation, Local, Repository};
use serde_json::Value;

use crate::lab::{Lab, PATIENCE, tool};
use crate::process::{Answer, answer, run};

/// A repository and its password.
#[derive(Debug, Clone)]
pub struct Restic {
    /// As restic's `--repo` takes it: a folder, or `s3:` and a URL.
    repository: PathBuf,
    password: PathBuf,
    cache: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
}

impl Restic {
    /// Names a repository folder of the lab and writes its password file; creates no repository.
    pub fn new(lab: &Lab, name: &str) -> Restic {
        Restic::at(lab, name, lab.path(name), Vec::new())
    }

    /// The same for a repository elsewhere, with what restic needs in its environment for that.
    pub fn at(
        lab: &Lab,
        name: &str,
        repository: PathBuf,
        environment: Vec<(&'static str, &'static str)>,
    ) -> Restic {
        let password = lab.path(format!("{name}.password"));
        fs::write(&password, "correct horse battery staple\n").expect("the lab's folder takes a file");
        Restic { repository, password, cache: lab.folder("restic-cache"), environment }
    }

    /// The repository's folder, or `s3:` and its URL.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// The file that holds its password.
    pub fn password_file(&self) -> &Path {
        &self.password
    }

    /// `restic ARGUMENTS` on the repository, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tool("restic");
        command.arg("--repo").arg(&self.repository).arg("--password-file").arg(&self.password);
        command.arg("--cache-dir").arg(&self.cache).args(arguments);
        command.envs(self.environment.iter().copied());
        command
    }

    /// Runs restic, whatever its exit status.
    #[track_caller]
    pub fn answer(&self, arguments: &[&str]) -> Answer {
        answer(&mut self.command(arguments), 5 * PATIENCE)
    }

    /// Runs restic, which must succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments), 5 * PATIENCE)
    }

    /// Creates the repository with restic instead of Backstay.
    #[track_caller]
    pub fn init(&self) {
        self.ok(&["init", "--repository-version", "2"]);
    }

    /// Creates the repository as Backstay does, but with a password that is cheap to try. By design a try costs half a second,
    /// and a server tries it at each of its starts.
    #[track_caller]
    pub fn init_cheap(&self) {
        let password = fs::read_to_string(&self.password).expect("the lab wrote it");
        let key_derivation = KeyDerivation::Fixed { log_n: 10, r: 8, p: 1 };
        let options = InitOptions { key_derivation, ..InitOptions::default() };
        let folder = Arc::new(Local::new(&self.repository));
        let made = Repository::init(folder, password.trim_end(), &options);
        made.unwrap_or_else(|error| panic!("no repository: {error}"));
    }

    /// `check --read-data`: structure and every pack. Prints nothing that restic calls an error or a warning.
    #[track_caller]
    pub fn check(&self) {
        let answer = self.answer(&["check", "--read-data"]);
        let said = format!("{}{}", answer.out, answer.err);
        assert!(answer.status == 0 && said.contains("no errors were found"), "restic check:\n{said}");
    }

    /// All snapshots, oldest first, as restic tells them (`id`, `time`, `tags`, `paths`, …).
    #[track_caller]
    pub fn snapshots(&self) -> Vec<Value> {
        let out = self.ok(&["snapshots", "--json"]);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("restic snapshots: {error}: {out}"))
    }

    /// Paths of all files and folders of a snapshot (`latest` or an id).
    #[track_caller]
    pub fn list(&self, snapshot: &str) -> Vec<String> {
        let out = self.ok(&["ls", snapshot]);
        out.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect()
    }

    /// `restic dump`: one file of a snapshot into a file of the lab.
    #[track_caller]
    pub fn dump(&self, snapshot: &str, path: &str, to: &Path) {
        let target = File::create(to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
        let mut command = self.command(&["dump", snapshot, path]);
        // The answer's pipe would hold a disk in memory.
        let mut child = command.stdout(target).spawn().expect("restic starts");
        let status =
            crate::lab::until("restic dump", 10 * PATIENCE, || child.try_wait().expect("a child of ours"));
        assert!(status.success(), "restic dump {snapshot} {path}: {status}");
    }

    /// `restic dump` of a whole snapshot, all its files into `folder`.
    #[track_caller]
    pub fn dump_all(&self, snapshot: &str, folder: &Path) {
        let mut restic = self.command(&["dump", "--archive", "tar", snapshot, "/"]);
        let mut dumping = restic.stdout(Stdio::piped()).spawn().expect("restic starts");
        let archive = dumping.stdout.take().expect("its output is piped");
        let unpacking =
            tool("tar").args(["--extract", "--sparse", "--directory"]).arg(folder).stdin(archive).spawn();
        let mut unpacking = unpacking.expect("tar starts");
        for (name, child) in [("tar", &mut unpacking), ("restic", &mut dumping)] {
            let status = crate::lab::until("restic dump", 10 * PATIENCE, || {
                child.try_wait().expect("a child of ours")
            });
            assert!(status.success(), "restic dump {snapshot} /: {name} ended with {status}");
        }
    }
}
