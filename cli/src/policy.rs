//! `backstay policy`: what should be. Files are read here and judged by the server, so that one set of rules counts.

mod simulate;

use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use orchestrator::api::view::{ApplyPolicies, PolicyChange, PolicyView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::{Ending, Failure, Status};
use crate::moment;
use crate::named::named;
use crate::paths::read_text;
use crate::session::Session;
use crate::table::{Table, clean, fields, or_dash};

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add and change policies as a file says, and show the differences
    Apply {
        /// The file, TOML; `-` for standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// List the policies
    List,
    /// Show one
    Show {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
    },
    /// Show what would run, and what would not and why
    Preview {
        /// Only this policy
        name: Option<String>,
        /// From this instant on, RFC 3339; now by default
        #[arg(long, value_name = "TIME", value_parser = moment::parse)]
        from: Option<DateTime<Utc>>,
        /// Until before this instant
        #[arg(long, value_name = "TIME", value_parser = moment::parse)]
        to: Option<DateTime<Utc>>,
    },
    /// Show which of some instants a retention rule would keep, and why; needs no server
    Simulate(simulate::Arguments),
    /// Start nothing under a policy until it is resumed
    Pause {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
    },
    /// Go on
    Resume {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
    },
    /// Remove a policy; the restore points that it made stay
    Remove {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
    },
}

/// What would run, what would not, and how much of it comes to each host at once.
#[derive(Debug, Serialize, Deserialize)]
struct Preview {
    runs: Vec<Run>,
    not_run: Vec<NotRun>,
    load: Vec<Load>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Run {
    policy: String,
    schedule: String,
    vm: String,
    at: String,
    mode: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct NotRun {
    policy: String,
    schedule: String,
    at: String,
    reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Load {
    hour: String,
    host: Option<String>,
    backups: usize,
}

/// Runs it.
///
/// # Errors
/// As the server refuses it; a file's error comes with its line and column.
pub async fn run(verb: Verb, session: &Session) -> Ending {
    match verb {
        Verb::Apply { file, dry_run } => apply(&file, dry_run, session).await?,
        Verb::List => {
            let policies: Vec<PolicyView> = session.client()?.get(&["policies"], &[]).await?;
            session.output.show(&policies, || list(&policies))?;
        }
        Verb::Show { name } => {
            let policy: PolicyView = session.client()?.get(&["policies", &name], &[]).await?;
            session.output.show(&policy, || show(&policy))?;
        }
        Verb::Preview { name, from, to } => preview(name.as_deref(), from, to, session).await?,
        Verb::Simulate(arguments) => return simulate::run(&arguments, session),
        Verb::Pause { name } => set_paused(&name, "pause", session).await?,
        Verb::Resume { name } => set_paused(&name, "resume", session).await?,
        Verb::Remove { name } => {
            let _removed: Option<Value> = session.client()?.delete(&["policies", &name], &[]).await?;
            session.output.show(&json!({ "policy": name }), || format!("{name} is removed\n"))?;
        }
    }
    Ok(Status::Done)
}

async fn apply(file: &Path, dry_run: bool, session: &Session) -> Result<(), Failure> {
    let request = ApplyPolicies { text: read_text(file)?, dry_run };
    let answer = session.client()?.submit(&["policies"], &request).await;
    let changes: Vec<PolicyChange> = answer.map_err(|error| match Failure::from(error) {
        // The server knows the line and the column, and not the file's name.
        failure if failure.status() == Status::Usage => failure.within(&file.display().to_string()),
        failure => failure,
    })?;
    session.output.show(&changes, || {
        let mut text: String = changes.iter().map(change).collect();
        if changes.is_empty() {
            text.push_str("the file has no policies\n");
        }
        if dry_run {
            text.push_str("nothing was changed: this was a dry run\n");
        }
        text
    })
}

fn change(change: &PolicyChange) -> String {
    let details = change.details.iter().map(|detail| format!("  {}\n", clean(detail)));
    format!("{} {}\n{}", change.policy, change.change, details.collect::<String>())
}

async fn preview(
    name: Option<&str>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    session: &Session,
) -> Result<(), Failure> {
    let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let (from, to) = (from.map(text), to.map(text));
    let query = [("name", name), ("from", from.as_deref()), ("to", to.as_deref())];
    let query: Vec<(&str, &str)> = query.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let preview: Preview = session.client()?.get(&["policies", "preview"], &query).await?;
    session.output.show(&preview, || {
        let mut runs = Table::new(&["at", "policy", "vm", "mode", "schedule"]);
        for run in &preview.runs {
            let Run { policy, schedule, vm, at, mode } = run;
            runs.row([moment::show(at), policy.clone(), vm.clone(), mode.clone(), schedule.clone()]);
        }
        let mut not_run = Table::new(&["at", "policy", "schedule", "not run because"]);
        for run in &preview.not_run {
            let NotRun { policy, schedule, at, reason } = run;
            not_run.row([moment::show(at), policy.clone(), schedule.clone(), reason.clone()]);
        }
        let mut load = Table::new(&["hour", "host", ">backups that start"]);
        for Load { hour, host, backups } in &preview.load {
            load.row([moment::show(hour), or_dash(host.as_ref()), backups.to_string()]);
        }
        let mut text = runs.render("nothing would run");
        if !preview.not_run.is_empty() {
            text.push_str(&format!("\n{}", not_run.render("")));
        }
        if !preview.load.is_empty() {
            text.push_str(&format!("\n{}", load.render("")));
        }
        text
    })
}

async fn set_paused(name: &str, verb: &str, session: &Session) -> Result<(), Failure> {
    let policy: PolicyView = session.client()?.post(&["policies", name, verb], &[]).await?;
    session.output.show(&policy, || match policy.paused {
        true => format!("{name} is paused: nothing starts under it until it is resumed\n"),
        false => format!("{name} goes on; next run {}\n", moment::show_or_dash(policy.next_run.as_ref())),
    })
}

fn state(policy: &PolicyView) -> &'static str {
    if policy.paused { "paused" } else { "active" }
}

fn list(policies: &[PolicyView]) -> String {
    let mut table = Table::new(&["policy", "state", "next run", "vms"]);
    for policy in policies {
        table.row([
            policy.name.clone(),
            state(policy).to_owned(),
            moment::show_or_dash(policy.next_run.as_ref()),
            policy.vms.join(" "),
        ]);
    }
    table.render("no policies; apply a file with `backstay policy apply -f FILE`")
}

fn show(policy: &PolicyView) -> String {
    let vms = (!policy.vms.is_empty()).then(|| policy.vms.join(" "));
    let about = fields(&[
        ("policy", policy.name.clone()),
        ("state", state(policy).to_owned()),
        ("applied", moment::show(&policy.applied)),
        ("next run", moment::show_or_dash(policy.next_run.as_ref())),
        ("vms", or_dash(vms.as_ref())),
    ]);
    format!("{about}\n{}\n", policy.text.trim_end())
}
