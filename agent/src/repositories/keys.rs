//! The effect on a repository's keys.
//!
//! Reads the passwords from their files on this host; no message and no outcome holds one.

use std::time::Duration;

use journal::effect::{KeyChange, Keys, RepositoryAddress};
use journal::outcome::KeySeen;
use journal::{Done, Failure, FailureClass, IntentId, Time};
use repository::{KeyDerivation, KeyError, KeyInfo, Repository};

use super::{Explain, blocking, read_password, read_password_at};
use crate::task::{Answer, Task};

/// How long it may take: each key that is tried takes about half a second.
const LIMIT: Duration = Duration::from_secs(300);

/// Performs [`journal::Effect::Keys`].
pub async fn keys(_intent: IntentId, effect: &Keys, task: &Task) -> Answer {
    let at = &effect.repository;
    let changed: Result<Done, Failure> = async {
        let (repository, at) = match task.repositories.open(at).await {
            Ok(repository) => (repository, at.clone()),
            Err(failure) => changed_before(effect, task).await.ok_or(failure)?,
        };
        let change = effect.change.clone();
        blocking(LIMIT, "changing the keys of the repository", move || change_keys(&repository, &at, &change))
            .await
    }
    .await;
    changed.into()
}

/// The repository, when the password is changed already: this is a repetition, and the old one opens nothing any more.
async fn changed_before(effect: &Keys, task: &Task) -> Option<(Repository, RepositoryAddress)> {
    let KeyChange::Change { password_file } = &effect.change else { return None };
    let at = RepositoryAddress { password_file: password_file.clone(), ..effect.repository.clone() };
    let repository = task.repositories.open(&at).await.ok()?;
    Some((repository, at))
}

fn change_keys(repository: &Repository, at: &RepositoryAddress, change: &KeyChange) -> Result<Done, Failure> {
    let failed = |error: KeyError| error.explain(at);
    let mut password = read_password(at)?;
    match change {
        KeyChange::None => {}
        KeyChange::Add { password_file } => {
            let new = read_password_at(at, password_file)?;
            repository.add_key(&password, &new, KeyDerivation::default()).map_err(failed)?;
        }
        KeyChange::Remove { key } => repository.remove_key(&password, key).map_err(failed)?,
        KeyChange::Change { password_file } => {
            let new = read_password_at(at, password_file)?;
            if new == password && *password_file != at.password_file {
                return Err(same(at, password_file));
            }
            repository.change_key(&password, &new, KeyDerivation::default()).map_err(failed)?;
            password = new;
        }
    }
    let keys = repository.keys(&password).map_err(failed)?;
    Ok(Done::Keys { keys: keys.into_iter().map(seen).collect() })
}

fn same(at: &RepositoryAddress, password_file: &str) -> Failure {
    let what =
        format!("{password_file} has the password that repository {} has now; write another one", at.name);
    Failure::new(FailureClass::Invalid, what)
}

fn seen(key: KeyInfo) -> KeySeen {
    KeySeen {
        id: key.id.to_string(),
        current: key.opens,
        host: key.host,
        user: key.user,
        created: Time(key.created.timestamp_micros()),
    }
}
