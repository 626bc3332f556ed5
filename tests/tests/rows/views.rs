//! Views that are up, or should be, and a guest that somebody froze.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::json;
use tests::lab::{PATIENCE, until};
use tests::matrix::strike::{crash, halt};
use tests::matrix::{Victim, cell, rows};
use tests::qmp::Qmp;
use tests::qsd::Options;
use tests::site::Site;

use crate::scene::{backup, found, machine, must_be_found, must_be_journaled, site, strikes};

/// A backup that takes a while is looked at while it reads.
pub fn up() {
    const LARGE: u64 = 256 << 20;
    let mut site = Site::start(Options::new("qsd", 1, LARGE), 1);
    for text in cell::HEALING {
        site.backstay.expect_log(text);
    }
    let disk = File::options().write(true).open(site.qsd.file("disk0")).expect("the daemon serves its disk");
    let mut bytes = vec![0; 1 << 20];
    let mut random = StdRng::seed_from_u64(1);
    for offset in (0..LARGE).step_by(bytes.len()) {
        random.fill_bytes(&mut bytes);
        disk.write_all_at(&bytes, offset).expect("the disk takes a write");
    }
    until("the doctor looks at a view that is up", 2 * PATIENCE, || {
        site.backstay.ok(&["backup", "vm", "--mode", "full"]);
        until("the view is seen, or the backup is over", PATIENCE, || {
            let seen = !found(&site.backstay, "view-up").is_empty();
            let over = site.backstay.ok(&["job", "list"])[0]["state"] == "done";
            (seen || over).then_some(seen)
        })
        .then_some(())
    });
    site.must_hold();
}

/// While Backstay is dead somebody takes the nodes of its view away.
pub fn broken() {
    let mut site = site();
    let seq = rows::last(&site.backstay);
    let (died, client) =
        crash(&mut site, "store.committed:1", backup(), |site| take_apart(&mut site.qsd.look()));
    client.hear();
    assert!(died, "the store was not reached");
    must_be_journaled(&site.backstay, seq, "view-broken");
    site.must_hold();
    site.next_must_be_incremental();
}

/// Removes what can be removed of a view: its exports, its jobs, and every node that nothing else needs.
fn take_apart(qmp: &mut Qmp) {
    let look = qmp.look();
    let ours = |name: &&String| name.starts_with("backstay.");
    for export in look.exports.iter().filter(ours) {
        qmp.ok("block-export-del", json!({ "id": export, "mode": "hard" }));
        qmp.event("BLOCK_EXPORT_DELETED");
    }
    let removed = look.nodes.iter().filter(ours).filter(|node| {
        // QEMU refuses the node that another one stands on.
        qmp.execute("blockdev-del", json!({ "node-name": node })).is_ok()
    });
    let removed = removed.count();
    for job in look.jobs.iter().filter(ours) {
        qmp.ok("job-cancel", json!({ "id": job }));
        until("the block job is concluded", PATIENCE, || {
            qmp.execute("job-dismiss", json!({ "id": job })).is_ok().then_some(())
        });
    }
    assert!(removed > 0 || look.jobs.iter().any(|job| ours(&job)), "there was no view: {look:?}");
}

pub fn new_process() {
    let mut site = site();
    strikes(&mut site, "store.committed:1", Victim::Both, backup(), "view-new-process");
    // QEMU was killed: the next one is full, and says why.
    site.back_up(&[]).point.must_be_full(&cell::KILLED);
    site.next_must_be_incremental();
}

/// Somebody else holds QEMU's socket when the view is to be taken down, so that the job ends without it.
pub fn without_job() {
    let mut site = site();
    // Of the effects begin, store, end, deletion.
    let mut holder = None;
    let (stopped, client) = halt(&mut site, "effect:3", backup(), |site| {
        holder = Some(UnixStream::connect(site.qsd.qmp_socket()).expect("QEMU takes one client"));
    });
    client.hear();
    assert!(stopped, "the end of the view was not reached");
    drop(holder);
    until("the doctor finds a view without a job, or it is taken down", PATIENCE, || {
        (!found(&site.backstay, "view-without-job").is_empty()).then_some(())
    });
    until("the view is taken down", PATIENCE, || {
        (site.backstay.run(&["doctor"]).json["ok"] == true).then_some(())
    });
    site.must_hold();
    site.next_must_be_incremental();
}

/// Somebody else holds the guest agent's socket when the guest is to be thawed, and the job ends.
pub fn thaw_owed() {
    let mut machine = machine();
    // Of the effects freeze, begin, thaw, store, end.
    let mut holder = None;
    let (stopped, client) = halt(&mut machine, "effect:3", backup(), |machine| {
        holder = Some(UnixStream::connect(machine.guest.agent_socket()).expect("the agent hears one client"));
    });
    client.hear();
    assert!(stopped, "the thaw was not reached");
    must_be_found(&machine.backstay, "thaw-owed");
    drop(holder);
    machine.guest.until_progress();
    until("no thaw is owed", Duration::from_secs(40), || {
        found(&machine.backstay, "thaw-owed").is_empty().then_some(())
    });
    machine.back_up();
}
