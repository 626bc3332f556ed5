//! A base's bytes, and what is not taken for one.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::ids::{Epoch, Installation, Time};
use crate::log::medium::{Crash, Disk, SimulatedDisk};
use crate::record::{EpochBegan, Installed};
use crate::state::Stamp;

fn sample(seq: u64) -> Base {
    let mut state = State::default();
    let stamp = Stamp { epoch: Epoch(1), time: Time(5) };
    state.apply(stamp, &Installed { installation: Installation(7) }.into()).unwrap();
    state.apply(stamp, &EpochBegan { pid: 1, version: "0".into() }.into()).unwrap();
    Base { at: Position { seq, hash: Hash([0xAB; 32]) }, state }
}

#[test]
fn a_base_comes_back_as_it_went() {
    let base = sample(2);
    assert_eq!(Base::decode(&base.encode().unwrap()).unwrap(), base);
}

#[test]
fn no_flipped_bit_and_no_missing_byte_goes_unnoticed() {
    let bytes = sample(2).encode().unwrap();
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        Base::decode(&flipped).unwrap_err();
    }
    for len in 0..bytes.len() {
        Base::decode(&bytes[..len]).unwrap_err();
    }
    Base::decode(&[bytes.as_slice(), &[0]].concat()).unwrap_err();
}

#[test]
fn another_fold_s_base_is_told_from_a_damaged_one() {
    let mut bytes = sample(2).encode().unwrap();
    bytes[8] += 1;
    let crc = checksum(&bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(Base::decode(&bytes), Err(BaseFault::Fold { found }) if found == FOLD + 1));
}

#[test]
fn two_are_kept_and_a_renamed_one_is_refused() {
    let disk = SimulatedDisk::new();
    for seq in [2, 5, 9] {
        write(&disk, &sample(seq)).unwrap();
    }
    assert_eq!(list(&disk).unwrap(), [9, 5]);
    disk.rename(&file_name(9), &file_name(8)).unwrap();
    assert!(matches!(read(&disk, 8), Err(BaseFault::Torn(_))));
}

#[test]
fn power_lost_while_one_is_written_leaves_the_older_ones() {
    for nth in 1..=6 {
        let disk = SimulatedDisk::new();
        write(&disk, &sample(2)).unwrap();
        disk.power_off(nth);
        let written = write(&disk, &sample(5)).is_ok();
        for crash in [Crash::Process, Crash::LoseAll, Crash::LoseSome(nth), Crash::LoseSome(nth + 99)] {
            let after = disk.crashed(crash);
            let bases = list(&after).unwrap();
            assert!(bases.contains(&2));
            assert!(bases.contains(&5) || !written);
            bases.into_iter().for_each(|seq| drop(read(&after, seq).unwrap()));
        }
    }
}
