//! At least one record of every kind and variant, and a history that holds everything that a state can.

use journal::effect::{End, *};
use journal::notice::{Answer, NoticeAnswered, NoticeKind, NoticeRaised, NoticeSettled, Subject};
use journal::outcome::{
    Done, Failure, FailureClass, KeySeen, Measured, MeasuredVm, Outcome, Pruned, Stored, StoredDisk,
};
use journal::record::*;
use journal::{
    CheckpointId, DiskName, HostName, Installation, IntentId, JobId, NoticeId, PointId, PolicyName, Process,
    Record, RepositoryName, Time, VmId,
};
fn vm() -> VmId {
    VmId(uuid::Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10))
}

fn address() -> VmAddress {
    let (qmp, guest_agent) = ("/run/web.qmp".into(), Some("/run/web.qga".into()));
    VmAddress { id: vm(), name: "web".parse().unwrap(), qmp, guest_agent }
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn disk() -> DiskName {
    "vda".parse().unwrap()
}

fn policy() -> PolicyName {
    "nightly".parse().unwrap()
}

fn repository_name() -> RepositoryName {
    "main".parse().unwrap()
}

fn repository() -> RepositoryAddress {
    RepositoryAddress {
        name: repository_name(),
        path: "/backup".into(),
        password_file: "/etc/key".into(),
        append_only: true,
        rates: vec![Rate { from_minute: 480, to_minute: 1080, bytes_per_second: 1 << 20 }],
    }
}

fn process() -> Process {
    Process { pid: 4711, started_ticks: 81, boot: uuid::Uuid::from_u128(0xb007) }
}

fn add_checkpoint() -> AddCheckpoint {
    AddCheckpoint {
        vm: address(),
        process: process(),
        installation: Installation(0x0a1b_2c3d),
        checkpoint: CheckpointId(9),
        disks: vec![Mark {
            disk: disk(),
            node: "node0".into(),
            bitmap: "backstay.0a1b2c3d.9".into(),
            lasts: Lasts::Persistent,
            backing: "/base.qcow2 (inode 7)".into(),
            size_bytes: 1 << 30,
            disable: vec!["backstay.0a1b2c3d.8".into()],
        }],
    }
}

fn incremental() -> DiskMode {
    DiskMode::Incremental { since: CheckpointId(8), parent: PointId(3), snapshot: "ab12".into() }
}

fn effects() -> Vec<Effect> {
    let installation = Installation(0x0a1b_2c3d);
    let view = ViewDisk {
        disk: disk(),
        node: "node0".into(),
        size_bytes: 1 << 30,
        changed_since: vec!["backstay.0a1b2c3d.8".into()],
    };
    let unmark = Unmark {
        disk: disk(),
        node: "node0".into(),
        bitmap: "backstay.0a1b2c3d.9".into(),
        predecessor: Some(Predecessor {
            bitmap: "backstay.0a1b2c3d.8".into(),
            becomes: "backstay.0a1b2c3d.10".into(),
            lasts: Lasts::Persistent,
            records: true,
        }),
    };
    let store = Store {
        vm: address(),
        process: process(),
        qemu: "10.0.2".into(),
        installation,
        view: IntentId(5),
        way: Way::Push,
        repository: repository(),
        point: PointId(4),
        instant: Time(1_700_000_000_000_000),
        checkpoint: CheckpointId(9),
        chain: vec![CheckpointId(8), CheckpointId(9)],
        policy: Some(policy()),
        consistency: Consistency::Filesystem,
        disks: vec![StoreDisk {
            disk: disk(),
            size_bytes: 1 << 30,
            mode: incremental(),
            granularity_bytes: Some(65_536),
        }],
        left_out: vec![("cd".parse().unwrap(), "empty".into())],
        audit_chunks: 8,
        bandwidth: Some(Bandwidth {
            time_zone: "Europe/Berlin".into(),
            limits: vec![Limit { days: 0b011_1110, rate: repository().rates[0] }],
        }),
    };
    vec![
        Effect::Freeze(Freeze { vm: address(), limit_ms: 10_000 }),
        Effect::Thaw(Thaw { vm: address() }),
        Effect::Begin(Begin {
            checkpoint: add_checkpoint(),
            disks: vec![view],
            way: Way::CopyBeforeWrite,
            limits: ViewLimits { scratch_bytes: 1 << 30, stall_ms: 5_000 },
            unit_bytes: Some(1 << 20),
        }),
        Effect::Store(Box::new(store)),
        Effect::End(End { vm: address(), process: process(), installation, view: IntentId(5), disks: 1 }),
        Effect::AddCheckpoint(add_checkpoint()),
        Effect::DeleteCheckpoint(DeleteCheckpoint {
            vm: address(),
            process: process(),
            checkpoint: CheckpointId(9),
            reason: "no restore point needs it".into(),
            disks: vec![unmark],
        }),
        Effect::Clean(Clean {
            vm: address(),
            process: process(),
            installation,
            exports: vec!["backstay.0a1b2c3d.t5.0x".into()],
            jobs: vec!["backstay.0a1b2c3d.t5.0j".into()],
            nodes: vec!["backstay.0a1b2c3d.t5.0f".into()],
            bitmaps: vec![("node0".into(), "backstay.0a1b2c3d.7".into())],
            files: vec!["backstay.0a1b2c3d.t5.0s".into()],
        }),
        Effect::OpenRepository(OpenRepository { repository: repository(), chunk_bytes: 1 << 20 }),
        Effect::Forget(Forget {
            repository: repository(),
            point: PointId(3),
            snapshot: "ab12".into(),
            reason: "beyond last=3".into(),
        }),
        Effect::Check(Check { repository: repository(), read_percent: 5 }),
        Effect::Prune(Prune { repository: repository() }),
        Effect::Restore(Restore {
            repository: repository(),
            point: PointId(3),
            snapshot: "ab12".into(),
            disk: disk(),
            size_bytes: 1 << 30,
            path: "/srv/vda.img".into(),
            format: ImageFormat::Qcow2,
            target: RestoreTarget::InPlace,
        }),
        Effect::Offer(Offer {
            vm: address(),
            process: process(),
            installation,
            view: IntentId(5),
            until: Time(1_700_003_600_000_000),
        }),
        Effect::Measure(Measure { repository: repository() }),
        Effect::Keys(Keys { repository: repository(), change: KeyChange::None }),
        Effect::Keys(Keys { repository: repository(), change: key_change() }),
        Effect::Keys(Keys {
            repository: repository(),
            change: KeyChange::Change { password_file: "/etc/new".into() },
        }),
        hook(HookSide::Before),
        hook(HookSide::After { end: TryEnd::Done, reason: None }),
        hook(HookSide::After { end: TryEnd::Failed, reason: Some("main is full".into()) }),
        hook(HookSide::After { end: TryEnd::Retried, reason: None }),
        hook(HookSide::After { end: TryEnd::Cancelled, reason: None }),
        Effect::PruneBy(PruneBy { repository: repository(), terms: prune_terms() }),
    ]
}

fn hook(side: HookSide) -> Effect {
    Effect::Hook(Box::new(Hook {
        vm: address(),
        name: "quiesce".parse().unwrap(),
        limit_ms: 60_000,
        job: JobId(2),
        attempt: 3,
        policy: policy(),
        repository: repository_name(),
        mode: Mode::Auto,
        side,
    }))
}

fn prune_terms() -> PruneTerms {
    PruneTerms { dry_run: true, grace_seconds: 86_400, max_unused_percent: 3 }
}

fn key_change() -> KeyChange {
    KeyChange::Add { password_file: "/etc/second".into() }
}

fn outcomes() -> Vec<Outcome> {
    let stored = StoredDisk {
        disk: disk(),
        changed_bytes: 65536,
        read_bytes: 1 << 20,
        stored_bytes: 300,
        audited_chunks: 8,
        distrust: Some("a chunk differs".into()),
    };
    let done = [
        Done::Plain,
        Done::Thawed { filesystems: 2 },
        Done::Began { instant: Time(1_700_000_000_000_000) },
        Done::Stored(Stored {
            snapshot: "ab12".into(),
            consistency: Consistency::Crash,
            disks: vec![stored],
        }),
        Done::Restored { written_bytes: 4096, verified: true },
        Done::Opened { id: "77".into(), created: true, chunk_bytes: 1 << 20 },
        Done::Checked { problems: vec!["pack 12 is damaged".into()] },
        Done::Pruned { freed_bytes: 512 },
        Done::Measured(Measured {
            points: 3,
            stored_bytes: 5,
            used_bytes: 4,
            plain_bytes: 9,
            restore_bytes: 30,
            vms: vec![MeasuredVm {
                vm: "web".into(),
                id: Some(vm()),
                points: 3,
                restore_bytes: 30,
                used_bytes: 4,
                own_bytes: 2,
            }],
        }),
        Done::Keys {
            keys: vec![KeySeen {
                id: "ab".into(),
                current: true,
                host: "h".into(),
                user: "root".into(),
                created: Time(1_700_000_000_000_000),
            }],
        },
        Done::PrunedBy(Pruned {
            dry_run: true,
            freed_bytes: 1,
            marked_bytes: 2,
            copied_bytes: 3,
            unused_bytes: 4,
            packs_kept: 5,
            packs_removed: 6,
            packs_marked: 7,
            packs_taken_back: 8,
            first_due: Some(Time(1_700_000_000_000_000)),
        }),
    ];
    let classes = [
        FailureClass::ProcessGone,
        FailureClass::Unreachable,
        FailureClass::Refused,
        FailureClass::ViewLost,
        FailureClass::Repository,
        FailureClass::Full,
        FailureClass::Damaged,
        FailureClass::Cancelled,
        FailureClass::Invalid,
        FailureClass::Fenced,
        FailureClass::Host,
        FailureClass::TooLate,
    ];
    let failed = classes.map(|class| Outcome::Failed(Failure::new(class, "it did not")));
    done.map(Outcome::Done).into_iter().chain(failed).collect()
}

fn works() -> Vec<Work> {
    let backup = BackupWork {
        vm: vm(),
        repository: repository_name(),
        mode: Mode::Differential,
        since: Some(CheckpointId(8)),
        consistency: ConsistencyAsked::Required,
    };
    let restore = RestoreWork {
        point: PointId(3),
        disks: vec![(disk(), "/srv/vda.img".into())],
        format: ImageFormat::Raw,
        target: RestoreTarget::New,
    };
    vec![
        Work::Backup(backup),
        Work::Restore(restore),
        Work::CreateCheckpoint { vm: vm() },
        Work::DeleteCheckpoint { vm: vm(), checkpoint: CheckpointId(8) },
        Work::RemoveVm { vm: vm(), force: true },
        Work::Reconcile { vm: vm() },
        Work::AddRepository { repository: repository(), chunk_bytes: 1 << 20 },
        Work::CheckRepository { repository: repository_name(), read_percent: 0 },
        Work::PruneRepository { repository: repository_name() },
        Work::Forget { point: PointId(3) },
        Work::Export(ExportWork { vm: vm(), since: Some(CheckpointId(8)), ttl_seconds: 3600 }),
        Work::MeasureRepository { repository: repository_name() },
        Work::LimitRepository { repository: repository_name(), rates: Vec::new() },
        Work::Keys { repository: repository_name(), change: KeyChange::Remove { key: "ab".into() } },
        Work::PruneBy { repository: repository_name(), terms: prune_terms() },
    ]
}

fn terms() -> Terms {
    let (request, retries) = (Some(JobId(2)), Some(JobId(1)));
    let (before, after) = (Some("quiesce".parse().unwrap()), Some("resume".parse().unwrap()));
    let hooks = Some(Box::new(Hooks { before, after, limit_ms: 60_000 }));
    let after = [JobId(1)].into();
    Terms { priority: -3, deadline: Some(Time(1_700_000_000_000_001)), request, retries, hooks, after }
}

/// At least one record of every kind, and every variant of what is inside.
pub fn samples() -> Vec<Record> {
    let due = Due { policy: policy(), schedule: "0 2 * * *".into(), at: Time(7), not_before: Time(9) };
    let planned = PlannedDisk {
        disk: disk(),
        node: "node0".into(),
        size_bytes: 1 << 30,
        lasts: Some(Lasts::WithProcess),
        disable: vec!["backstay.0a1b2c3d.8".into()],
        changed_since: Vec::new(),
        granularity_bytes: Some(65_536),
        backing: "/base.qcow2 (inode 7)".into(),
        mode: DiskMode::Full { reason: "the first backup".into() },
    };
    let mut samples: Vec<Record> = vec![
        Installed { installation: Installation(0x0a1b_2c3d) }.into(),
        EpochBegan { pid: 17, version: "0.1.0".into() }.into(),
        RecordsLost { first: 12, last: 13, what: "past the end".into() }.into(),
        VmAdded {
            vm: address(),
            disks: vec![(disk(), "node0".into())],
            labels: vec![("env".into(), "prod".into())],
            host: Some(host("kvm-1")),
        }
        .into(),
        VmAdded { vm: address(), disks: Vec::new(), labels: Vec::new(), host: None }.into(),
        VmHosted { vm: vm(), host: host("kvm-2") }.into(),
        VmRemoved { vm: vm() }.into(),
        ProcessSeen { vm: vm(), process: process(), version: "10.0.2".into() }.into(),
        TrackingLost {
            vm: vm(),
            disk: disk(),
            through: CheckpointId(8),
            row: "inconsistent".into(),
            reason: "QEMU was killed".into(),
        }
        .into(),
        ViewLost { vm: vm(), view: IntentId(5), row: "view-new-process".into(), reason: "gone".into() }
            .into(),
        RepositoryAdded { repository: repository(), id: "77".into(), chunk_bytes: 1 << 20 }.into(),
        PolicyApplied { name: policy(), text: "name = \"nightly\"".into() }.into(),
        PolicyRemoved { name: policy() }.into(),
        PolicyPaused { name: policy(), paused: true }.into(),
        ScheduleAdvanced { policy: policy(), schedule: "0 2 * * *".into(), through: Time(7) }.into(),
        RunSkipped {
            policy: policy(),
            schedule: "0 2 * * *".into(),
            vm: Some(vm()),
            at: Time(7),
            reason: "missed".into(),
        }
        .into(),
        JobStarted { job: JobId(2) }.into(),
        BackupPlanned {
            job: JobId(2),
            point: PointId(4),
            checkpoint: CheckpointId(9),
            way: Way::CopyBeforeWrite,
            disks: vec![planned],
            left_out: vec![("cd".parse().unwrap(), "empty".into())],
        }
        .into(),
        ExportPlanned {
            job: JobId(2),
            way: Way::CopyBeforeWrite,
            socket: "/run/backstay/nbd".into(),
            disks: vec![ExportedDisk {
                disk: disk(),
                node: "node0".into(),
                size_bytes: 1 << 30,
                changed_since: vec!["backstay.0a1b2c3d.8".into()],
                reason: Some("its size changed".into()),
            }],
            left_out: vec![("cd".parse().unwrap(), "empty".into())],
        }
        .into(),
        CancelAsked { job: JobId(2), why: Some("the next run is due".into()) }.into(),
        JobRetried {
            job: JobId(2),
            reason: "main is full".into(),
            class: FailureClass::Full,
            not_before: Time(11),
        }
        .into(),
        NoticeRaised {
            notice: NoticeId(3),
            kind: NoticeKind::Recovery,
            subject: Subject::Backup { vm: vm(), repository: repository_name() },
            vm: Some("web".into()),
            text: "the backup is done again".into(),
        }
        .into(),
        NoticeRaised {
            notice: NoticeId(4),
            kind: NoticeKind::Alarm,
            subject: Subject::GoodPoint { vm: vm() },
            vm: Some("web".into()),
            text: "web has no good restore point at all".into(),
        }
        .into(),
        NoticeRaised {
            notice: NoticeId(5),
            kind: NoticeKind::Test,
            subject: Subject::Test,
            vm: None,
            text: "a test".into(),
        }
        .into(),
        NoticeRaised {
            notice: NoticeId(6),
            kind: NoticeKind::Alarm,
            subject: Subject::Hook { vm: vm(), repository: repository_name() },
            vm: Some("web".into()),
            text: "the hook `resume` failed".into(),
        }
        .into(),
        NoticeSettled { notice: NoticeId(3), given_up: Some("404".into()) }.into(),
        answered(Answer::Taken("250 queued".into())),
        answered(Answer::GivenUp("404".into())),
        PauseAsked { job: JobId(2), paused: true }.into(),
        JobPaused { job: JobId(2) }.into(),
        IntentAdopted { intent: IntentId(5), row: "open-same-process".into(), why: "it looks first".into() }
            .into(),
        PointHeld { point: PointId(3), held: true }.into(),
        PointGone { point: PointId(3), why: "not in main".into() }.into(),
    ];
    for (number, end) in
        [journal::record::End::Done, journal::record::End::Failed, journal::record::End::Cancelled]
            .into_iter()
            .enumerate()
    {
        samples.push(
            JobEnded {
                job: JobId(number as u64),
                end,
                reason: Some("so".into()),
                class: Some(FailureClass::Full),
            }
            .into(),
        );
    }
    samples.extend(
        works()
            .into_iter()
            .map(|work| JobQueued { job: JobId(2), work, due: Some(due.clone()), terms: terms() }.into()),
    );
    samples.extend(effects().into_iter().map(|effect| {
        IntentOpened { intent: Intent { id: IntentId(5), job: Some(JobId(2)), effect } }.into()
    }));
    let witness = Witness::Observation { row: "open-new-process-there".into() };
    samples.extend(
        outcomes()
            .into_iter()
            .map(|outcome| IntentSettled { intent: IntentId(5), outcome, by: witness.clone() }.into()),
    );
    samples.push(
        IntentSettled { intent: IntentId(5), outcome: Outcome::Done(Done::Plain), by: Witness::Agent }.into(),
    );
    samples
}

fn answered(answer: Answer) -> Record {
    NoticeAnswered { notice: NoticeId(3), receiver: "mail".parse().unwrap(), answer }.into()
}

/// A legal history: two jobs of one VM, one done and one in the middle of its store.
pub fn history() -> Vec<Record> {
    let opened = |id: u64, job: u64, effect: Effect| -> Record {
        IntentOpened { intent: Intent { id: IntentId(id), job: Some(JobId(job)), effect } }.into()
    };
    let settled = |id: u64, done: Done| -> Record {
        IntentSettled { intent: IntentId(id), outcome: Outcome::Done(done), by: Witness::Agent }.into()
    };
    let mut samples = effects().into_iter();
    let mut next = || samples.next().unwrap();
    let (freeze, thaw, mut begin, mut store) = (next(), next(), next(), next());
    if let (Effect::Begin(begin), Effect::Store(store)) = (&mut begin, &mut store) {
        begin.checkpoint.checkpoint = CheckpointId(1);
        (store.point, store.checkpoint) = (PointId(1), CheckpointId(1));
    }
    let begun = || Done::Began { instant: Time(1_700_000_000_000_000) };
    let stored = outcomes().into_iter().find_map(|outcome| match outcome {
        Outcome::Done(done @ Done::Stored(_)) => Some(done),
        _ => None,
    });
    let due = Due { policy: policy(), schedule: "0 2 * * *".into(), at: Time(7), not_before: Time(9) };
    let backup = works().swap_remove(0);
    let queued = |job, work| -> Record {
        let terms = Terms { after: (1..job).map(JobId).collect(), ..terms() };
        JobQueued { job: JobId(job), work, due: Some(due.clone()), terms }.into()
    };
    let planned = BackupPlanned {
        job: JobId(1),
        point: PointId(1),
        checkpoint: CheckpointId(1),
        way: Way::BackupJob,
        disks: Vec::new(),
        left_out: vec![("cd".parse().unwrap(), "empty".into())],
    };
    vec![
        Installed { installation: Installation(0x0a1b_2c3d) }.into(),
        EpochBegan { pid: 17, version: "0.1.0".into() }.into(),
        VmAdded {
            vm: address(),
            disks: vec![(disk(), "node0".into())],
            labels: vec![("a".into(), "b".into())],
            host: None,
        }
        .into(),
        VmHosted { vm: vm(), host: host("kvm-1") }.into(),
        ProcessSeen { vm: vm(), process: process(), version: "10.0.2".into() }.into(),
        RepositoryAdded { repository: repository(), id: "77".into(), chunk_bytes: 1 << 20 }.into(),
        PolicyApplied { name: policy(), text: "name = \"nightly\"".into() }.into(),
        ScheduleAdvanced { policy: policy(), schedule: "0 2 * * *".into(), through: Time(7) }.into(),
        queued(1, backup.clone()),
        JobStarted { job: JobId(1) }.into(),
        planned.into(),
        opened(1, 1, freeze.clone()),
        settled(1, Done::Plain),
        opened(2, 1, begin),
        settled(2, begun()),
        opened(3, 1, thaw),
        settled(3, Done::Thawed { filesystems: 2 }),
        opened(4, 1, store),
        settled(4, stored.unwrap()),
        JobEnded { job: JobId(1), end: journal::record::End::Done, reason: None, class: None }.into(),
        queued(2, backup.clone()),
        JobStarted { job: JobId(2) }.into(),
        opened(5, 2, freeze),
        TrackingLost {
            vm: vm(),
            disk: disk(),
            through: CheckpointId(1),
            row: "inconsistent".into(),
            reason: "QEMU was killed".into(),
        }
        .into(),
        CancelAsked { job: JobId(2), why: Some("the next run is due".into()) }.into(),
        queued(3, backup),
        PointHeld { point: PointId(1), held: true }.into(),
        NoticeRaised {
            notice: NoticeId(3),
            kind: NoticeKind::Alarm,
            subject: Subject::GoodPoint { vm: vm() },
            vm: Some("web".into()),
            text: "web has no good restore point".into(),
        }
        .into(),
        answered(Answer::Taken("250 queued".into())),
        RecordsLost { first: 29, last: 30, what: "past the end".into() }.into(),
    ]
}
