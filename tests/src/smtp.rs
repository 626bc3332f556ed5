//! A mail server for one test: it takes mail for anybody, and keeps it. As much of RFC 5321 as a client needs that sends one
//! mail for each connection, with STARTTLS (RFC 3207) and AUTH PLAIN (RFC 4954).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::authority::Authority;

/// The one login that is good: user `backstay`, password `secret`.
const LOGIN: &str = "AGJhY2tzdGF5AHNlY3JldA==";
const SILENCE: Duration = Duration::from_secs(5);

/// How the server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// No TLS at all.
    Plainly,
    /// TLS after STARTTLS, and nothing of use before; whoever sends mail has to log in.
    StartTls,
    /// TLS from the first byte.
    Tls,
}

/// A mail that was taken.
#[derive(Debug, Clone)]
pub struct Mail {
    /// The recipients on its envelope.
    pub to: Vec<String>,
    /// Whether it came inside TLS.
    pub encrypted: bool,
    /// Whether its sender had logged in.
    pub logged_in: bool,
    /// Head and body.
    pub text: String,
}

impl Mail {
    /// A line of its head.
    #[track_caller]
    pub fn head(&self, name: &str) -> &str {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default();
        let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no `{name}` in {head}"))
    }
}

/// The server. It ends with the test's process.
#[derive(Debug, Clone)]
pub struct MailServer {
    port: u16,
    speaks: Speaks,
    authority: Authority,
    taken: Arc<Mutex<Vec<Mail>>>,
    refuses: Arc<AtomicBool>,
    falls_silent: Arc<AtomicBool>,
}

impl MailServer {
    /// Starts it on a free port.
    pub fn start(speaks: Speaks, authority: &Authority) -> MailServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = MailServer {
            port: listener.local_addr().expect("it is bound").port(),
            speaks,
            authority: authority.clone(),
            taken: Arc::default(),
            refuses: Arc::default(),
            falls_silent: Arc::default(),
        };
        let of_thread = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                of_thread.serve(stream);
            }
        });
        server
    }

    /// Where it listens, on [`crate::authority::HOST`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on every recipient is refused for now, or no longer.
    pub fn refuses(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// The next mail is taken without a word: the connection breaks before the answer.
    pub fn falls_silent(&self) {
        self.falls_silent.store(true, Ordering::SeqCst);
    }

    /// What was taken so far.
    pub fn taken(&self) -> Vec<Mail> {
        self.taken.lock().expect("no thread of the server panics").clone()
    }

    /// A client that hangs up breaks off its own conversation only.
    fn serve(&self, stream: TcpStream) {
        stream.set_read_timeout(Some(SILENCE)).expect("a socket takes a time limit");
        let mut talk = Talk { server: self, encrypted: false, logged_in: false, to: Vec::new() };
        let _hung_up = match self.speaks {
            Speaks::Tls => {
                talk.encrypted = true;
                talk.hold(self.authority.wrap(stream), true).map(drop)
            }
            Speaks::Plainly | Speaks::StartTls => {
                talk.hold(stream, true).and_then(|upgraded| match upgraded {
                    None => Ok(()),
                    Some(stream) => {
                        talk.encrypted = true;
                        talk.hold(self.authority.wrap(stream), false).map(drop)
                    }
                })
            }
        };
    }
}

/// A conversation with one client.
struct Talk<'a> {
    server: &'a MailServer,
    encrypted: bool,
    logged_in: bool,
    to: Vec<String>,
}

impl Talk<'_> {
    /// Until the client goes, or, then with the connection, asks for TLS.
    fn hold<S: Read + Write>(&mut self, stream: S, greet: bool) -> std::io::Result<Option<S>> {
        let mut stream = BufReader::new(stream);
        if greet {
            say(&mut stream, "220 test ESMTP")?;
        }
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            let answer = match line.split([' ', ':']).next().unwrap_or_default() {
                "EHLO" => self.extensions(),
                "STARTTLS" => {
                    say(&mut stream, "220 go on")?;
                    return Ok(Some(stream.into_inner()));
                }
                "AUTH" => {
                    self.logged_in = line.strip_prefix("AUTH PLAIN ") == Some(LOGIN);
                    if self.logged_in { "235 welcome" } else { "535 5.7.8 wrong name or password" }
                }
                "MAIL" if self.server.speaks == Speaks::StartTls && !self.logged_in => {
                    "530 5.7.0 log in first"
                }
                "MAIL" | "RSET" | "NOOP" => "250 fine",
                "RCPT" if self.server.refuses.load(Ordering::SeqCst) => {
                    "451 4.3.0 the disk is full, try later"
                }
                "RCPT" => {
                    self.to.push(line.trim_start_matches("RCPT TO:").trim_matches(['<', '>']).to_owned());
                    "250 fine"
                }
                "DATA" => {
                    say(&mut stream, "354 go on")?;
                    let text = until_dot(&mut stream)?;
                    self.take(text);
                    if self.server.falls_silent.swap(false, Ordering::SeqCst) {
                        return Ok(None);
                    }
                    "250 2.0.0 queued as 4711"
                }
                "QUIT" => {
                    say(&mut stream, "221 bye")?;
                    return Ok(None);
                }
                _ => "500 what?",
            };
            say(&mut stream, answer)?;
        }
    }

    fn extensions(&self) -> &'static str {
        match (self.server.speaks, self.encrypted) {
            (Speaks::StartTls, false) => "250-test\r\n250 STARTTLS",
            (Speaks::StartTls, true) => "250-test\r\n250 AUTH PLAIN",
            _ => "250 test",
        }
    }

    fn take(&mut self, text: String) {
        let to = std::mem::take(&mut self.to);
        let mail = Mail { to, encrypted: self.encrypted, logged_in: self.logged_in, text };
        self.server.taken.lock().expect("no thread of the server panics").push(mail);
    }
}

fn say<S: Read + Write>(stream: &mut BufReader<S>, line: &str) -> std::io::Result<()> {
    stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
    stream.get_mut().flush()
}

fn until_dot(stream: &mut impl BufRead) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let start = text.len();
        if stream.read_line(&mut text)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if &text[start..] == ".\r\n" {
            text.truncate(start);
            return Ok(text);
        }
    }
}
