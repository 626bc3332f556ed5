//! Notices: what is still to be delivered, and a test whether they arrive.

use std::time::Duration;

use axum::Json;
use axum::extract::State as Extract;
use journal::NoticeId;
use journal::notice::{NoticeKind, NoticeRaised, Subject};
use journal::state::Notice;

use super::view::{NoticeTested, NoticeView};
use super::{Answer, Api};
use crate::drive::Refusal;

/// How long a test waits for its delivery.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

pub(super) async fn list(Extract(api): Extract<Api>) -> Json<Vec<NoticeView>> {
    let state = api.shared.state.read().await;
    Json(state.notices.values().map(view).collect())
}

fn view(notice: &Notice) -> NoticeView {
    let raised = &notice.raised;
    NoticeView {
        id: raised.notice.to_string(),
        kind: raised.kind.name().to_owned(),
        subject: raised.subject.name().to_owned(),
        vm: raised.vm.clone(),
        text: raised.text.clone(),
        raised: notice.at.to_string(),
    }
}

/// Raises a notice that says nothing, and waits for its delivery.
pub(super) async fn test(Extract(api): Extract<Api>) -> Answer<NoticeTested> {
    if !api.shared.notifies {
        let what =
            "no receiver is configured; set `webhook` under [notify] in the configuration file of `up`";
        return Err(Refusal::usage(what));
    }
    let notice = api
        .propose(|state, _| {
            let notice = state.next.notice;
            let text = "a test: notices of this installation arrive here".to_owned();
            let (kind, subject) = (NoticeKind::Test, Subject::Test);
            Ok((vec![NoticeRaised { notice, kind, subject, vm: None, text }.into()], notice))
        })
        .await?;
    let delivered = tokio::time::timeout(LONGEST_WAIT, delivered(&api, notice)).await.is_ok();
    Ok(Json(NoticeTested { id: notice.to_string(), delivered }))
}

async fn delivered(api: &Api, notice: NoticeId) {
    let mut changed = api.shared.changed.subscribe();
    while api.shared.state.read().await.notices.contains_key(&notice) {
        if changed.changed().await.is_err() {
            return;
        }
    }
}
