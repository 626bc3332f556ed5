//! Notices: what is still to be delivered, and a test whether they arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::State as Extract;
use journal::notice::{NoticeKind, NoticeRaised, Subject};
use journal::state::Notice;
use journal::{NoticeId, ReceiverName};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::view::{NoticeTested, NoticeView, ReceiverTested};
use super::{Answer, Api};
use crate::decide::notify::{Delivery, owed};
use crate::drive::Refusal;
use crate::drive::notify::Said;

/// How long a test waits for its deliveries.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

type Tries = broadcast::Receiver<(Delivery, Said)>;

pub(super) async fn list(Extract(api): Extract<Api>) -> Json<Vec<NoticeView>> {
    let state = api.shared.state.read().await;
    Json(state.notices.values().map(|notice| view(notice, &api.shared.receivers)).collect())
}

fn view(notice: &Notice, receivers: &BTreeSet<ReceiverName>) -> NoticeView {
    let raised = &notice.raised;
    NoticeView {
        id: raised.notice.to_string(),
        kind: raised.kind.name().to_owned(),
        subject: raised.subject.name().to_owned(),
        vm: raised.vm.clone(),
        text: raised.text.clone(),
        raised: notice.at.to_string(),
        owed: owed(notice, receivers).map(ToString::to_string).collect(),
    }
}

/// Raises a notice that says nothing, and waits for what each receiver says to it.
pub(super) async fn test(Extract(api): Extract<Api>) -> Answer<NoticeTested> {
    let receivers = &api.shared.receivers;
    if receivers.is_empty() {
        let what = "no receiver is configured; set `webhook` under [notify] in the configuration file of `up`, or name \
                    receivers there";
        return Err(Refusal::usage(what));
    }
    // Before it is raised: an answer may be there sooner than this call goes on.
    let mut tries = api.shared.tries.subscribe();
    let notice = api
        .propose(|state, _| {
            let notice = state.next.notice;
            let text = "a test: notices of this installation arrive here".to_owned();
            let (kind, subject) = (NoticeKind::Test, Subject::Test);
            Ok((vec![NoticeRaised { notice, kind, subject, vm: None, text }.into()], notice))
        })
        .await?;
    let mut said = BTreeMap::new();
    let all = all_taken(&mut tries, notice, receivers.len(), &mut said);
    let delivered = tokio::time::timeout(LONGEST_WAIT, all).await.is_ok();
    let receivers = receivers.iter().map(|name| tested(name, said.remove(name))).collect();
    Ok(Json(NoticeTested { id: notice.to_string(), delivered, receivers }))
}

/// Collects what is said to a notice, the last word of each receiver, until so many have taken it.
async fn all_taken(
    tries: &mut Tries,
    notice: NoticeId,
    receivers: usize,
    said: &mut BTreeMap<ReceiverName, Said>,
) {
    while said.values().filter(|said| said.is_ok()).count() < receivers {
        match tries.recv().await {
            Ok((delivery, word)) if delivery.notice == notice => drop(said.insert(delivery.receiver, word)),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

fn tested(name: &ReceiverName, said: Option<Said>) -> ReceiverTested {
    let (delivered, answer) = match said {
        Some(Ok(said)) => (true, said),
        Some(Err(failed)) => (false, failed),
        None => {
            let wait = LONGEST_WAIT.as_secs();
            (false, format!("nothing within {wait} s; it is tried again"))
        }
    };
    ReceiverTested { name: name.to_string(), delivered, answer }
}
