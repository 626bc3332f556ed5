//! The configuration file of `up`. Every key that is not known is refused: a slip must not pass for a setting.

mod notify;

use std::ffi::CStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use journal::effect::ViewLimits;
use journal::{HostName, InvalidId};
use orchestrator::Receiver;
use orchestrator::decide::Limits;
use orchestrator::decide::way::Unprotected;
use rustix::system::uname;
use serde::Deserialize;

use self::notify::NotifyRead;
use crate::exit::Failure;
use crate::paths::read_text;
use crate::size::{self, InvalidSize};

/// What the file may say.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A loopback address to serve the API on as well.
    pub listen: Option<SocketAddr>,
    /// What this host is called, the machine's own name by default.
    pub host: Option<HostName>,
    /// The folder for the scratch files of running backups, `scratch` in the data folder by default. Relative to the
    /// configuration file.
    pub scratch: Option<PathBuf>,
    /// The folder with the programs that policies may name as hooks; without it no hook is run. Relative to the
    /// configuration file.
    pub hooks: Option<PathBuf>,
    /// What running backups may cost.
    #[serde(default)]
    pub limits: LimitsRead,
    /// Who is told what goes wrong.
    #[serde(default)]
    pub notify: NotifyRead,
    /// The folder that the file's paths are relative to.
    #[serde(skip)]
    folder: PathBuf,
}

/// What the file may say under `[limits]`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsRead {
    /// The most that the scratch files of one backup may take, such as `20G`. The agent leaves a part of the file system
    /// free in any case.
    scratch: Option<Size>,
    /// The longest that one write of a guest may wait for a backup, such as `5s`; whole seconds.
    stall: Option<Stall>,
    /// Whether a VM is backed up whose guest a scratch storage that hangs can hold up for longer than `stall`: `take` or
    /// `refuse`.
    unprotected: Option<UnprotectedRead>,
    /// How many chunks of each incremental disk that its bitmap calls clean are compared nevertheless; 0 for none.
    audit_chunks: Option<AuditChunks>,
    /// How many checkpoints a VM may have, 2 or more.
    checkpoints: Option<CheckpointLimit>,
    /// How many jobs run at once.
    jobs: Option<JobLimit>,
    /// How many of them in one repository.
    jobs_per_repository: Option<JobLimit>,
    /// How many of them on one host.
    jobs_per_host: Option<JobLimit>,
}

impl LimitsRead {
    /// The limits, with the usual ones where the file says nothing.
    #[must_use]
    pub fn or_usual(self) -> Limits {
        let usual = Limits::default();
        let view = ViewLimits {
            scratch_bytes: self.scratch.map_or(usual.view.scratch_bytes, |size| size.0),
            stall_ms: self.stall.map_or(usual.view.stall_ms, |stall| stall.0),
        };
        Limits {
            view,
            unprotected: self.unprotected.map_or(usual.unprotected, Into::into),
            audit_chunks: self.audit_chunks.map_or(usual.audit_chunks, |chunks| chunks.0),
            checkpoints: self.checkpoints.map_or(usual.checkpoints, |limit| limit.0),
            jobs: self.jobs.map_or(usual.jobs, |limit| limit.0),
            jobs_per_repository: self.jobs_per_repository.map_or(usual.jobs_per_repository, |limit| limit.0),
            jobs_per_host: self.jobs_per_host.map_or(usual.jobs_per_host, |limit| limit.0),
            ..usual
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Size(u64);

impl TryFrom<String> for Size {
    type Error = InvalidSize;
    fn try_from(text: String) -> Result<Self, InvalidSize> {
        size::parse(&text).map(Self)
    }
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Stall(u64);

impl TryFrom<String> for Stall {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let seconds = text.trim().strip_suffix('s').and_then(|seconds| seconds.trim().parse::<u64>().ok());
        match seconds.filter(|seconds| (1..=3600).contains(seconds)) {
            Some(seconds) => Ok(Self(seconds * 1000)),
            None => Err(format!(
                "`{text}` is not a limit for a stall: write whole seconds, 1s to 3600s, such as `5s`"
            )),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum UnprotectedRead {
    Take,
    Refuse,
}

impl From<UnprotectedRead> for Unprotected {
    fn from(read: UnprotectedRead) -> Self {
        match read {
            UnprotectedRead::Take => Self::Take,
            UnprotectedRead::Refuse => Self::Refuse,
        }
    }
}

/// The sample is read before the backup begins to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
struct AuditChunks(u32);

impl TryFrom<u32> for AuditChunks {
    type Error = String;
    fn try_from(chunks: u32) -> Result<Self, String> {
        if chunks > 4096 {
            return Err(format!("an audit of {chunks} chunks is no sample any more: at most 4096"));
        }
        Ok(Self(chunks))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
struct CheckpointLimit(usize);

impl TryFrom<usize> for CheckpointLimit {
    type Error = String;
    fn try_from(limit: usize) -> Result<Self, String> {
        if limit < 2 {
            return Err("a VM needs 2 checkpoints at least: the last backup's, and the next one's".to_owned());
        }
        Ok(Self(limit))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
struct JobLimit(usize);

impl TryFrom<usize> for JobLimit {
    type Error = String;
    fn try_from(limit: usize) -> Result<Self, String> {
        if !(1..=1000).contains(&limit) {
            return Err(format!("{limit} is not a number of jobs: 1 to 1000"));
        }
        Ok(Self(limit))
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is not there, or says what is not known; with line and column.
    pub fn read(path: &Path) -> Result<Config, Failure> {
        let config =
            Config::parse(&read_text(path)?).map_err(|error| error.within(&path.display().to_string()))?;
        let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
        let folder = folder.unwrap_or_default();
        let below = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        let (scratch, hooks) = (below(config.scratch), below(config.hooks));
        Ok(Config { scratch, hooks, folder, ..config })
    }

    /// What this host is called.
    ///
    /// # Errors
    /// When the configuration does not say, and the machine's own name is none that a host may have.
    pub fn host(&self) -> Result<HostName, Failure> {
        self.host.clone().map_or_else(|| named_after(uname().nodename()), Ok)
    }

    /// Who is told what goes wrong.
    ///
    /// # Errors
    /// Which receiver makes no sense, or names a file that cannot be used.
    pub fn receivers(&self) -> Result<Vec<Receiver>, Failure> {
        self.notify.receivers(&self.folder)
    }

    fn parse(text: &str) -> Result<Config, Failure> {
        toml::from_str(text).map_err(|error| Failure::usage(error.to_string()))
    }
}

/// The name that a machine gives to itself, as a host's.
fn named_after(machine: &CStr) -> Result<HostName, Failure> {
    machine.to_string_lossy().parse().map_err(|error: InvalidId| {
        Failure::usage(format!(
            "this machine's own name cannot be its host name here: {error}; write `host = \"NAME\"` into the \
             configuration file (--config)"
        ))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::exit::Status;

    #[test]
    fn a_file_is_read_and_its_paths_are_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backstay.toml");
        std::fs::write(&path, "listen = \"127.0.0.1:7070\"\nscratch = \"s\"\nhooks = \"h\"\n").unwrap();
        let config = Config::read(&path).unwrap();
        assert_eq!(config.listen.unwrap().port(), 7070);
        assert_eq!(config.scratch.unwrap(), folder.path().join("s"));
        assert_eq!(config.hooks.unwrap(), folder.path().join("h"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let config =
            Config::parse("[limits]\nscratch = \"20G\"\nstall = \"2s\"\nunprotected = \"refuse\"\n").unwrap();
        let limits = config.limits.or_usual();
        assert_eq!((limits.view.scratch_bytes, limits.view.stall_ms), (20 << 30, 2_000));
        assert_eq!(limits.unprotected, Unprotected::Refuse);
        assert_eq!(limits.audit_chunks, Limits::default().audit_chunks);
        for (text, what) in [
            ("stall = \"0s\"", "whole seconds"),
            ("stall = 5", "string"),
            ("scratch = \"much\"", "not a size"),
            ("audit_chunks = 5000", "at most 4096"),
            ("checkpoints = 1", "2 checkpoints at least"),
            ("unprotected = \"perhaps\"", "`take` or `refuse`"),
            ("jobs = 0", "1 to 1000"),
            ("jobs_per_host = 0", "1 to 1000"),
        ] {
            let failure = Config::parse(&format!("[limits]\n{text}\n")).unwrap_err().to_string();
            assert!(failure.contains("line 2") && failure.contains(what), "{failure}");
        }
        let failure = Config::parse("listen = \"127.0.0.1:1\"\nscrach = \"x\"\n").unwrap_err();
        assert_eq!(failure.status(), Status::Usage);
        let message = failure.to_string();
        assert!(message.contains("line 2, column 1") && message.contains("scrach"), "{message}");
    }

    #[test]
    fn a_host_has_the_configured_name_or_the_machine_s() {
        let config = Config::parse("host = \"kvm-07.example.org\"\nlimits.jobs_per_host = 2\n").unwrap();
        assert_eq!(config.host().unwrap().as_str(), "kvm-07.example.org");
        assert_eq!(config.limits.or_usual().jobs_per_host, 2);
        let failure = Config::parse("listen = \"127.0.0.1:1\"\nhost = \"a b\"\n").unwrap_err().to_string();
        assert!(failure.contains("line 2") && failure.contains("not a valid host name"), "{failure}");
        assert_eq!(named_after(c"kvm-07").unwrap().as_str(), "kvm-07");
        for unfit in [c"(none)", c""] {
            let failure = named_after(unfit).unwrap_err();
            assert_eq!(failure.status(), Status::Usage);
            assert!(failure.to_string().contains("`host = \"NAME\"`"), "{failure}");
        }
    }
}
