//! Offline reading of records that are made here.

#![allow(clippy::unwrap_used)]

use journal::VmId;
use journal::effect::VmAddress;
use journal::log::{Entry, Hash};
use journal::record::{JobQueued, Terms, VmAdded, VmRemoved, Work};

use super::*;

fn frame(seq: u64, record: &Record) -> Frame {
    let encoded = record.encode().unwrap();
    let entry = Entry {
        kind: encoded.kind,
        version: encoded.version,
        epoch: 3,
        time: 1_767_225_600_000_000,
        body: encoded.body,
    };
    Frame { seq, durable: 0, previous: Hash::default(), hash: Hash::default(), entry }
}

#[test]
fn a_vm_has_its_name_also_after_it_left() {
    let id = VmId(serde_json::from_str("\"00000000-0000-0000-0000-000000000001\"").unwrap());
    let vm = VmAddress { id, name: "web".parse().unwrap(), qmp: "/run/qmp".into(), guest_agent: None };
    let records: [Record; 3] = [
        VmAdded { vm, disks: Vec::new(), labels: Vec::new(), host: None }.into(),
        VmRemoved { vm: id }.into(),
        JobQueued {
            job: journal::JobId(1),
            work: Work::CreateCheckpoint { vm: id },
            due: None,
            terms: Terms::default(),
        }
        .into(),
    ];
    let mut names = HashMap::new();
    for (seq, record) in (1..).zip(&records) {
        let shown = view(&frame(seq, record), &mut names);
        assert_eq!(shown.vm.as_deref(), Some("web"), "{shown:?}");
        assert_eq!((shown.seq, shown.epoch, shown.time.as_str()), (seq, 3, "2026-01-01T00:00:00.000000Z"));
    }
}

#[test]
fn a_record_of_a_newer_version_is_shown_all_the_same() {
    let entry = Entry { kind: 0x7fff, version: 1, epoch: 1, time: 0, body: vec![1] };
    let frame = Frame { seq: 1, durable: 0, previous: Hash::default(), hash: Hash::default(), entry };
    let shown = view(&frame, &mut HashMap::new());
    assert_eq!(shown.kind, "0x7fff");
    assert!(shown.summary.contains("newer"), "{}", shown.summary);
}
