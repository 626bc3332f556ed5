//! `backstay checkpoint`: the instants from which a VM's changes are tracked.

use clap::Subcommand;
use journal::Done;
use orchestrator::api::view::{CheckpointView, Submitted};
use serde_json::json;

use crate::client::Client;
use crate::exit::{Ending, Failure, Status};
use crate::follow;
use crate::moment;
use crate::named::named;
use crate::session::Session;
use crate::size;
use crate::table::Table;

/// What to do with checkpoints.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List a VM's chain, oldest first, with what each checkpoint costs
    List {
        /// The VM
        #[arg(value_parser = named)]
        vm: String,
    },
    /// Create a checkpoint without a backup
    Create {
        /// The VM
        #[arg(value_parser = named)]
        vm: String,
    },
    /// Delete a checkpoint; what it tracked goes to the one before it
    Delete {
        /// The VM
        #[arg(value_parser = named)]
        vm: String,
        /// The checkpoint, such as c7, or its bitmap
        #[arg(value_parser = named)]
        checkpoint: String,
    },
}

/// Runs it.
///
/// # Errors
/// As the server refuses it, or its job fails.
pub async fn run(verb: Verb, session: &Session) -> Ending {
    let client = session.client()?;
    match verb {
        Verb::List { vm } => {
            let chain = chain(&client, &vm).await?;
            session.output.show(&chain, || table(&chain).render("no checkpoints"))?;
        }
        Verb::Create { vm } => create(&client, &vm, session).await?,
        Verb::Delete { vm, checkpoint } => {
            let path = ["vms", &vm, "checkpoints", &checkpoint];
            let submitted: Submitted = client.patient().delete(&path, &[]).await?;
            let job = session.insist(&client, &submitted).await?;
            let document = json!({ "vm": vm, "checkpoint": checkpoint, "job": job.id });
            session.output.show(&document, || format!("{checkpoint} of {vm} is deleted\n"))?;
        }
    }
    Ok(Status::Done)
}

async fn chain(client: &Client, vm: &str) -> Result<Vec<CheckpointView>, Failure> {
    Ok(client.patient().get(&["vms", vm, "checkpoints"], &[]).await?)
}

async fn create(client: &Client, vm: &str, session: &Session) -> Result<(), Failure> {
    let before = chain(client, vm).await?;
    let submitted: Submitted = client.patient().post(&["vms", vm, "checkpoints"], &[]).await?;
    let job = session.insist(client, &submitted).await?;
    let instants = follow::brought(&job, "add-checkpoint").into_iter().filter_map(|done| match done {
        Done::Began { instant } => Some(instant.to_string()),
        _ => None,
    });
    let created = newest(&before, chain(client, vm).await?, &instants.collect::<Vec<_>>());
    let created = created.ok_or_else(|| {
        Failure::failed(format!("job {} made a checkpoint of {vm}, and it is gone again", job.id))
    })?;
    session.output.show(&created, || {
        let mut table = table(std::slice::from_ref(&created)).render("no disks");
        table.insert_str(0, &format!("{} of {vm} is created\n", created.name));
        table
    })
}

/// The checkpoint that was made between two looks: the one of the job's own instant, since others may be new too.
fn newest(
    before: &[CheckpointView],
    after: Vec<CheckpointView>,
    instants: &[String],
) -> Option<CheckpointView> {
    let known = |checkpoint: &CheckpointView| before.iter().any(|old| old.name == checkpoint.name);
    let mut new: Vec<CheckpointView> = after.into_iter().filter(|checkpoint| !known(checkpoint)).collect();
    match new.iter().position(|checkpoint| instants.contains(&checkpoint.created)) {
        Some(place) => Some(new.swap_remove(place)),
        None => new.pop(),
    }
}

fn table(chain: &[CheckpointView]) -> Table {
    let mut table = Table::new(&[
        "checkpoint",
        "created",
        "by",
        "disk",
        "recording",
        ">granularity",
        ">dirty",
        ">memory",
        ">in image",
        "bitmap",
    ]);
    let or_unknown = |size: Option<u64>| size.map_or_else(|| "?".to_owned(), size::show);
    for checkpoint in chain {
        for disk in &checkpoint.disks {
            table.row([
                checkpoint.name.clone(),
                moment::show(&checkpoint.created),
                if checkpoint.by_hand { "hand" } else { "backup" }.to_owned(),
                disk.disk.clone(),
                disk.recording.map_or("?", |recording| if recording { "yes" } else { "no" }).to_owned(),
                or_unknown(disk.granularity),
                or_unknown(disk.dirty_bytes),
                or_unknown(disk.memory_bytes),
                or_unknown(disk.image_bytes),
                disk.bitmap.clone(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, created: &str) -> CheckpointView {
        CheckpointView { name: name.into(), created: created.into(), by_hand: true, disks: Vec::new() }
    }

    #[test]
    fn the_job_s_own_checkpoint_is_shown() {
        let before = [at("c1", "1")];
        let after = || vec![at("c1", "1"), at("c2", "2"), at("c3", "3")];
        let name = |instants: &[&str]| {
            let instants: Vec<String> = instants.iter().map(|&at| at.to_owned()).collect();
            newest(&before, after(), &instants).map(|checkpoint| checkpoint.name)
        };
        assert_eq!(name(&["2"]).as_deref(), Some("c2"));
        assert_eq!(name(&[]).as_deref(), Some("c3"));
        assert_eq!(newest(&after(), after(), &[]), None);
    }
}
