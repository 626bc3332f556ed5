//! Which host a VM is on: the one whose agent looks after it.

use journal::record::VmHosted;
use journal::{HostName, Record, State};

/// What becomes so when the only agent there is says what its host is called: every VM is on that host. One of which no
/// record says its host was added before hosts had names; one that is on another was added when the machine had another
/// name, or was moved here with the journal.
#[must_use]
pub fn claim(state: &State, host: &HostName) -> Vec<Record> {
    let elsewhere = state.vms.iter().filter(|(_, vm)| vm.host.as_ref() != Some(host));
    elsewhere.map(|(id, _)| VmHosted { vm: *id, host: host.clone() }.into()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use journal::effect::VmAddress;
    use journal::record::{EpochBegan, Installed, VmAdded};
    use journal::state::Stamp;
    use journal::{Epoch, Installation, Time, VmId};

    use super::*;

    fn apply(state: &mut State, record: impl Into<Record>) {
        state.apply(Stamp { epoch: Epoch(1), time: Time(1) }, &record.into()).unwrap();
    }

    #[test]
    fn no_vm_is_left_behind_by_a_new_name() {
        let mut state = State::default();
        apply(&mut state, Installed { installation: Installation(1) });
        apply(&mut state, EpochBegan { pid: 1, version: "0".into() });
        let names: [Option<HostName>; 3] = [None, Some("old".parse().unwrap()), Some("new".parse().unwrap())];
        for (number, host) in (1..).zip(names) {
            let (id, name) = (VmId(uuid::Uuid::from_u128(number)), format!("vm{number}").parse().unwrap());
            let vm = VmAddress { id, name, qmp: "/qmp".into(), guest_agent: None };
            apply(&mut state, VmAdded { vm, disks: Vec::new(), labels: Vec::new(), host });
        }
        let new: HostName = "new".parse().unwrap();
        let claimed = claim(&state, &new);
        assert_eq!(claimed.len(), 2, "{claimed:?}");
        claimed.into_iter().for_each(|record| apply(&mut state, record));
        assert!(state.vms.values().all(|vm| vm.host.as_ref() == Some(&new)));
        assert_eq!(claim(&state, &new), Vec::new());
    }
}
