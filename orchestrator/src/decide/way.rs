//! The way of a view: which one guards the guest best, and whether one is taken that cannot guard it from everything.
//!
//! A copy-before-write filter bounds how long a guest's write waits, whatever becomes of the scratch storage. The other ways
//! keep it from *full* scratch storage; where that storage hangs, the guest's writes wait for it without a limit.

use journal::effect::Way;
use journal::observation::Machine;
use journal::{Failure, FailureClass, VmName};

/// What becomes of a view that cannot be guarded from scratch storage that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unprotected {
    /// It is taken, and its restore point says so by its way.
    #[default]
    Take,
    /// It is not, and neither is the backup or export that needs it.
    Refuse,
}

/// The way of a view that others read. One for all disks: two ways would be two instants.
#[must_use]
pub fn to_read(machine: &Machine) -> Way {
    if obstacles(machine).next().is_none() { Way::CopyBeforeWrite } else { Way::BackupJob }
}

/// The way of a view that becomes a restore point: where it must not be read while the guest runs, QEMU copies it.
#[must_use]
pub fn to_store(machine: &Machine) -> Way {
    let readers = machine.disks.iter().all(|disk| disk.takes_reader);
    if readers { to_read(machine) } else { Way::Push }
}

/// Each disk that takes no filter, and why. A read-only one needs none.
fn obstacles(machine: &Machine) -> impl Iterator<Item = String> {
    let written = machine.disks.iter().filter(|disk| !disk.read_only);
    written.filter_map(|disk| Some(format!("{}: {}", disk.disk, disk.no_filter.as_ref()?)))
}

/// What the views of a machine cannot be guarded from, and why; nothing where they are guarded from everything.
#[must_use]
pub fn exposure(machine: &Machine) -> Option<String> {
    let obstacles: Vec<String> = obstacles(machine).collect();
    (!obstacles.is_empty()).then(|| {
        format!(
            "while one of its views is up, the guest's writes wait for as long as the scratch storage hangs, since no \
             copy-before-write filter can be put above each of its disks ({})",
            obstacles.join("; ")
        )
    })
}

/// Refuses a view that cannot be guarded, where that is not to be taken.
///
/// # Errors
/// [`FailureClass::Refused`], with what stands in the way and what to do about it.
pub fn permit(unprotected: Unprotected, vm: &VmName, machine: &Machine) -> Result<(), Failure> {
    match (unprotected, exposure(machine)) {
        (Unprotected::Refuse, Some(exposure)) => {
            let what = format!(
                "{vm}: {exposure}, and `unprotected = \"refuse\"` stands under `[limits]` in the configuration; change what \
                 is named, or set it to \"take\" and keep the scratch folder on local storage"
            );
            Err(Failure::new(FailureClass::Refused, what))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use journal::Process;
    use journal::observation::DiskSeen;

    use super::*;

    fn disk(name: &str, no_filter: Option<&str>) -> DiskSeen {
        DiskSeen {
            disk: name.parse().unwrap(),
            node: name.into(),
            size_bytes: 1 << 20,
            format: "qcow2".into(),
            stores_bitmaps: true,
            read_only: false,
            backing: String::new(),
            iothread: None,
            shared: false,
            no_filter: no_filter.map(str::to_owned),
            takes_reader: true,
            bitmaps: Vec::new(),
            below: Vec::new(),
        }
    }

    fn machine(disks: Vec<DiskSeen>) -> Machine {
        Machine {
            process: Process { pid: 1, started_ticks: 1, boot: uuid::Uuid::nil() },
            version: "10.0.2".into(),
            uuid: None,
            disks,
            unusable: Vec::new(),
            jobs: Vec::new(),
            exports: Vec::new(),
            nodes: Vec::new(),
            files: Vec::new(),
            socket: String::new(),
            socket_is_dead: false,
        }
    }

    #[test]
    fn one_disk_without_a_filter_decides_for_all() {
        let plain = disk("vda", None);
        let guarded = machine(vec![plain.clone(), disk("vdb", None)]);
        assert_eq!((to_read(&guarded), exposure(&guarded)), (Way::CopyBeforeWrite, None));
        assert!(permit(Unprotected::Refuse, &"vm".parse().unwrap(), &guarded).is_ok());

        let mut other = disk("vdb", Some("it is special"));
        let mixed = machine(vec![plain.clone(), other.clone()]);
        assert_eq!((to_read(&mixed), to_store(&mixed)), (Way::BackupJob, Way::BackupJob));
        assert!(permit(Unprotected::Take, &"vm".parse().unwrap(), &mixed).is_ok());
        let refused = permit(Unprotected::Refuse, &"vm".parse().unwrap(), &mixed).unwrap_err();
        assert_eq!(refused.class, FailureClass::Refused);
        assert!(refused.what.contains("(vdb: it is special)") && !refused.what.contains("vda"), "{refused}");

        let mut unread = other.clone();
        unread.takes_reader = false;
        assert_eq!(to_store(&machine(vec![plain.clone(), unread])), Way::Push);
        // Nobody writes to a read-only disk, so nobody waits.
        other.read_only = true;
        assert_eq!(exposure(&machine(vec![plain, other])), None);
    }
}
