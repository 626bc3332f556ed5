//! The command line's tree: what may be typed. What a command means is its own module's.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{backup, checkpoint, doctor, export, job, journal, notify, point, policy, repo, restore, up, vm};

const STATUSES: &str = "\
Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 refused because something would be lost, 5 server unreachable.

The server is --server or BACKSTAY_SERVER, else the socket backstay.sock in the data folder. The data folder is --data \
or BACKSTAY_DATA, else /var/lib/backstay for root, and $XDG_DATA_HOME/backstay or ~/.local/share/backstay for others.";

/// Backups of QEMU virtual machines, journaled before they happen
#[derive(Debug, Parser)]
#[command(name = "backstay", version, after_help = STATUSES, propagate_version = false)]
pub struct Arguments {
    /// The server: unix:///path, or http:// on this machine [env: BACKSTAY_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// The data folder [env: BACKSTAY_DATA]
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// To be the server, or to ask it.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run orchestrator and agent on this machine
    Up(up::Arguments),
    /// Everything else.
    #[command(flatten)]
    Ask(Noun),
}

/// What the server is asked about.
#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Virtual machines
    #[command(subcommand)]
    Vm(vm::Verb),
    /// Repositories
    #[command(subcommand)]
    Repo(repo::Verb),
    /// Back VMs up now
    Backup(backup::Arguments),
    /// Restore points
    #[command(subcommand)]
    Point(point::Verb),
    /// Write a restore point to images
    Restore(restore::Arguments),
    /// Checkpoints: from where a VM's changes are tracked
    #[command(subcommand)]
    Checkpoint(checkpoint::Verb),
    /// Exports: views of running VMs that other programs read
    #[command(subcommand)]
    Export(export::Verb),
    /// Policies: schedules, retention
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Jobs: queued work
    #[command(subcommand)]
    Job(job::Verb),
    /// The journal: what happened
    #[command(subcommand)]
    Journal(journal::Verb),
    /// Notices: whether they arrive
    #[command(subcommand)]
    Notify(notify::Verb),
    /// What is amiss, and what is to be done about it
    Doctor(doctor::Arguments),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_tree_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_contract_s_commands_are_read() {
        for line in [
            "backstay up --data /d --listen 127.0.0.1:1 --config f",
            "backstay vm add web --qmp s --guest-agent g --disk vda=#block1 --disk vdb=n --label a=b",
            "backstay vm remove web --force",
            "backstay repo add main --path d --password-file f --chunk-size 4M",
            "backstay repo check main --read-data",
            "backstay repo prune main",
            "backstay repo prune main --dry-run --grace 1d12h --max-unused 0%",
            "backstay backup web db --mode full --since c7 --repo a --repo b --consistency required --wait",
            "backstay point list",
            "backstay point list web",
            "backstay point list --all",
            "backstay job list --vm web --limit 1000",
            "backstay point forget p12 --force",
            "backstay restore p12 --disk vda --to x --format qcow2 --in-place --wait",
            "backstay checkpoint delete web c7",
            "backstay export create web --since c7 --ttl 1h30m",
            "backstay export list",
            "backstay export remove j3",
            "backstay policy apply -f x --dry-run",
            "backstay policy preview",
            "backstay policy preview nightly --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z",
            "backstay policy simulate --keep last=3 --style proxmox --times f",
            "backstay job watch j3",
            "backstay job pause j3",
            "backstay job resume j3",
            "backstay job retry j3 --request",
            "backstay journal log --vm web --follow",
            "backstay journal log --since 2026-01-01T00:00:00Z --until 2026-02-01T00:00:00Z",
            "backstay journal verify --data /d",
            "backstay journal show --at 7",
            "backstay journal archive --before 7",
            "backstay journal archive --keep 3",
            "backstay doctor web --apply",
            "backstay notify test",
            "backstay notify list",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_this_version_does_not_have_is_not_accepted() {
        for line in [
            "backstay snapshot list web",
            "backstay serve p1",
            "backstay verify p1",
            "backstay file list p1",
            "backstay agent list",
            "backstay orchestrator",
            "backstay journal archive --keep 1 --before 2",
            "backstay repo add main --password-file f",
            "backstay repo add main --path /d --s3 https://x/bucket --password-file f",
            "backstay backup",
            "backstay backup web --mode quick",
            "backstay export create web --ttl soon",
            "backstay vm add a/b --qmp s",
            "backstay vm show ..",
        ] {
            let code = parse(line).map(|_| 0).unwrap_or_else(|error| error.exit_code());
            assert_eq!(code, 2, "{line}");
        }
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in [
            "backstay --json --server unix:///s --data /d vm list",
            "backstay vm --json list --server unix:///s --data /d",
            "backstay vm list --data /d --json --server unix:///s",
        ] {
            let arguments = parse(line).unwrap();
            assert!(arguments.json, "{line}");
            assert_eq!(arguments.server.as_deref(), Some("unix:///s"), "{line}");
            assert_eq!(arguments.data.as_deref(), Some(std::path::Path::new("/d")), "{line}");
        }
    }
}
