//! The check of one VM: look, compare, heal, look again, until what is there is what the journal says.

use journal::observation::VmSeen;
use journal::{State, VmId};

use super::live::{Check, Live, Seen};
use super::reconcile::{Subject, enact, findings, point_findings};
use super::{CheckStep, Decision};

/// How often leftovers are looked for again before the VM is taken as it is; what stays is shown by `doctor`.
const ROUNDS: u32 = 3;

/// The next step of a VM's check.
pub fn next(state: &State, live: &Live, vm: VmId) -> Option<Decision> {
    let (check, round) = live.checks.get(&vm)?;
    if !state.vms.contains_key(&vm) {
        return Some(Decision::check(vm, CheckStep::Accept));
    }
    match check {
        Check::Wanted => Some(Decision::check(vm, CheckStep::Ask)),
        Check::Asked => None,
        Check::Seen(seen) => Some(compare(state, live, vm, seen, *round)),
        Check::Cleaning => {
            let cleaning = state
                .open_on(vm)
                .any(|open| open.intent.job.is_none() && live.in_hand.contains(&open.intent.id));
            (!cleaning).then(|| Decision::check(vm, CheckStep::Want))
        }
    }
}

fn compare(state: &State, live: &Live, id: VmId, seen: &Seen, round: u32) -> Decision {
    let accept = || Decision::check(id, CheckStep::Accept);
    let (Some(installation), Some(vm)) = (state.installation, state.vms.get(&id)) else { return accept() };
    let VmSeen::Answering(machine) = &seen.vm else { return accept() };
    let subject = Subject { state, in_hand: &live.in_hand, installation, vm, machine };
    let mut found = findings(subject);
    found.extend(point_findings(state, id, &seen.repositories));
    let mut decision = enact(subject, &found);
    if decision.is_empty() || (decision.opens() && round >= ROUNDS) {
        return accept();
    }
    if decision.opens() {
        decision.checks.push((id, CheckStep::Clean));
    }
    decision
}
