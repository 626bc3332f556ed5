//! `backstay repo key`: the keys of a repository. Knows files of passwords by their names, and reads none.

use std::path::PathBuf;

use clap::Subcommand;
use journal::Done;
use journal::outcome::KeySeen;
use orchestrator::api::view::{ChangeKeys, Submitted};

use crate::exit::{Ending, Failure, Status};
use crate::follow;
use crate::moment;
use crate::named::named;
use crate::paths::absolute;
use crate::session::Session;
use crate::table::Table;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the keys
    List {
        /// The repository
        #[arg(value_parser = named)]
        name: String,
    },
    /// Add a key, so that a second password opens the repository
    Add {
        /// The repository
        #[arg(value_parser = named)]
        name: String,
        /// A file with the new key's password, on the server's machine
        #[arg(long, value_name = "FILE")]
        new_password_file: PathBuf,
    },
    /// Remove a key; the last one stays, and the one that the server uses
    Remove {
        /// The repository
        #[arg(value_parser = named)]
        name: String,
        /// The key's id, or the beginning of it
        key: String,
    },
    /// Replace the key that the server uses: from then on it reads the new password from that file
    Change {
        /// The repository
        #[arg(value_parser = named)]
        name: String,
        /// A file with the new password, on the server's machine
        #[arg(long, value_name = "FILE")]
        new_password_file: PathBuf,
    },
}

/// Runs it.
///
/// # Errors
/// As the server refuses it, or its job fails.
pub async fn run(verb: Verb, session: &Session) -> Ending {
    let (name, request) = match verb {
        Verb::List { name } => (name, ChangeKeys::List),
        Verb::Add { name, new_password_file } => {
            (name, ChangeKeys::Add { password_file: absolute(&new_password_file)? })
        }
        Verb::Remove { name, key } => (name, ChangeKeys::Remove { key }),
        Verb::Change { name, new_password_file } => {
            (name, ChangeKeys::Change { password_file: absolute(&new_password_file)? })
        }
    };
    let client = session.client()?;
    let submitted: Submitted = client.submit(&["repositories", &name, "keys"], &request).await?;
    let job = session.insist(&client, &submitted).await?;
    let keys = follow::brought(&job, "keys").into_iter().find_map(|done| match done {
        Done::Keys { keys } => Some(keys),
        _ => None,
    });
    let keys = keys.ok_or_else(|| Failure::failed("the server said nothing of the keys"))?;
    session.output.show(&document(&keys), || list(&keys))?;
    Ok(Status::Done)
}

fn document(keys: &[KeySeen]) -> Vec<serde_json::Value> {
    let key = |key: &KeySeen| {
        serde_json::json!({
            "id": key.id,
            "current": key.current,
            "host": key.host,
            "user": key.user,
            "created": key.created.to_string(),
        })
    };
    keys.iter().map(key).collect()
}

fn list(keys: &[KeySeen]) -> String {
    let mut table = Table::new(&["", "id", "created", "user", "host"]);
    for key in keys {
        table.row([
            if key.current { "*" } else { "" }.to_owned(),
            key.id.chars().take(12).collect(),
            moment::show(&key.created.to_string()),
            key.user.clone(),
            key.host.clone(),
        ]);
    }
    table.render("no keys")
}
