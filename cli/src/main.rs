//! The one program, `backstay`: the server (`up`) and every command that asks it for something.
//!
//! One module for each noun of the command line. A command reads its arguments, asks the server over its API, and shows
//! the answer; nothing is decided here, no VM or repository is touched, and no state is kept.
//!
//! ```text
//!   arguments ──▶ vm, repo, backup, …  ──▶ client ──▶ server     progress ──▶ standard error
//!                        │                   │
//!                        └── output ◀────────┘  follow: jobs to their end
//! ```

mod address;
mod arguments;
mod backup;
mod checkpoint;
mod client;
mod doctor;
mod exit;
mod export;
mod follow;
mod job;
mod journal;
mod moment;
mod named;
mod notify;
mod output;
mod paths;
mod point;
mod policy;
mod progress;
mod repo;
mod restore;
mod session;
mod size;
mod table;
mod up;
mod vm;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::address::Surroundings;
use crate::arguments::{Arguments, Command, Noun};
use crate::exit::{Ending, Failure};
use crate::output::Output;
use crate::session::Session;

fn main() -> ExitCode {
    let (output, ending) = match Arguments::try_parse() {
        Ok(arguments) => {
            let output = Output::new(arguments.json);
            (output, run(arguments, output))
        }
        // Help and version are answers, and clap shows them best; so are its errors, unless JSON was asked for.
        Err(error) if !error.use_stderr() || !wants_json() => error.exit(),
        Err(error) => {
            let message = error.render().to_string();
            let message = message.trim_start_matches("error: ").trim_end().to_owned();
            (Output::new(true), Err(Failure::usage(message)))
        }
    };
    match ending {
        Ok(status) => status.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.status().into()
        }
    }
}

/// Whether `--json` stands in a command line that could not be read otherwise.
fn wants_json() -> bool {
    std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json")
}

fn run(arguments: Arguments, output: Output) -> Ending {
    let around = Surroundings::here();
    let Arguments { server, data, command, .. } = arguments;
    let noun = match command {
        Command::Ask(noun) => noun,
        Command::Up(_) if server.is_some() => {
            return Err(Failure::usage("`up` is the server: give it --data, and not --server"));
        }
        Command::Up(up) => {
            let data = around.data_folder(data.as_deref());
            let data =
                std::path::absolute(&data).map_err(|error| Failure::usage(format!("--data: {error}")))?;
            return up::run(&up, &data, output);
        }
    };
    let server = around.server(server.as_deref(), data.as_deref());
    let server = server.map_err(|error| Failure::usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("the runtime cannot start: {error}")))?;
    runtime.block_on(ask(noun, data.as_deref(), &Session { output, server }))
}

async fn ask(noun: Noun, data: Option<&Path>, session: &Session) -> Ending {
    match noun {
        Noun::Vm(verb) => vm::run(verb, session).await,
        Noun::Repo(verb) => repo::run(verb, session).await,
        Noun::Backup(arguments) => backup::run(arguments, session).await,
        Noun::Point(verb) => point::run(verb, session).await,
        Noun::Restore(arguments) => restore::run(arguments, session).await,
        Noun::Checkpoint(verb) => checkpoint::run(verb, session).await,
        Noun::Export(verb) => export::run(verb, session).await,
        Noun::Policy(verb) => policy::run(verb, session).await,
        Noun::Job(verb) => job::run(verb, session).await,
        Noun::Journal(verb) => journal::run(verb, data, session).await,
        Noun::Notify(verb) => notify::run(verb, session).await,
        Noun::Doctor(arguments) => doctor::run(arguments, session).await,
    }
}
