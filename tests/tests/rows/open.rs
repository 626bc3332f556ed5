//! Intents that are open when Backstay comes back.

use tests::matrix::Victim;

use crate::scene::{backup, checkpoint, machine, site, strikes};

pub fn same_process() {
    let mut site = site();
    strikes(&mut site, "effect:1", Victim::Backstay, checkpoint(), "open-same-process");
    site.must_hold();
    site.next_must_be_incremental();
}

pub fn new_process_there() {
    let mut site = site();
    strikes(&mut site, "performed:1", Victim::BackstayAndQuit, checkpoint(), "open-new-process-there");
    site.must_hold();
    site.next_must_be_incremental();
}

pub fn new_process_not_there() {
    let mut site = site();
    strikes(&mut site, "effect:1", Victim::BackstayAndQuit, checkpoint(), "open-new-process-not-there");
    site.must_hold();
    site.next_must_be_incremental();
}

/// The store, of the effects begin, store, end, deletion.
pub fn elsewhere() {
    let mut site = site();
    strikes(&mut site, "effect:2", Victim::Backstay, backup(), "open-elsewhere");
    site.must_hold();
    site.next_must_be_incremental();
}

/// Of the effects freeze, begin, thaw, store, end.
pub fn freeze() {
    let mut machine = machine();
    strikes(&mut machine, "performed:1", Victim::Backstay, backup(), "open-freeze");
    // It is thawed: it writes.
    machine.guest.until_progress();
    machine.back_up();
}

pub fn freeze_new_process() {
    let mut machine = machine();
    strikes(&mut machine, "effect:1", Victim::Both, backup(), "open-freeze-new-process");
    machine.guest.until_progress();
    machine.back_up();
}
