//! `backstay export`: what other programs read over NBD is one instant of a running VM, what is called changed is all that
//! changed, and nothing is left behind however it ends.

mod installation;

use std::collections::BTreeSet;

use installation::{Installation, MIB, says, text, write};
use serde_json::{Value, json};
use tests::export::{Export, covers, differing};
use tests::guest;
use tests::invariants;
use tests::lab::{PATIENCE, require_qemu, until};
use tests::machine::Machine;
use tests::matrix::cell::{HEALING, KILLED};
use tests::point::Point;
use tests::qsd::Options;
use tests::site::{Site, must_be_equal, seed};
use tests::stage::{Stage, image};
use tests::writer::{BLOCK, Write, cut};

/// What QEMU's bitmaps count in, in bytes.
const GRANULE: u64 = 65_536;

/// A site with two disks, one of whose granules in many is written now and then.
fn site() -> Site {
    Site::start(Options::new("qsd", 2, 64 * MIB), seed())
}

/// The granules of a disk that these writes touch.
fn granules<'a>(writes: impl Iterator<Item = &'a Write>, disk: usize) -> BTreeSet<u64> {
    let block = BLOCK as u64;
    let of_disk = writes.filter(|write| write.disk == disk);
    let touched = |write: &Write| {
        (write.block * block / GRANULE)..=((write.block + write.blocks) * block - 1) / GRANULE
    };
    of_disk.flat_map(touched).collect()
}

fn ended(site: &Site, id: &str) -> Export {
    until("the export has ended", PATIENCE, || {
        let export = Export::find(&site.backstay, id);
        (export.state == "ended").then_some(export)
    })
}

#[test]
fn an_export_shows_one_instant_and_exactly_what_changed() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    let first = site.back_up(&[]);
    let second = site.back_up(&[]);
    let from = site.writer().last();
    let export = Export::create(&site.backstay, &["--since", &second.point.checkpoint]);
    let to = site.writer().last();
    assert_eq!(export.way.as_deref(), Some("backup-job"), "a storage daemon's disks have no devices");
    // Somebody writes on all the time, and what is read stays what it was.
    site.writer().until_progress(200);
    let folder = site.folder();
    let images = export.copy(&folder);
    let now = cut(&site.log(), &images);
    assert!(from <= now.last && now.last <= to + 1, "created between {from} and {to}, and shows {now:?}");
    let then = site.prove(&second.point, &site.log());
    let log = site.log();
    for (number, disk) in export.disks.iter().enumerate() {
        // A write that either instant cuts through may be on both sides of it.
        let surely = granules(log.iter().filter(|it| then.last < it.number && it.number < now.last), number);
        let perhaps =
            granules(log.iter().filter(|it| then.last <= it.number && it.number <= now.last), number);
        let changed = disk.changed();
        let said: BTreeSet<u64> = changed
            .iter()
            .flat_map(|(start, long)| (start / GRANULE)..((start + long).div_ceil(GRANULE)))
            .collect();
        assert!(
            surely.is_subset(&said) && said.is_subset(&perhaps),
            "{disk:?}: {said:?}, written {surely:?}"
        );
        assert!(disk.reason.is_none() && !disk.allocated().is_empty(), "{disk:?}");
    }
    site.writer().until_progress(20);
    let again = site.folder();
    for (one, other) in images.iter().zip(export.copy(&again)) {
        must_be_equal(one, &other);
    }
    site.backstay.ok(&["export", "remove", &export.id]);
    site.must_hold();

    // Since an older one: all the changes between, too. And the chain is as it was.
    let older = Export::create(&site.backstay, &["--since", &first.point.checkpoint]);
    let (before, after) = (site.folder(), site.folder());
    let then = site.restore(&first.point, &before);
    for (disk, (then, now)) in older.disks.iter().zip(then.iter().zip(older.copy(&after))) {
        let changed = disk.changed();
        let unsaid = differing(then, &now, GRANULE).into_iter().find(|range| !covers(&changed, *range));
        assert!(unsaid.is_none(), "{} has changed at {unsaid:?}, which is not said", disk.disk);
    }
    site.backstay.ok(&["export", "remove", &older.id]);
    site.must_hold();
    site.next_must_be_incremental();
}

#[test]
fn an_export_of_a_guest_is_one_instant_by_a_filter() {
    if !require_qemu() {
        return;
    }
    let mut machine =
        Machine::start(guest::Options { disk_size: 64 << 20, ..guest::Options::new("guest") }, false);
    let point = machine.back_up();
    machine.guest.until_progress();
    let export = Export::create(&machine.backstay, &["--since", &point.checkpoint]);
    assert_eq!(export.way.as_deref(), Some("copy-before-write"));
    machine.guest.until_progress();
    let (before, after) = (machine.new_folder(), machine.new_folder());
    let images = export.copy(&after);
    machine.examine(&images, false);
    machine.backstay.ok(&["restore", &point.id, "--to", &text(&before), "--wait"]);
    for (disk, now) in export.disks.iter().zip(&images) {
        let changed = disk.changed();
        let differs = differing(&image(&before, &disk.disk), now, GRANULE);
        assert!(!differs.is_empty(), "the guest wrote nothing to {}", disk.disk);
        let unsaid = differs.into_iter().find(|range| !covers(&changed, *range));
        assert!(unsaid.is_none(), "{} has changed at {unsaid:?}, which is not said", disk.disk);
    }
    machine.backstay.ok(&["export", "remove", &export.id]);
    machine.must_hold();
    machine.back_up().must_be_incremental();
}

#[test]
fn an_export_ends_when_its_time_is_over_or_it_is_removed() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    // No backup yet, and none is needed.
    let brief = Export::create(&site.backstay, &["--ttl", "2s"]);
    assert!(brief.disks.iter().all(|disk| disk.bitmap.is_none() && disk.reason.is_none()), "{brief:?}");
    assert_eq!(brief.disks[0].try_reach().status, 0);
    let over = ended(&site, &brief.id);
    assert_eq!(over.reason.as_deref(), Some("its time is over"));
    assert!(over.disks.iter().all(|disk| disk.uri.is_none()), "{over:?}");
    assert_ne!(brief.disks[0].try_reach().status, 0);
    site.must_hold();
    assert_eq!(site.backstay.ok(&["checkpoint", "list", "vm"]), json!([]), "an export makes no checkpoint");

    let export = Export::create(&site.backstay, &[]);
    let usual =
        export.expires.zip(export.instant).map(|(expires, instant)| (expires - instant).num_seconds());
    assert_eq!(usual, Some(3600), "an hour, unless another time was asked for");
    let removed = site.backstay.ok(&["export", "remove", &export.id]);
    assert_eq!((&removed["state"], &removed["id"]), (&json!("ended"), &json!(export.id)));
    says(removed["reason"].as_str().unwrap_or_default(), &["removed before its time was over"]);
    site.must_hold();
}

#[test]
fn an_open_export_outlives_a_crash_of_backstay() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    let export = Export::create(&site.backstay, &[]);
    let folder = site.folder();
    let images = export.copy(&folder);
    site.backstay.kill();
    site.writer().until_progress(20);
    let dead = site.folder();
    for (image, again) in images.iter().zip(export.copy(&dead)) {
        must_be_equal(image, &again);
    }
    site.backstay.restart();
    let found = Export::find(&site.backstay, &export.id);
    assert_eq!((&found.state, found.expires), (&"open".to_owned(), export.expires), "{found:?}");
    let alive = site.folder();
    for (image, again) in images.iter().zip(found.copy(&alive)) {
        must_be_equal(image, &again);
    }
    assert_eq!(site.backstay.ok(&["doctor"])["ok"], true, "an open export is nothing amiss");
    site.backstay.ok(&["export", "remove", &export.id]);
    site.must_hold();

    // Its time is over while nobody is there to end it.
    let brief = Export::create(&site.backstay, &["--ttl", "1s"]);
    site.backstay.kill();
    let expires = brief.expires.expect("it has begun");
    until("its time is over", PATIENCE, || (chrono::Utc::now() > expires).then_some(()));
    site.backstay.restart();
    assert_eq!(ended(&site, &brief.id).reason.as_deref(), Some("its time is over"));
    site.must_hold();
}

#[test]
fn an_export_ends_with_its_qemu_and_leaves_nothing() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    HEALING.iter().for_each(|text| site.backstay.expect_log(text));
    site.back_up(&[]);
    let export = Export::create(&site.backstay, &[]);
    site.kill_qemu();
    // Before anything looks at QEMU again.
    let over = ended(&site, &export.id);
    says(over.reason.as_deref().unwrap_or_default(), &["QEMU ended", "the export with it"]);
    invariants::no_file_is_left(&site.backstay);
    site.revive_qemu();
    Point::back_up(&site.backstay, &[]).must_be_full(&KILLED);
    site.must_hold();

    // Both at once, and QEMU stays away.
    let export = Export::create(&site.backstay, &[]);
    site.backstay.kill();
    site.kill_qemu();
    site.backstay.restart();
    says(ended(&site, &export.id).reason.as_deref().unwrap_or_default(), &["QEMU ended"]);
    invariants::no_file_is_left(&site.backstay);
    site.revive_qemu();
    Point::back_up(&site.backstay, &[]).must_be_full(&KILLED);
    site.must_hold();
}

#[test]
fn other_jobs_of_the_vm_wait_and_say_why() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    let export = Export::create(&site.backstay, &[]);
    let queued = site.backstay.ok(&["backup", "vm"]);
    let job = queued["jobs"][0]["id"].as_str().expect("a job").to_owned();
    let waits = site.backstay.ok(&["job", "show", &job]);
    assert_eq!(waits["state"], "queued");
    let remedy = format!("`export remove {}` ends it", export.id);
    says(waits["reason"].as_str().unwrap_or_default(), &["an export of the VM", "is open until", &remedy]);
    // To look is allowed.
    let healed = site.backstay.ok(&["doctor", "vm", "--apply"]);
    assert_eq!(healed["ok"], true, "{healed}");
    says(&site.backstay.refused(4, &["vm", "remove", "vm"]), &["has an export", &remedy]);
    let id = &export.id;
    says(
        &site.backstay.refused(2, &["job", "pause", id]),
        &["an export", "nothing that could rest", &remedy],
    );
    assert_eq!(site.backstay.ok(&["job", "show", id])["state"], "running");
    site.backstay.ok(&["export", "remove", &export.id]);
    site.backstay.ok(&["job", "watch", &job]);
    site.must_hold();
}

#[test]
fn what_is_not_there_or_makes_no_sense_is_refused() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    let mut qsd = site.vm("vm", 2, 4 * MIB);
    site.backstay.refused(3, &["export", "create", "nobody"]);
    says(&site.backstay.refused(3, &["export", "create", "vm", "--since", "c9"]), &["no checkpoint `c9`"]);
    site.backstay.refused(3, &["export", "remove", "j999"]);
    says(
        &site.backstay.refused(2, &["export", "create", "vm", "--ttl", "soon"]),
        &["is not a length of time"],
    );
    says(&site.backstay.refused(2, &["export", "create", "vm", "--ttl", "8d"]), &["a week"]);
    says(&site.backstay.refused(2, &["export", "create", "vm", "--ttl", "0s"]), &["1 to"]);
    assert_eq!(site.backstay.ok(&["export", "list"]), json!([]));

    // A disk that grew: QEMU calls its new part clean, so nothing is said of it, and why.
    site.backup("vm");
    let checkpoint =
        site.backstay.ok(&["checkpoint", "list", "vm"])[0]["name"].as_str().expect("c1").to_owned();
    qsd.look().ok("block_resize", json!({ "node-name": "disk1", "size": 8 * MIB }));
    write(&qsd.file("disk0"), MIB, 65536, 1);
    let export = Export::create(&site.backstay, &["--since", &checkpoint]);
    assert_eq!(export.disks[0].changed(), [(MIB, 65536)]);
    assert!(export.disks[1].bitmap.is_none(), "{export:?}");
    says(export.disks[1].reason.as_deref().unwrap_or_default(), &["size changed from 4194304 to 8388608"]);
    site.backstay.ok(&["export", "remove", &export.id]);
    let again = site.backstay.refused(3, &["export", "remove", &export.id]);
    says(&again, &["has ended already", "removed before its time was over"]);

    // Without its QEMU there is nothing to show.
    site.backstay.expect_log("job failed");
    qsd.kill();
    says(&site.backstay.refused(1, &["export", "create", "vm"]), &["QEMU is not running"]);
    let listed = site.backstay.ok(&["export", "list"]);
    let states: Vec<&Value> =
        listed.as_array().into_iter().flatten().map(|export| &export["state"]).collect();
    assert_eq!(states, ["ended", "ended"], "{listed}");
}
