//! A whole journal of one segment: opened, read, verified, searched.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal::probe::segment(bytes));
