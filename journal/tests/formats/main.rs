//! Golden bytes: every version of every record that was ever written reads back, and today's records are written as
//! they were on the day their version was frozen.
//!
//! `tests/formats/<kind>-<version>.hex` at the top of the repository holds them. `BACKSTAY_BLESS=1` writes files that
//! are missing, for a new kind or version; it never changes one that is there.
#![allow(clippy::unwrap_used)]

mod samples;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use journal::base::{Base, BaseFault, FOLD};
use journal::log::{Hash, Position};
use journal::record::Installed;
use journal::state::Stamp;
use journal::{Epoch, Installation, Record, State, Time};

use samples::{history, samples};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/formats")
}

/// Holds the state's layout and the fold's meaning: a base is taken only from the same [`FOLD`].
#[test]
fn todays_fold_makes_yesterdays_base() {
    let mut state = State::default();
    for (number, record) in history().into_iter().enumerate() {
        let stamp = Stamp { epoch: Epoch(1), time: Time(number as i64) };
        state.apply(stamp, &record).unwrap_or_else(|error| panic!("{record:?}: {error}"));
    }
    let at = Position { seq: history().len() as u64, hash: Hash([0xAB; 32]) };
    let today = hex(&Base { at, state: state.clone() }.encode().unwrap()) + "\n";
    let path = folder().join(format!("base-{FOLD}.hex"));
    if !path.exists() && std::env::var_os("BACKSTAY_BLESS").is_some() {
        std::fs::write(&path, &today).unwrap();
    }
    let golden = std::fs::read_to_string(&path).expect("base: a new fold; run with BACKSTAY_BLESS=1");
    assert_eq!(golden, today, "the fold or the state's layout is another: raise journal::base::FOLD");
    let read = Base::decode(&unhex(golden.trim_end())).unwrap();
    assert_eq!((read.at, read.state), (at, state));
}

/// What an older fold wrote is known for what it is, and never taken for today's.
#[test]
fn every_older_base_is_set_aside() {
    for fold in (1..=FOLD).filter(|fold| *fold != FOLD) {
        let golden = std::fs::read_to_string(folder().join(format!("base-{fold}.hex"))).unwrap();
        let refused = Base::decode(&unhex(golden.trim_end()));
        assert!(matches!(refused, Err(BaseFault::Fold { found }) if found == fold), "{fold}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn todays_records_have_yesterdays_bytes() {
    let mut lines: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for sample in samples() {
        let encoded = sample.encode().unwrap();
        let name = format!("{:04x}-{}.hex", encoded.kind, encoded.version);
        lines.entry(name).or_default().push(hex(&encoded.body));
    }
    for (name, lines) in lines {
        let path = folder().join(&name);
        let today = lines.join("\n") + "\n";
        if !path.exists() && std::env::var_os("BACKSTAY_BLESS").is_some() {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, &today).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|_| {
            panic!("{name} is missing: a new kind or version; run with BACKSTAY_BLESS=1")
        });
        assert_eq!(
            golden, today,
            "{name}: a released record is written otherwise; give it the next version instead"
        );
    }
}

#[test]
fn every_version_ever_written_is_read() {
    let mut kinds = BTreeSet::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("base-") {
            continue;
        }
        let (kind, version) = name.split_once('-').unwrap();
        let (kind, version) = (u16::from_str_radix(kind, 16).unwrap(), version.parse().unwrap());
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            Record::decode(kind, version, &unhex(line)).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        kinds.insert(kind);
    }
    let all: BTreeSet<u16> = Record::KINDS.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, all, "every kind has golden bytes");
}

#[test]
fn what_is_not_a_record_is_refused_with_advice() {
    let unknown = Record::decode(0x7fff, 1, &[]).unwrap_err().to_string();
    assert!(unknown.contains("newer"), "{unknown}");
    let newer = Record::decode(0x0001, 9, &[0; 4]).unwrap_err().to_string();
    assert!(newer.contains("newer"), "{newer}");
    let mut body = Record::from(Installed { installation: Installation(1) }).encode().unwrap().body;
    body.push(0);
    let trailing = Record::decode(0x0001, 1, &body).unwrap_err().to_string();
    assert!(trailing.contains("1 bytes too many"), "{trailing}");
    // A length that no body can have must not be believed.
    let bomb = [0xff; 16];
    assert!(Record::decode(0x0020, 1, &bomb).is_err());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(kind in 0u16..0x60, version in 0u16..4, body: Vec<u8>) {
        let _refused_or_read = Record::decode(kind, version, &body);
    }
}
