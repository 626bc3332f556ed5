//! A record's body: the first three bytes say which kind and version it is decoded as.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal::probe::record(bytes));
