//! The journal of a simulation: the records since the last base, that base, and the hash of all of them.

use journal::base::Base;
use journal::log::Position;
use journal::record::Encoded;
use journal::state::Stamp;
use journal::{Record, State};
use sha2::{Digest, Sha256};

/// So many records are folded again after a base, at the most.
const TAIL: usize = 20_000;

pub struct Books {
    /// The last base, as bytes.
    base: Option<Vec<u8>>,
    tail: Vec<(Stamp, Encoded)>,
    /// All records before the tail, where there is memory for them.
    before: Option<Vec<(Stamp, Encoded)>>,
    hash: Sha256,
    pub records: u64,
    pub bytes: u64,
    pub bases: u64,
}

impl Books {
    /// Nothing is written. With `whole`, every record is kept, to be folded from the first one.
    pub fn new(whole: bool) -> Books {
        let before = whole.then(Vec::new);
        Books { base: None, tail: Vec::new(), before, hash: Sha256::new(), records: 0, bytes: 0, bases: 0 }
    }

    pub fn write(&mut self, stamp: Stamp, record: &Record) {
        let encoded = record.encode().unwrap();
        for part in [stamp.epoch.0.to_le_bytes(), stamp.time.0.to_le_bytes()] {
            self.hash.update(part);
        }
        self.hash.update(encoded.kind.to_le_bytes());
        self.hash.update(&encoded.body);
        self.records += 1;
        self.bytes += encoded.body.len() as u64;
        self.tail.push((stamp, encoded));
    }

    /// A base now and then, as the product makes them.
    pub fn consider(&mut self, state: &State) {
        if self.tail.len() < TAIL {
            return;
        }
        let base = Base { at: Position::START, state: state.clone() };
        self.base = Some(base.encode().unwrap());
        self.bases += 1;
        match &mut self.before {
            Some(before) => before.append(&mut self.tail),
            None => self.tail.clear(),
        }
    }

    /// What a start makes of it: the base and the records after it. Where all are kept, they make the same.
    pub fn read(&self) -> State {
        let base = self.base.as_ref().map(|bytes| Base::decode(bytes).unwrap().state);
        let state = fold(base.unwrap_or_default(), &self.tail);
        if let Some(before) = &self.before {
            let whole = fold(fold(State::default(), before), &self.tail);
            assert!(whole == state, "the records make another state than the base and the records after it");
        }
        state
    }

    /// The hash of all records, with their times and epochs.
    pub fn hash(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn fold(mut state: State, records: &[(Stamp, Encoded)]) -> State {
    for (stamp, encoded) in records {
        let record = Record::decode(encoded.kind, encoded.version, &encoded.body).unwrap();
        state.apply(*stamp, &record).unwrap();
    }
    state
}
