//! A base, also one whose checksum is right.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal::probe::base(bytes));
