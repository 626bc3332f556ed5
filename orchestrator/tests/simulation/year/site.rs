//! The installation: its policies, VMs, hosts and repositories. Owns the table of what is asked for, in the words of policy
//! files; what follows from it is told by the product on one side and by the oracle on the other.

use chrono::Timelike;
use journal::effect::{RepositoryAddress, VmAddress};
use journal::{HostName, RepositoryName, VmId, VmName};

/// One policy: the share of the VMs that it speaks of, and its file but for the name and the selection.
pub struct Asked {
    /// Of a thousand VMs, so many are its own, by a label; with none it selects by host, whosever its VMs are.
    share: usize,
    pub zone: &'static str,
    /// Its schedules' cron texts.
    pub crons: &'static [&'static str],
    /// By number.
    pub repositories: &'static [usize],
    pub concurrency: Option<u32>,
    /// The hours of its zone's clock from which and up to which its runs start, over midnight where the first is the later.
    pub window: Option<(u32, u32)>,
    /// The rest of each schedule.
    timing: &'static str,
    /// The rest of the file.
    rest: &'static str,
}

const fn asked(
    share: usize,
    zone: &'static str,
    crons: &'static [&'static str],
    repositories: &'static [usize],
    timing: &'static str,
    rest: &'static str,
) -> Asked {
    Asked { share, zone, crons, repositories, concurrency: None, window: None, timing, rest }
}

/// Twenty policies in fifteen zones. Most of the instants are such as the clocks skip or show twice on some day of the year.
pub const POLICIES: &[Asked] = &[
    asked(60, "Europe/Berlin", &["30 2 * * *"], &[0], "", "keep = \"daily=5,weekly=2\""),
    asked(
        60,
        "America/New_York",
        &["30 1 * * *"],
        &[1],
        "missed = \"skip\"",
        "keep = \"last=4\"\nhooks = { before = \"quiesce\", after = \"resume\" }",
    ),
    asked(60, "Australia/Lord_Howe", &["15 2 * * 1-5"], &[2], "overlap = \"queue\"", "keep = \"last=3\""),
    asked(
        30,
        "UTC",
        &["0 */12 * * *"],
        &[3, 4],
        "overlap = \"cancel-older\"",
        "keep = \"within=2d\"\nhooks = { before = \"a\", after = \"b\" }",
    ),
    asked(60, "Europe/London", &["0 1 * * *"], &[4], "jitter = \"2h\"", "keep = \"daily=4\"\npriority = 3"),
    asked(80, "Asia/Kolkata", &["0 22 * * 6"], &[5], "missed = \"all\"", "keep = \"weekly=4\""),
    asked(50, "Africa/Casablanca", &["30 2 * * *"], &[6], "missed = \"all\"", "keep = \"daily=3,monthly=1\""),
    asked(60, "Antarctica/Troll", &["0 2 * * 0,3"], &[7], "jitter = \"40m\"", "keep = \"last=3\""),
    asked(50, "UTC", &["@every 36h"], &[0], "", "keep = \"last=4\"\ndeadline = \"6h\""),
    Asked {
        window: Some((20, 6)),
        ..asked(
            40,
            "Europe/Berlin",
            &["0 22 * * 0", "0 22 * * *"],
            &[1],
            "",
            "keep = { style = \"proxmox\", last = 2, weekly = 2 }",
        )
    },
    Asked {
        window: Some((1, 4)),
        ..asked(
            10,
            "America/Chicago",
            &["45 * * * *"],
            &[2],
            "",
            "keep = \"last=6\"\nretry = { attempts = 2, backoff = \"2m\" }",
        )
    },
    asked(60, "America/Sao_Paulo", &["0 3 1 * *"], &[3], "missed = \"all\"", "keep = \"monthly=3\""),
    asked(
        60,
        "America/Chicago",
        &["0 0 * * 1,3,5"],
        &[4],
        "jitter = \"90m\"",
        "keep = \"last=3\"\npriority = -4",
    ),
    asked(
        40,
        "Atlantic/Azores",
        &["0 0 * * *"],
        &[5],
        "overlap = \"queue\"",
        "keep = \"daily=4\"\nhooks.after = \"report\"",
    ),
    asked(70, "Asia/Tokyo", &["0 4 * * 2"], &[6], "", "keep = \"weekly=3\"\nretry = { attempts = 5 }"),
    Asked {
        concurrency: Some(3),
        ..asked(40, "Australia/Sydney", &["30 2 * * *"], &[7], "", "keep = \"daily=4\"\nconcurrency = 3")
    },
    asked(60, "America/Santiago", &["0 0 * * 6"], &[0], "jitter = \"3h\"", "keep = \"last=3\""),
    asked(60, "Africa/Lagos", &["10 4 */2 * *"], &[1], "", "keep = \"last=4\"\npriority = -9"),
    asked(50, "Europe/Lisbon", &["0 5 13 * 5"], &[2], "", "keep = \"last=3\""),
    asked(0, "Europe/Berlin", &["0 4 * * *"], &[3], "", "after = [\"policy-00\"]\nkeep = \"last=3\""),
];

pub const REPOSITORIES: usize = 8;

/// A policy's name.
pub fn policy_name(policy: usize) -> String {
    format!("policy-{policy:02}")
}

impl Asked {
    /// What tells one of its schedules from the others, in records.
    pub fn key(&self, schedule: usize) -> String {
        let cron = self.crons[schedule];
        if self.zone == "UTC" { cron.to_owned() } else { format!("{cron} {}", self.zone) }
    }

    /// Whether its runs may start at an instant.
    pub fn is_open(&self, at: i64) -> bool {
        let Some((from, to)) = self.window else { return true };
        let zone: chrono_tz::Tz = self.zone.parse().unwrap();
        let hour = chrono::DateTime::from_timestamp_micros(at).unwrap().with_timezone(&zone).hour();
        if from < to { (from..to).contains(&hour) } else { hour >= from || hour < to }
    }

    /// Its file. Of two schedules the first is the full one.
    pub fn text(&self, policy: usize) -> String {
        let modes: &[&str] = if self.crons.len() > 1 { &["full", "differential"] } else { &["auto"] };
        let hours = |(from, to)| format!("window = [\"{from:02}:00-{to:02}:00\"]\n");
        let window = self.window.map(hours).unwrap_or_default();
        let schedules: String = self
            .crons
            .iter()
            .zip(modes)
            .map(|(cron, mode)| {
                let zone = self.zone;
                format!(
                    "\n[[schedules]]\ncron = \"{cron}\"\ntime_zone = \"{zone}\"\nmode = \"{mode}\"\n{window}{}\n",
                    self.timing
                )
            })
            .collect();
        let repositories: Vec<String> =
            self.repositories.iter().map(|it| format!("\"{}\"", repository(*it))).collect();
        let select = match self.share {
            0 => "hosts = [\"*3\"]".to_owned(),
            _ => format!("labels = {{ group = \"g{policy}\" }}"),
        };
        format!(
            "name = \"{}\"\nrepositories = [{}]\nselect.{select}\n{}\n{schedules}",
            policy_name(policy),
            repositories.join(", "),
            self.rest,
        )
    }
}

/// The policy that a VM is of, by the shares.
pub fn group_of(vm: usize, vms: usize) -> usize {
    let thousandth = vm * 1000 / vms;
    let mut below = 0;
    let group = POLICIES.iter().position(|policy| {
        below += policy.share;
        thousandth < below
    });
    group.expect("the shares are a thousand")
}

/// The VMs that a policy selects: its share, or those on some of the hosts.
pub fn selected(policy: usize, vms: usize, hosts: usize) -> impl Iterator<Item = usize> {
    let shared = POLICIES[policy].share == 0;
    let on_host = move |vm: usize| host_of(vm, hosts) % 10 == 3;
    (0..vms).filter(move |vm| if shared { on_host(*vm) } else { group_of(*vm, vms) == policy })
}

/// The number of the host that a VM is on.
pub fn host_of(vm: usize, hosts: usize) -> usize {
    vm % hosts
}

pub fn host(number: usize) -> HostName {
    format!("host-{number:02}").parse().unwrap()
}

pub fn repository(number: usize) -> RepositoryName {
    format!("repository-{number}").parse().unwrap()
}

/// The number in a repository's name.
pub fn number_of(repository: &RepositoryName) -> usize {
    repository.as_str().trim_start_matches("repository-").parse().unwrap()
}

pub fn repository_address(number: usize) -> RepositoryAddress {
    RepositoryAddress {
        name: repository(number),
        path: format!("/repository/{number}"),
        password_file: "/key".into(),
        append_only: false,
        rates: Vec::new(),
    }
}

pub fn vm_id(vm: usize) -> VmId {
    VmId(uuid::Uuid::from_u128(vm as u128 + 1))
}

/// The number of a VM.
pub fn place(vm: VmId) -> usize {
    usize::try_from(vm.0.as_u128() - 1).unwrap()
}

pub fn vm_address(vm: usize) -> VmAddress {
    // Every third one has a guest agent.
    let guest_agent = vm.is_multiple_of(3).then(|| format!("/run/{vm}.agent"));
    VmAddress { id: vm_id(vm), name: vm_name(vm), qmp: format!("/run/{vm}.qmp"), guest_agent }
}

fn vm_name(vm: usize) -> VmName {
    format!("vm-{vm:04}").parse().unwrap()
}
