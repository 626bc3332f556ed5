//! An object store for one test: moto's server, which speaks S3 and forgets everything when it ends. Knows no repository.

use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Lab, PATIENCE};
use crate::process::Process;

/// Credentials that moto takes for good, as it does all.
pub const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "a-key-for-tests"),
    ("AWS_SECRET_ACCESS_KEY", "a-secret-for-tests"),
    ("AWS_REGION", "us-east-1"),
];

/// A running server with one bucket.
#[derive(Debug)]
pub struct Moto {
    address: SocketAddr,
    // Killed when dropped.
    _process: Process,
}

impl Moto {
    /// Starts it on a free port and makes the bucket.
    #[track_caller]
    pub fn start(lab: &Lab, bucket: &str) -> Moto {
        let program = find().expect("`Moto::installed` was asked before");
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1");
        let mut process = Process::start("moto_server", &mut command, &lab.path("moto.log"));
        let log = lab.path("moto.log");
        let address = process.until("moto_server to say where it listens", PATIENCE, || {
            let said = std::fs::read_to_string(&log).ok()?;
            let (_, rest) = said.split_once("Running on http://")?;
            rest.split_whitespace().next()?.parse().ok()
        });
        let moto = Moto { address, _process: process };
        let answer = moto.ask(&format!("PUT /{bucket} HTTP/1.1"));
        assert!(answer.starts_with("HTTP/1.1 200"), "the bucket was not made: {answer}");
        moto
    }

    /// Whether it is here; if not, the test is to return (see [`crate::lab::require`]).
    #[must_use]
    pub fn installed() -> bool {
        find().is_some() || crate::lab::skip("moto_server missing; scripts/setup installs it")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One request without a body; the whole answer.
    #[track_caller]
    pub fn ask(&self, line: &str) -> String {
        let mut connection = TcpStream::connect(self.address).expect("moto listens");
        connection.set_read_timeout(Some(PATIENCE)).expect("a limit that is not zero");
        let head =
            format!("{line}\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", self.address);
        connection.write_all(head.as_bytes()).expect("moto reads");
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).expect("moto answers");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The keys of the bucket's objects that begin so, at most a thousand.
    #[track_caller]
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let answer = self.ask(&format!("GET /{bucket}?list-type=2&prefix={prefix} HTTP/1.1"));
        answer
            .split("<Key>")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()))
            .collect()
    }
}

/// The program: where `scripts/setup` puts it, or wherever else it is.
fn find() -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/moto/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    [made]
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join("moto_server"))
        .find(|program| program.is_file())
}
