//! `backstay policy simulate`: a retention rule tried on a list of instants, without a server.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use policies::keep::{Rule, Style};
use policies::simulate::{Simulated, simulate};

use crate::exit::{Ending, Failure, Status};
use crate::paths::read_text;
use crate::session::Session;
use crate::table::Table;

/// Which rule, and which instants.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The rule, such as last=3,daily=7,monthly=12
    #[arg(long, value_name = "RULE")]
    keep: String,
    /// Whose rules: restic's stand side by side, Proxmox's work in turn
    #[arg(long, default_value_t = Style::default().to_string(), value_parser = PossibleValuesParser::new(Style::WORDS))]
    style: String,
    /// A file with one RFC 3339 instant a line; `-` for standard input
    #[arg(long, value_name = "FILE")]
    times: PathBuf,
}

/// Runs it.
///
/// # Errors
/// When the rule, the file or a line of it cannot be read.
pub fn run(arguments: &Arguments, session: &Session) -> Ending {
    let style = Style::from_word(&arguments.style).unwrap_or_default();
    let rule =
        Rule::parse(&arguments.keep, style).map_err(|error| Failure::usage(format!("--keep: {error}")))?;
    let list = read_text(&arguments.times)?;
    let place = arguments.times.display().to_string();
    let simulated =
        simulate(&rule, &list).map_err(|error| Failure::usage(error.to_string()).within(&place))?;
    session.output.show(&simulated, || table(&simulated))?;
    Ok(Status::Done)
}

fn table(simulated: &[Simulated]) -> String {
    let mut table = Table::new(&["time", "keep", "reasons"]);
    for instant in simulated {
        let keep = if instant.keep { "keep" } else { "-" };
        table.row([instant.time.clone(), keep.to_owned(), instant.reasons.join(", ")]);
    }
    table.render("the file has no instants")
}
