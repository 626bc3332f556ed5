//! The fold of notices: which are owed to the operator, and what they were told to be amiss.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Illegal, Stamp, State, unknown};
use crate::ids::{NoticeId, ReceiverName, Time};
use crate::notice::{Answer, NoticeAnswered, NoticeKind, NoticeRaised, NoticeSettled, Subject};

/// A notice that is not delivered to everybody yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What is to be told.
    pub raised: NoticeRaised,
    /// Since when.
    pub at: Time,
    /// The receivers that are done with it.
    pub answered: BTreeMap<ReceiverName, Answer>,
}

/// Something that the operator was told to be amiss, and not yet to be well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// The notice that told it.
    pub notice: NoticeId,
    /// When.
    pub since: Time,
}

impl State {
    pub(super) fn raise(&mut self, at: Stamp, it: &NoticeRaised) -> Result<(), Illegal> {
        if it.notice < self.next.notice {
            return Err(Illegal::Reused(it.notice.to_string()));
        }
        let known = self.alarms.contains_key(&it.subject);
        match it.kind {
            NoticeKind::Alarm if known => return Err(Illegal::Present(format!("an alarm ({})", it.text))),
            NoticeKind::Recovery if !known => return Err(unknown("an alarm that is over")),
            NoticeKind::Alarm => {
                self.alarms.insert(it.subject.clone(), Alarm { notice: it.notice, since: at.time });
            }
            NoticeKind::Recovery => {
                self.alarms.remove(&it.subject);
            }
            NoticeKind::Test => {}
        }
        if let Subject::GoodPoint { vm } = it.subject {
            self.refresh(vm);
        }
        self.next.notice = it.notice.next();
        self.notices.insert(it.notice, Notice { raised: it.clone(), at: at.time, answered: BTreeMap::new() });
        Ok(())
    }

    pub(super) fn answer_notice(&mut self, it: &NoticeAnswered) -> Result<(), Illegal> {
        let notice = self.notices.get_mut(&it.notice).ok_or_else(|| unknown(it.notice))?;
        match notice.answered.insert(it.receiver.clone(), it.answer.clone()) {
            None => Ok(()),
            Some(_) => Err(Illegal::Present(format!("the answer of {} to {}", it.receiver, it.notice))),
        }
    }

    pub(super) fn settle_notice(&mut self, it: &NoticeSettled) -> Result<(), Illegal> {
        self.notices.remove(&it.notice).map(drop).ok_or_else(|| unknown(it.notice))
    }
}
