//! Notices on their way to their receivers: to each by itself, one notice after the other, each until it is taken. Only a test
//! waits for no other: whoever asks for one wants to know how it is now.
//!
//! What is owed and what was taken is in the journal; these tasks only carry. A notice whose delivery the journal does not
//! know of is sent again after a restart: at least once, and its id tells the receiver which it has had.

mod mail;
mod receiver;
mod trust;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use journal::ReceiverName;
use journal::notice::{Answer, NoticeKind};
use journal::state::Notice;
use tokio::sync::broadcast;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use self::mail::{Login, Mail, Security};
pub use self::receiver::{Receiver, Way};
pub use self::webhook::Webhook;
use super::now;
use crate::decide::notify::Delivery;

/// The wait after the first failure, and the longest: it doubles in between.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How long it is tried: after a long weekend, in microseconds.
const GIVE_UP: i64 = 3 * 24 * 3600 * 1_000_000;
/// The most that is kept of what a receiver says, in bytes.
const SAYING_MAX: usize = 300;

/// What a receiver said to one try, good or bad.
pub(crate) type Said = Result<String, String>;

/// What became of a delivery.
pub(super) type Told = (Delivery, Answer);

/// The ways to all receivers.
#[derive(Debug, Default)]
pub(super) struct Carriers(BTreeMap<ReceiverName, Carrier>);

/// The way to one: what it is owed in order, and what carries it.
#[derive(Debug)]
struct Carrier {
    owed: UnboundedSender<Notice>,
    way: Arc<Carries>,
}

/// What it takes to carry a notice to a receiver.
#[derive(Debug)]
struct Carries {
    receiver: Receiver,
    installation: String,
    say: UnboundedSender<Told>,
    tries: broadcast::Sender<(Delivery, Said)>,
}

impl Carriers {
    /// Starts one for each receiver. `tries` hears what each of them says to each try.
    pub(super) fn start(
        receivers: Vec<Receiver>,
        installation: &str,
        tries: &broadcast::Sender<(Delivery, Said)>,
    ) -> (Carriers, UnboundedReceiver<Told>) {
        let (say, told) = unbounded_channel();
        let carriers = receivers.into_iter().map(|receiver| {
            let (owe, mut owed) = unbounded_channel::<Notice>();
            let name = receiver.name.clone();
            let (installation, say, tries) = (installation.to_owned(), say.clone(), tries.clone());
            let way = Arc::new(Carries { receiver, installation, say, tries });
            let carries = Arc::clone(&way);
            tokio::spawn(async move {
                while let Some(notice) = owed.recv().await {
                    if !carries.carry(&notice).await {
                        return;
                    }
                }
            });
            (name, Carrier { owed: owe, way })
        });
        (Carriers(carriers.collect()), told)
    }

    /// To whom.
    pub(super) fn names(&self) -> BTreeSet<ReceiverName> {
        self.0.keys().cloned().collect()
    }

    /// Sends one on its way. A carrier ends with the process: the next one finds what is owed in the journal.
    pub(super) fn send(&self, receiver: &ReceiverName, notice: Notice) {
        let Some(carrier) = self.0.get(receiver) else { return };
        if notice.raised.kind == NoticeKind::Test {
            let way = Arc::clone(&carrier.way);
            tokio::spawn(async move { way.carry(&notice).await });
        } else {
            let _ended = carrier.owed.send(notice);
        }
    }
}

impl Carries {
    /// Carries a notice until it is taken or given up; whether anybody still wants to know.
    async fn carry(&self, notice: &Notice) -> bool {
        let delivery = Delivery { notice: notice.raised.notice, receiver: self.receiver.name.clone() };
        let heard = |said: &Said| drop(self.tries.send((delivery.clone(), said.clone())));
        let answer = carry(&self.receiver, &self.installation, notice, heard).await;
        self.say.send((delivery, answer)).is_ok()
    }
}

/// Until it is taken, or for too long.
async fn carry(receiver: &Receiver, installation: &str, notice: &Notice, heard: impl Fn(&Said)) -> Answer {
    let mut wait = BACKOFF.0;
    loop {
        let said = receiver.deliver(installation, notice).await;
        let said = said.map(shortened).map_err(shortened);
        heard(&said);
        let failed = match said {
            Ok(said) => return Answer::Taken(said),
            Err(failed) => failed,
        };
        let id = notice.raised.notice;
        tracing::warn!(notice = %id, receiver = %receiver.name, failed, again_in = ?wait, "a notice was not delivered");
        if now().0.saturating_sub(notice.at.0) > GIVE_UP {
            return Answer::GivenUp(failed);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(SAYING_MAX));
    text
}

/// What really happened, at the end of a chain of errors, and what to do where that is known.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let what = last.to_string();
    match what.contains("UnknownIssuer") {
        true => format!(
            "{what}: name the file of the authority that signed its certificate as the receiver's `ca`"
        ),
        false => what,
    }
}
