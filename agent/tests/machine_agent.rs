//! The agent as its orchestrator meets it: the fence, cancelling, one answer for each intent; and freezing, against a
//! guest agent of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machine;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use journal::effect::{Freeze, Thaw};
use journal::{Done, Effect, Epoch, FailureClass};
use machine::{Became, Hands};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

/// A guest agent that does as it is told.
#[derive(Debug, Default)]
struct Guest {
    frozen: bool,
    /// Freezes, and never says so.
    swallows_freeze: bool,
    /// Refuses to freeze.
    refuses_freeze: bool,
    /// Is deaf from the first freeze on.
    deaf_after_freeze: bool,
    asked: Vec<String>,
}

type Shared = Arc<Mutex<Guest>>;

fn guest(socket: &Path) -> Shared {
    let guest = Shared::default();
    let listener = UnixListener::bind(socket).unwrap();
    let shared = guest.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                let request: Value =
                    serde_json::from_slice(line.strip_prefix(&[0xff]).unwrap_or(&line)).unwrap();
                let Some(answer) = answer(&mut shared.lock().unwrap(), &request) else { continue };
                let mark: &[u8] = if request["execute"] == "guest-sync-delimited" { &[0xff] } else { &[] };
                let line = [mark, answer.to_string().as_bytes(), b"\n"].concat();
                if writer.write_all(&line).await.is_err() {
                    break;
                }
            }
        }
    });
    guest
}

fn answer(guest: &mut Guest, request: &Value) -> Option<Value> {
    let command = request["execute"].as_str().unwrap();
    guest.asked.push(command.to_owned());
    let froze = guest.asked.iter().any(|command| command == "guest-fsfreeze-freeze");
    if guest.deaf_after_freeze && froze {
        return None;
    }
    Some(match command {
        "guest-sync-delimited" => json!({"return": request["arguments"]["id"]}),
        "guest-fsfreeze-status" => json!({"return": if guest.frozen { "frozen" } else { "thawed" }}),
        "guest-fsfreeze-freeze" if guest.refuses_freeze => {
            json!({"error": {"class": "GenericError", "desc": "a hook said no"}})
        }
        "guest-fsfreeze-freeze" => {
            guest.frozen = true;
            if guest.swallows_freeze {
                return None;
            }
            json!({"return": 2})
        }
        "guest-fsfreeze-thaw" => json!({"return": if std::mem::take(&mut guest.frozen) { 2 } else { 0 }}),
        _ => json!({"error": {"class": "CommandNotFound", "desc": "no"}}),
    })
}

struct Rig {
    hands: Hands,
    guest: Shared,
    home: tempfile::TempDir,
}

fn rig() -> Rig {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("qga.sock");
    let guest = guest(&socket);
    let mut hands = Hands::new(home.path(), &home.path().join("no.sock"));
    hands.vm.guest_agent = Some(socket.to_str().unwrap().to_owned());
    Rig { hands, guest, home }
}

impl Rig {
    fn freeze(&self, limit_ms: u64) -> Effect {
        Effect::Freeze(Freeze { vm: self.hands.vm.clone(), limit_ms })
    }

    fn thaw(&self) -> Effect {
        Effect::Thaw(Thaw { vm: self.hands.vm.clone() })
    }

    fn frozen(&self) -> bool {
        self.guest.lock().unwrap().frozen
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn freezing_and_thawing_may_be_repeated() {
    let mut rig = rig();
    for _ in 0..2 {
        assert_eq!(rig.hands.perform(1, rig.freeze(1000)).await, Became::Done(Done::Plain));
        assert!(rig.frozen());
    }
    for filesystems in [2, 0] {
        let thawed = Became::Done(Done::Thawed { filesystems });
        assert_eq!(rig.hands.perform(2, rig.thaw()).await, thawed);
        assert!(!rig.frozen());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_fails_only_when_nothing_is_frozen() {
    let mut rig = rig();
    rig.guest.lock().unwrap().refuses_freeze = true;
    let what = rig.hands.perform(1, rig.freeze(1000)).await.failed(FailureClass::Refused);
    assert!(what.contains("a hook said no") && what.contains("nothing is frozen"), "{what}");
    // It froze, and the answer never came: it is thawed before it is called failed.
    *rig.guest.lock().unwrap() = Guest { swallows_freeze: true, ..Guest::default() };
    rig.hands.perform(2, rig.freeze(100)).await.failed(FailureClass::Unreachable);
    assert!(!rig.frozen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_cannot_be_taken_back_is_unknown() {
    let mut rig = rig();
    rig.guest.lock().unwrap().deaf_after_freeze = true;
    let answer = rig.hands.perform(1, rig.freeze(100)).await;
    assert!(matches!(&answer, Became::Unknown(why) if why.contains("not confirmed")), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_there_is_nothing_to_thaw() {
    let mut rig = rig();
    std::fs::remove_file(rig.home.path().join("qga.sock")).unwrap();
    rig.hands.perform(1, rig.freeze(100)).await.failed(FailureClass::Unreachable);
    rig.hands.perform(2, rig.thaw()).await.done();
    rig.hands.vm.guest_agent = None;
    rig.hands.perform(3, rig.freeze(100)).await.failed(FailureClass::Invalid);
    rig.hands.perform(4, rig.thaw()).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_epoch_is_fenced_off_for_ever() {
    let mut rig = rig();
    rig.hands.epoch = Epoch(5);
    rig.hands.perform(1, rig.thaw()).await.done();
    rig.hands.epoch = Epoch(4);
    let what = rig.hands.perform(2, rig.thaw()).await.failed(FailureClass::Fenced);
    assert!(what.contains("epoch e4") && what.contains("epoch e5"), "{what}");
    // Another agent on the same folders, as after a restart.
    let mut again = Hands::new(rig.home.path(), Path::new("/nowhere"));
    again.epoch = Epoch(4);
    again.perform(3, rig.thaw()).await.failed(FailureClass::Fenced);
    again.epoch = Epoch(6);
    again.perform(4, rig.thaw()).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_is_being_performed_is_answered_once() {
    let mut rig = rig();
    rig.guest.lock().unwrap().swallows_freeze = true;
    for _ in 0..3 {
        rig.hands.send(1, rig.freeze(200)).await;
    }
    rig.hands.answer(1).await.failed(FailureClass::Unreachable);
    // A second answer would come now, before that of the next one.
    rig.hands.perform(2, rig.thaw()).await.done();
    let freezes =
        rig.guest.lock().unwrap().asked.iter().filter(|asked| *asked == "guest-fsfreeze-freeze").count();
    assert_eq!(freezes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_can_be_cancelled() {
    let mut rig = rig();
    rig.guest.lock().unwrap().swallows_freeze = true;
    rig.hands.send(1, rig.freeze(300)).await;
    rig.hands.send(2, rig.freeze(300)).await;
    rig.hands.sender.send(journal::wire::ToAgent::Cancel { intent: journal::IntentId(2) }).await.unwrap();
    rig.hands.answer(1).await.failed(FailureClass::Unreachable);
    rig.hands.answer(2).await.failed(FailureClass::Cancelled);
    tokio::time::timeout(Duration::from_millis(50), rig.hands.receiver.recv())
        .await
        .expect_err("no more answers");
}
