//! An archived segment, unpacked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal::probe::archive(bytes));
