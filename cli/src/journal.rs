//! `backstay journal`: what happened, and whether the record of it is whole.
//!
//! Through the server, or with `--data DIR` straight from the folder of an installation that is stopped.

mod offline;
mod past;

use std::path::Path;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use journal::log::Moved;
use orchestrator::api::view::RecordView;
use serde::{Deserialize, Serialize};

use crate::exit::{Ending, Failure, Status};
use crate::moment;
use crate::session::Session;
use crate::table::Table;

/// Records that are asked for at once.
const PAGE: &str = "500";

/// What to do with the journal.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the records, oldest first; with --data DIR offline, on a stopped installation
    Log {
        /// Only what concerns this VM
        #[arg(long, value_name = "NAME")]
        vm: Option<String>,
        /// Only what was written then or later
        #[arg(long, value_name = "TIME", value_parser = moment::parse)]
        since: Option<DateTime<Utc>>,
        /// Only what was written then or before
        #[arg(long, value_name = "TIME", value_parser = moment::parse, conflicts_with = "follow")]
        until: Option<DateTime<Utc>>,
        /// Go on with what is still to come
        #[arg(long)]
        follow: bool,
    },
    /// Check every frame of the journal, archived ones too; with --data DIR offline, on a stopped installation
    Verify,
    /// Print what was so after a record; with --data DIR offline, on a stopped installation
    Show {
        /// The record's number; without it the last one
        #[arg(long, value_name = "SEQ")]
        at: Option<u64>,
    },
    /// Compress closed segments that a start no longer needs, and move them to journal/archive in the data folder
    Archive {
        /// Only segments whose records are all below this number
        #[arg(long, value_name = "SEQ", conflicts_with = "keep")]
        before: Option<u64>,
        /// Leave this many of the newest closed segments where they are
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
    },
}

/// Which records are printed.
pub struct Which {
    /// Those that concern this VM.
    vm: Option<String>,
    /// Those written then or later.
    since: Option<DateTime<Utc>>,
    /// Those written then or before.
    until: Option<DateTime<Utc>>,
}

impl Which {
    /// Whether a record of this time, in microseconds, is one of them.
    fn was_then(&self, at: i64) -> bool {
        self.since.is_none_or(|since| since.timestamp_micros() <= at)
            && self.until.is_none_or(|until| at <= until.timestamp_micros())
    }
}

/// What a verification found.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// No problem.
    pub ok: bool,
    /// The first sequence that was read.
    pub first: Option<u64>,
    /// The last.
    pub last: Option<u64>,
    /// All that is wrong, in the order of the log.
    pub problems: Vec<Problem>,
}

/// One damaged place.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The segment's file name.
    pub segment: String,
    /// Bytes into that file.
    pub offset: u64,
    /// The record that should be there.
    pub seq: u64,
    /// What is wrong.
    pub what: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// Runs it; `data` when the folder was named on the command line.
///
/// # Errors
/// As the server refuses it, or the folder cannot be read. Damage is an answer: the status is 1.
pub async fn run(verb: Verb, data: Option<&Path>, session: &Session) -> Ending {
    match (verb, data) {
        (Verb::Log { follow: true, .. }, Some(data)) => Err(Failure::usage(format!(
            "--follow needs the server: nothing more will come in {} while it is stopped",
            data.display()
        ))),
        (Verb::Log { vm, since, until, .. }, Some(data)) => {
            offline::log(data, &Which { vm, since, until }, session)
        }
        (Verb::Log { vm, since, until, follow }, None) => {
            log(&Which { vm, since, until }, follow, session).await
        }
        (Verb::Verify, Some(data)) => show(&offline::verify(data)?, session),
        (Verb::Verify, None) => {
            let verified = session.client()?.patient().get(&["journal", "verify"], &[]).await?;
            show(&verified, session)
        }
        (Verb::Show { at }, Some(data)) => past::show(&offline::past(data, at)?, session),
        (Verb::Show { at }, None) => {
            let at = at.map(|at| at.to_string());
            let query: Vec<_> = at.iter().map(|at| ("at", at.as_str())).collect();
            past::show(&session.client()?.patient().get(&["journal", "state"], &query).await?, session)
        }
        (Verb::Archive { before, keep }, Some(data)) => {
            archived(offline::archive(data, before, keep.unwrap_or(0))?, session)
        }
        (Verb::Archive { before, keep }, None) => {
            let query =
                [("before", before.map(|it| it.to_string())), ("keep", keep.map(|it| it.to_string()))];
            let query: Vec<_> =
                query.iter().filter_map(|(name, it)| it.as_deref().map(|it| (*name, it))).collect();
            archived(session.client()?.patient().post(&["journal", "archive"], &query).await?, session)
        }
    }
}

fn archived(moved: Moved, session: &Session) -> Ending {
    session.output.show(&moved, || match (moved.first, moved.last) {
        (Some(first), Some(last)) => format!(
            "archived {} segments, records {first} to {last}, in {} bytes\n",
            moved.segments, moved.packed_bytes
        ),
        _ => "nothing to archive: no closed segment lies below the newest base\n".to_owned(),
    })?;
    Ok(Status::Done)
}

async fn log(which: &Which, follow: bool, session: &Session) -> Ending {
    let client = session.client()?;
    let mut pieces = session.output.pieces(follow);
    let written = |at: Option<DateTime<Utc>>| at.map(|at| at.to_rfc3339());
    let (since, until) = (written(which.since), written(which.until));
    let mut after = 0;
    loop {
        let from = after.to_string();
        let mut query = vec![("after", from.as_str()), ("limit", PAGE)];
        query.extend(which.vm.as_deref().map(|vm| ("vm", vm)));
        query.extend(since.as_deref().map(|since| ("since", since)));
        query.extend(until.as_deref().map(|until| ("until", until)));
        if follow {
            query.push(("wait", "true"));
        }
        let page: Vec<RecordView> = client.get(&["journal"], &query).await?;
        match page.last() {
            // A server that repeats itself must not keep us here for ever.
            Some(last) if last.seq > after => after = last.seq,
            _ if follow => continue,
            _ => break,
        }
        pieces.add(&page, line)?;
    }
    pieces.end()?;
    Ok(Status::Done)
}

/// `seq time epoch kind summary`.
fn line(record: &RecordView) -> String {
    let RecordView { seq, time, epoch, kind, summary, .. } = record;
    format!("{seq:>6}  {}  e{epoch}  {kind:<18}  {summary}", moment::show(time))
}

fn show(verified: &Verified, session: &Session) -> Ending {
    session.output.show(verified, || {
        if verified.ok {
            return match (verified.first, verified.last) {
                (Some(first), Some(last)) => format!("the journal is whole: records {first} to {last}\n"),
                _ => "the journal is whole, and empty\n".to_owned(),
            };
        }
        let mut table = Table::new(&["segment", ">offset", ">seq", "what"]);
        for problem in &verified.problems {
            let what = format!("{}. {}", problem.what, problem.advice);
            let what = what.trim_end_matches([' ', '.']).to_owned();
            table.row([problem.segment.clone(), problem.offset.to_string(), problem.seq.to_string(), what]);
        }
        table.render("the journal is damaged; the server does not say where")
    })?;
    Ok(Status::of(verified.ok))
}
