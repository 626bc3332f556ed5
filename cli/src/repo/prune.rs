//! `backstay repo prune`: the space that no restore point needs, at once or after a grace time. Knows nothing of packs.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use journal::Done;
use journal::outcome::Pruned;
use orchestrator::api::view::Submitted;
use serde_json::json;

use crate::exit::{Ending, Status};
use crate::follow;
use crate::moment;
use crate::named::named;
use crate::session::Session;
use crate::size;

/// What to prune, and how.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Its name
    #[arg(value_parser = named)]
    name: String,
    /// Only say what would be done; backups may go on meanwhile
    #[arg(long)]
    dry_run: bool,
    /// Keep what is of no use for so long, such as 1d, marked for a later prune: for repositories that somebody uses without
    /// restic's locks. At once if not given
    #[arg(long, value_name = "DURATION", value_parser = grace)]
    grace: Option<Duration>,
    /// How much unused space may stay in packs that are used in part, as a share of the used: more is faster, 0 frees all
    #[arg(long, value_name = "N%", value_parser = share)]
    max_unused: Option<u8>,
}

fn grace(text: &str) -> Result<Duration, String> {
    let length = policies::duration::parse(text).map_err(|error| error.to_string())?;
    length.to_std().map_err(|error| error.to_string())
}

/// `5%`, or `5`.
fn share(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok();
    number.filter(|number| *number <= 100).ok_or_else(|| "write 0% to 100%".to_owned())
}

impl Arguments {
    /// As the server takes it.
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = vec![("dry_run", self.dry_run.to_string())];
        query.extend(self.grace.map(|grace| ("grace_seconds", grace.as_secs().to_string())));
        query.extend(self.max_unused.map(|percent| ("max_unused_percent", percent.to_string())));
        query
    }
}

/// Runs it.
///
/// # Errors
/// As the server refuses it, or its job fails.
pub async fn run(arguments: &Arguments, session: &Session) -> Ending {
    let client = session.client()?;
    let query = arguments.query();
    let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let submitted: Submitted = client.post(&["repositories", &arguments.name, "prune"], &query).await?;
    let job = session.insist(&client, &submitted).await?;
    let pruned = follow::brought(&job, "prune").into_iter().find_map(|done| match done {
        Done::PrunedBy(pruned) => Some(pruned),
        _ => None,
    });
    let pruned = pruned.unwrap_or_default();
    let document = json!({
        "repository": arguments.name,
        "job": job.id,
        "dry_run": pruned.dry_run,
        "freed_bytes": pruned.freed_bytes,
        "marked_bytes": pruned.marked_bytes,
        "copied_bytes": pruned.copied_bytes,
        "unused_bytes": pruned.unused_bytes,
        "packs_kept": pruned.packs_kept,
        "packs_removed": pruned.packs_removed,
        "packs_marked": pruned.packs_marked,
        "packs_taken_back": pruned.packs_taken_back,
        "first_due": pruned.first_due.map(|due| due.to_string()),
    });
    session.output.show(&document, || told(&arguments.name, &pruned))?;
    Ok(Status::Done)
}

fn told(name: &str, pruned: &Pruned) -> String {
    let would = if pruned.dry_run { "would be " } else { "" };
    let mut text = format!("{name}: {} {would}freed", size::show(pruned.freed_bytes));
    if pruned.copied_bytes > 0 {
        let _ = write!(text, ", {} {would}copied", size::show(pruned.copied_bytes));
    }
    if pruned.unused_bytes > 0 {
        let _ = write!(text, ", {} of no use {would}left", size::show(pruned.unused_bytes));
    }
    if let Some(due) = pruned.first_due {
        let (marked, due) = (size::show(pruned.marked_bytes), moment::show(&due.to_string()));
        let _ =
            write!(text, "; {marked} {would}marked: a prune with the same grace time frees it from {due} on");
    }
    if pruned.packs_taken_back > 0 {
        let _ = write!(text, "; {} packs {would}taken back: they are needed again", pruned.packs_taken_back);
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_and_what_would_be_read_alike() {
        let mut pruned = Pruned { freed_bytes: 3 << 20, copied_bytes: 1 << 20, ..Pruned::default() };
        assert_eq!(told("main", &pruned), "main: 3 MiB freed, 1 MiB copied\n");
        pruned = Pruned { dry_run: true, marked_bytes: 1 << 20, packs_taken_back: 2, ..Pruned::default() };
        pruned.first_due = Some(journal::Time(1_700_000_000_000_000));
        assert_eq!(
            told("main", &pruned),
            "main: 0 B would be freed; 1 MiB would be marked: a prune with the same grace time frees it from \
             2023-11-14T22:13:20Z on; 2 packs would be taken back: they are needed again\n"
        );
    }

    #[test]
    fn a_share_is_up_to_all() {
        assert_eq!((share("0%"), share("100"), share("101%").is_err()), (Ok(0), Ok(100), true));
    }
}
