//! The laboratory: real QEMUs, a real guest, a real restic and the built `backstay`, for the tests beside it.
//!
//! It looks at QEMU with a client of its own and at disks with e2fsprogs and qemu-img, so that a test never
//! asks Backstay whether Backstay was right. What it knows is the command line; of Backstay's crates it uses one, and only to
//! make a repository whose password is cheap to try ([`restic::Restic::init_cheap`]).
//!
//! Whatever goes wrong panics, with what was done and what was seen: a test has no other use for an error.
//! Every wait is for a condition and has a limit; every child process is killed by its id when its owner is
//! dropped; all files lie in the [`lab::Lab`]'s folder, which goes with it.

pub mod authority;
pub mod backstay;
pub mod export;
pub mod guest;
mod held;
pub mod history;
pub mod idle;
pub mod invariants;
pub mod lab;
pub mod machine;
pub mod matrix;
pub mod older;
pub mod point;
pub mod process;
pub mod proxy;
pub mod qmp;
pub mod qsd;
pub mod restic;
pub mod s3;
pub mod sequence;
pub mod site;
pub mod smtp;
pub mod stage;
pub mod violation;
pub mod writer;
