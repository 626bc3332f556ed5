//! Identity: what every thing that Backstay speaks of is called, and how the name is written down.
//!
//! Numbers come from counters in the folded state and are never used twice, so a number in an old record, in a bitmap's
//! name or in a repository's tag always means the same thing. Knows nothing about records, QEMU or repositories.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// A name or number that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a valid {what}: {expected}")]
pub struct InvalidId {
    what: &'static str,
    given: String,
    expected: &'static str,
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix($prefix).unwrap_or(text).parse().map(Self).map_err(|_| InvalidId {
                    what: $what,
                    given: text.to_owned(),
                    expected: concat!("expected `", $prefix, "` and a number, as the lists show it"),
                })
            }
        }
    };
}

numbered!(
    /// One decided effect. Temporary objects in QEMU carry it in their names.
    IntentId, "i", "intent"
);
numbered!(
    /// One queued unit of work.
    JobId, "j", "job"
);
numbered!(
    /// One restore point.
    PointId, "p", "restore point"
);
numbered!(
    /// One checkpoint.
    CheckpointId, "c", "checkpoint"
);
numbered!(
    /// One bitmap of one disk: the number in its name. Each disk of a checkpoint has its own, so that an image that is
    /// attached in another's place is not taken for it.
    BitmapId, "b", "bitmap"
);
numbered!(
    /// One notice to the operator.
    NoticeId, "n", "notice"
);
numbered!(
    /// One life of an orchestrator on this journal: every start begins the next epoch.
    Epoch, "e", "epoch"
);

/// Names are shared: jobs, plans, intents and indices repeat them, and a copy costs no memory.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if is_name(text) {
                    return Ok(Self(text.into()));
                }
                Err(InvalidId { what: $what, given: text.to_owned(), expected: NAME_RULE })
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

named!(
    /// What the operator calls a virtual machine. It may change hands; the [`VmId`] does not.
    VmName, "VM name"
);
named!(
    /// What a disk of one VM is called; also its file's name in a restore point.
    DiskName, "disk name"
);
named!(
    /// What a host is called: the machine whose agent has the QEMU of some VMs. It may be given another name; its VMs stay with
    /// it.
    HostName, "host name"
);
named!(
    /// What the operator calls a repository.
    RepositoryName, "repository name"
);
named!(
    /// What the operator calls a policy.
    PolicyName, "policy name"
);
named!(
    /// What the operator calls a receiver of notices.
    ReceiverName, "receiver name"
);

named!(
    /// What a policy calls a hook, and what its program is called in the folder of the host.
    HookName, "hook name"
);

const NAME_RULE: &str =
    "a name has 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit";

/// The rule that all names share: safe in a file name, a URL, a restic tag and a table.
fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A virtual machine, by its UUID: QEMU's own where it has one, otherwise made when the VM was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmId(pub Uuid);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One installation of Backstay: eight hex digits, drawn once, the mark in every name that it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Installation(pub u32);

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Installation {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits =
            text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = if digits { u32::from_str_radix(text, 16).ok() } else { None };
        number.map(Self).ok_or_else(|| InvalidId {
            what: "installation",
            given: text.to_owned(),
            expected: "eight lower-case hex digits",
        })
    }
}

/// A QEMU process, told from every other one that ever had its pid by the time it started and the boot that it
/// started in.
///
/// Read from the QMP socket's peer (`SO_PEERCRED`), `/proc/<pid>/stat`, field 22, and
/// `/proc/sys/kernel/random/boot_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// The process id, as seen by the agent.
    pub pid: u32,
    /// Clock ticks between the host's boot and the process's start.
    pub started_ticks: u64,
    /// The host's boot.
    pub boot: Uuid,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (start {})", self.pid, self.started_ticks)
    }
}

/// A moment on the wall clock: microseconds since 1970-01-01 UTC. Orders nothing; sequence numbers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Time(pub i64);

impl Time {
    /// The same moment for calendars. Years beyond chrono's range show as its ends.
    #[must_use]
    pub fn to_utc(self) -> chrono::DateTime<chrono::Utc> {
        chrono::DateTime::from_timestamp_micros(self.0).unwrap_or(if self.0 < 0 {
            chrono::DateTime::<chrono::Utc>::MIN_UTC
        } else {
            chrono::DateTime::<chrono::Utc>::MAX_UTC
        })
    }
}

impl From<chrono::DateTime<chrono::Utc>> for Time {
    fn from(at: chrono::DateTime<chrono::Utc>) -> Self {
        Self(at.timestamp_micros())
    }
}

/// RFC 3339 in UTC, to the microsecond: what every list, page and JSON document shows.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_read_back_what_they_print() {
        assert_eq!(CheckpointId(7).to_string(), "c7");
        assert_eq!("c7".parse::<CheckpointId>().unwrap(), CheckpointId(7));
        assert_eq!("7".parse::<CheckpointId>().unwrap(), CheckpointId(7));
        assert!("x7".parse::<CheckpointId>().unwrap_err().to_string().contains("`c` and a number"));
    }

    #[test]
    fn names_are_safe_everywhere() {
        for good in ["a", "web-01", "0.disk_1"] {
            assert!(good.parse::<DiskName>().is_ok(), "{good}");
        }
        for bad in ["", ".hidden", "a/b", "a,b", "ü", &"x".repeat(65)] {
            assert!(bad.parse::<DiskName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_installation_is_eight_lower_case_hex_digits() {
        assert_eq!("0a1b2c3d".parse::<Installation>().unwrap().to_string(), "0a1b2c3d");
        for bad in ["0A1b2c3d", "+a1b2c3d", "123", "0a1b2c3d4"] {
            assert!(bad.parse::<Installation>().is_err(), "{bad}");
        }
    }
}
