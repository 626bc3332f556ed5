//! A network that fails as told: a proxy for HTTP that cuts connections, answers in the server's stead, or never answers.
//!
//! Each request is one connection to the server. A request that no rule is for goes through untouched. Knows HTTP/1.1 with
//! a `Content-Length`, and no S3.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use crate::lab::PATIENCE;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// So many bytes of its body are taken, then the connection breaks; the server never sees it.
    CutRequest(usize),
    /// The server performs it, and the answer breaks off after so many bytes.
    CutAnswer(usize),
    /// This status, in the server's stead.
    Answer(u16),
    /// It is taken, and nothing comes back for as long as the client waits.
    Hang,
}

/// Which requests a fault is for.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The methods, such as `PUT`; all when empty.
    pub methods: &'static [&'static str],
    /// What the path contains.
    pub path: &'static str,
    /// How many such requests pass first.
    pub after: usize,
    /// How many it then happens to.
    pub times: usize,
    /// What happens.
    pub fault: Fault,
}

/// A running proxy; ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    over: AtomicBool,
}

impl Proxy {
    /// Listens on a free port and passes on to `server`.
    #[track_caller]
    pub fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { server, rules: Mutex::default(), over: AtomicBool::new(false) });
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if served.over.load(Ordering::Acquire) {
                    return;
                }
                let served = Arc::clone(&served);
                // What goes wrong with a connection is for its client to notice.
                thread::spawn(move || served.serve(client));
            }
        });
        Proxy { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on these rules hold, and no others.
    pub fn set(&self, rules: &[Rule]) {
        *self.shared.rules() = rules.to_vec();
    }

    /// Every rule was used up.
    #[track_caller]
    pub fn must_be_spent(&self) {
        let left: Vec<Rule> = self.shared.rules().iter().filter(|rule| rule.times > 0).cloned().collect();
        assert!(left.is_empty(), "these faults never happened: {left:?}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().expect("nothing panics while it holds the rules")
    }

    /// What happens to this request: the first rule that is for it decides.
    fn fate(&self, method: &str, path: &str) -> Option<Fault> {
        let mut rules = self.rules();
        let fits = |rule: &&mut Rule| {
            (rule.methods.is_empty() || rule.methods.contains(&method))
                && path.contains(rule.path)
                && (rule.after > 0 || rule.times > 0)
        };
        let rule = rules.iter_mut().find(fits)?;
        if rule.after > 0 {
            rule.after -= 1;
            return None;
        }
        rule.times = rule.times.saturating_sub(1);
        Some(rule.fault)
    }

    fn serve(&self, mut client: TcpStream) -> Option<()> {
        client.set_read_timeout(Some(10 * PATIENCE)).ok()?;
        let (head, begun) = read_head(&mut client)?;
        let mut words = head.split_whitespace();
        let (method, path) = (words.next()?, words.next()?);
        let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        match self.fate(method, path) {
            Some(Fault::CutRequest(after)) => {
                let _ = read_body(&mut client, begun, length.min(after));
                client.shutdown(Shutdown::Both).ok()
            }
            Some(Fault::Answer(status)) => {
                let _ = read_body(&mut client, begun, length);
                let document = "<Error><Code>Fault</Code><Message>as told</Message></Error>";
                let answer = format!(
                    "HTTP/1.1 {status} Fault\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{document}",
                    document.len()
                );
                client.write_all(answer.as_bytes()).ok()
            }
            Some(Fault::Hang) => {
                // Until the client gives up.
                std::io::copy(&mut client, &mut std::io::sink()).ok().map(drop)
            }
            fate => {
                let answer = self.pass_on(&head, &read_body(&mut client, begun, length)?)?;
                let length = match fate {
                    Some(Fault::CutAnswer(after)) => answer.len().min(after),
                    _ => answer.len(),
                };
                client.write_all(&answer[..length]).ok()?;
                client.shutdown(Shutdown::Both).ok()
            }
        }
    }

    /// The server's answer.
    fn pass_on(&self, head: &str, body: &[u8]) -> Option<Vec<u8>> {
        let mut server = TcpStream::connect(self.server).ok()?;
        let kept = head.lines().filter(|line| !line.is_empty() && !is(line, "connection"));
        let head: String = kept.chain(["Connection: close", ""]).map(|line| format!("{line}\r\n")).collect();
        server.write_all(head.as_bytes()).ok()?;
        server.write_all(body).ok()?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).ok()?;
        Some(answer)
    }
}

/// The head of a request, and what was read beyond it.
fn read_head(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut buffer = [0; 64 << 10];
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            return Some((String::from_utf8(read).ok()?, body));
        }
        match client.read(&mut buffer).ok()? {
            0 => return None,
            length => read.extend_from_slice(&buffer[..length]),
        }
    }
}

/// A body of so many bytes, some of which were read already.
fn read_body(client: &mut TcpStream, mut begun: Vec<u8>, length: usize) -> Option<Vec<u8>> {
    let rest = length.saturating_sub(begun.len());
    client.take(rest as u64).read_to_end(&mut begun).ok()?;
    Some(begun)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find(|line| is(line, name))?.split_once(':').map(|(_, value)| value.trim())
}

fn is(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
}
