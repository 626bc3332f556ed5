//! A frame, and frames found among bytes that are none.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal::probe::frame(bytes));
