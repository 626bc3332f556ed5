//! The QMP and guest agent clients against servers that are slow, wrong or gone.
#![allow(clippy::unwrap_used)]

use agent::qmp::guest::GuestAgent;
use agent::qmp::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

const SHORT: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(5);

/// The server's end of a connection, played by the test.
struct Fake {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Fake {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer }
    }

    async fn command(&mut self) -> Value {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).await.unwrap();
        let start = line.iter().position(|byte| *byte != 0xff).unwrap();
        serde_json::from_slice(&line[start..]).unwrap()
    }

    async fn say(&mut self, text: &[u8]) {
        self.writer.write_all(text).await.unwrap();
    }

    async fn answer(&mut self, command: &Value, value: &Value) {
        self.say(format!("{}\r\n", json!({"return": value, "id": command["id"]})).as_bytes()).await;
    }
}

fn listen() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    (folder, path, listener)
}

async fn qmp_pair(path: &Path, listener: &UnixListener, limits: Limits) -> (Qmp, Fake) {
    let server = async {
        let mut fake = Fake::new(listener.accept().await.unwrap().0);
        let version = json!({"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": "x"});
        fake.say(format!("{}\r\n", json!({"QMP": {"version": version, "capabilities": []}})).as_bytes())
            .await;
        let command = fake.command().await;
        assert_eq!(command["execute"], "qmp_capabilities");
        fake.answer(&command, &json!({})).await;
        fake
    };
    let (qmp, fake) = tokio::join!(Qmp::connect(path, limits), server);
    (qmp.unwrap(), fake)
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_the_next_one() {
    let (_folder, path, listener) = listen();
    let (qmp, mut fake) = qmp_pair(&path, &listener, Limits::default()).await;
    assert_eq!(qmp.process().pid, std::process::id());
    let error = qmp.execute_within("slow", Value::Null, SHORT).await.unwrap_err();
    assert!(matches!(&error, QmpError::Timeout { command, .. } if command == "slow"), "{error:?}");
    assert_eq!(error.fate(), Fate::Unknown);
    let server = async {
        let (slow, next) = (fake.command().await, fake.command().await);
        fake.answer(&slow, &json!("late")).await;
        fake.answer(&next, &json!("mine")).await;
    };
    let (answer, ()) = tokio::join!(qmp.execute("next", json!({"a": 1})), server);
    assert_eq!(answer.unwrap(), json!("mine"));
}

#[tokio::test]
async fn a_command_that_never_left_is_known_not_to_have_run() {
    let (_folder, path, listener) = listen();
    let (qmp, _fake) = qmp_pair(&path, &listener, Limits::default()).await;
    // Larger than the socket takes while nobody reads: the second stays behind it.
    let large = json!({"data": "x".repeat(4 << 20)});
    let (first, second) = tokio::join!(
        qmp.execute_within("large", large, SHORT),
        qmp.execute_within("behind", Value::Null, SHORT)
    );
    assert_eq!(first.unwrap_err().fate(), Fate::Unknown);
    assert_eq!(second.unwrap_err().fate(), Fate::NotSent);
}

#[tokio::test]
async fn an_event_between_subscription_and_wait_is_not_lost() {
    let (_folder, path, listener) = listen();
    let (qmp, mut fake) = qmp_pair(&path, &listener, Limits { events: 4, ..Limits::default() }).await;
    let mut events = qmp.events();
    let mut behind = qmp.events();
    let server = async {
        let command = fake.command().await;
        for number in 0..3 {
            fake.say(format!("{}\n", json!({"event": "E", "data": {"n": number}})).as_bytes()).await;
        }
        fake.answer(&command, &json!({})).await;
        let command = fake.command().await;
        for number in 3..6 {
            fake.say(format!("{}\n", json!({"event": "E", "data": {"n": number}})).as_bytes()).await;
        }
        fake.answer(&command, &json!({})).await;
    };
    let client = async {
        qmp.execute("cause", Value::Null).await.unwrap();
        let event = events.wait("the second", SOON, |event| event.data["n"] == 1).await.unwrap();
        assert_eq!(event.name, "E");
        qmp.execute("more", Value::Null).await.unwrap();
        let error = behind.wait("the first", SOON, |event| event.data["n"] == 0).await.unwrap_err();
        assert!(matches!(error, QmpError::EventsLost { count: 2, .. }), "{error:?}");
        let error = events.wait("what never comes", SHORT, |event| event.name == "F").await.unwrap_err();
        assert!(matches!(error, QmpError::Timeout { .. }), "{error:?}");
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn nonsense_and_endless_lines_end_the_connection() {
    let limits = Limits { line: 1000, ..Limits::default() };
    for (said, expected) in
        [("hello\n", "Protocol"), ("{\"return\":{}}\n", "Protocol"), (&"x".repeat(2000), "TooLong")]
    {
        let (_folder, path, listener) = listen();
        let (qmp, mut fake) = qmp_pair(&path, &listener, limits).await;
        let server = async {
            fake.command().await;
            fake.say(said.as_bytes()).await;
        };
        let (answer, ()) = tokio::join!(qmp.execute("ask", Value::Null), server);
        let error = answer.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{error:?}");
        assert_eq!(error.fate(), Fate::Unknown);
        assert_ne!(qmp.execute("again", Value::Null).await.unwrap_err().fate(), Fate::Refused);
    }
}

#[tokio::test]
async fn a_qemu_that_greets_twice_is_borne_while_it_starts_and_not_later() {
    let (_folder, path, listener) = listen();
    let server = async {
        let mut fake = Fake::new(listener.accept().await.unwrap().0);
        let version = json!({"qemu": {"major": 10, "minor": 0, "micro": 2}});
        let greeting = format!("{}\n", json!({"QMP": {"version": version}}));
        fake.say(greeting.as_bytes()).await;
        fake.say(greeting.as_bytes()).await;
        let command = fake.command().await;
        fake.answer(&command, &json!({})).await;
        fake.command().await;
        fake.say(greeting.as_bytes()).await;
    };
    let client = async {
        let qmp = Qmp::connect(&path, Limits::default()).await.unwrap();
        let error = qmp.execute("ask", Value::Null).await.unwrap_err();
        assert!(matches!(error, QmpError::Closed { .. }) && error.fate() == Fate::Unknown, "{error:?}");
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn silence_is_no_greeting() {
    let (_folder, path, _listener) = listen();
    let limits = Limits { greeting: SHORT, ..Limits::default() };
    assert!(matches!(Qmp::connect(&path, limits).await, Err(QmpError::NoGreeting { .. })));
    assert!(matches!(GuestAgent::connect(&path, limits).await, Err(QmpError::NoAgent { .. })));
}

/// Answers a synchronisation after having said something stale.
async fn synchronise(fake: &mut Fake, stale: &[u8]) {
    let command = fake.command().await;
    assert_eq!(command["execute"], "guest-sync-delimited");
    fake.say(stale).await;
    fake.say(b"\xff").await;
    fake.say(format!("{}\n", json!({"return": command["arguments"]["id"]})).as_bytes()).await;
}

#[tokio::test]
async fn the_guest_agent_is_brought_back_into_step_after_a_lost_answer() {
    let (_folder, path, listener) = listen();
    let client = async {
        let mut agent = GuestAgent::connect(&path, Limits::default()).await.unwrap();
        assert!(!agent.is_frozen(SOON).await.unwrap());
        let error = agent.freeze(SHORT).await.unwrap_err();
        assert!(matches!(error, QmpError::Timeout { .. }) && error.fate() == Fate::Unknown, "{error:?}");
        assert_eq!(agent.thaw(SOON).await.unwrap(), 2, "not the 7 of the late freeze");
        let error = agent.execute("guest-dance", Value::Null, SOON).await.unwrap_err();
        assert!(matches!(error, QmpError::CommandNotFound { .. }), "{error:?}");
        assert!(agent.is_frozen(SOON).await.unwrap(), "a refusal is an answer and leaves it in step");
    };
    let server = async {
        let mut fake = Fake::new(listener.accept().await.unwrap().0);
        synchronise(&mut fake, b"{\"return\": 1}\n{\"error\": {\"class\": \"GenericError\"}}\n").await;
        fake.command().await;
        fake.say(b"{\"return\":\"thawed\"}\n").await;
        assert_eq!(fake.command().await["execute"], "guest-fsfreeze-freeze");
        synchronise(&mut fake, b"{\"return\": 7}\n\xff{\"return\": 0}\n").await;
        assert_eq!(fake.command().await["execute"], "guest-fsfreeze-thaw");
        fake.say(b"{\"return\":2}\n").await;
        fake.command().await;
        fake.say(b"{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"no\"}}\n").await;
        assert_eq!(fake.command().await["execute"], "guest-fsfreeze-status");
        fake.say(b"{\"return\":\"frozen\"}\n").await;
        let mut rest = Vec::new();
        fake.reader.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    };
    tokio::join!(client, server);
}
