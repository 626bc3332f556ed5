//! Records as earlier versions of Backstay wrote them, each with what it means today. None of this ever changes.

use serde::Deserialize;

use super::{Due, IntentOpened, JobQueued, Terms, VmAdded, Work};
use crate::effect::{
    AddCheckpoint, Begin, Check, Clean, Consistency, DeleteCheckpoint, Effect, End, Forget, Freeze, Hook,
    Hooks, Intent, Keys, Measure, Offer, OpenRepository, Prune, PruneBy, RepositoryAddress, Restore, Store,
    StoreDisk, Thaw, VmAddress, Way,
};
use crate::ids::{CheckpointId, DiskName, Installation, IntentId, JobId, PointId, PolicyName, Process, Time};

/// [`JobQueued`] before jobs had hooks.
#[derive(Deserialize)]
pub(super) struct JobQueuedV1 {
    job: JobId,
    work: Work,
    due: Option<Due>,
    terms: TermsV1,
}

#[derive(Deserialize)]
struct TermsV1 {
    priority: i8,
    deadline: Option<Time>,
    request: Option<JobId>,
    retries: Option<JobId>,
}

impl From<JobQueuedV1> for JobQueued {
    fn from(JobQueuedV1 { job, work, due, terms }: JobQueuedV1) -> Self {
        let TermsV1 { priority, deadline, request, retries } = terms;
        JobQueuedV2 { job, work, due, terms: TermsV2 { priority, deadline, request, retries, hooks: None } }
            .into()
    }
}

/// [`JobQueued`] before jobs waited for other jobs.
#[derive(Deserialize)]
pub(super) struct JobQueuedV2 {
    job: JobId,
    work: Work,
    due: Option<Due>,
    terms: TermsV2,
}

#[derive(Deserialize)]
struct TermsV2 {
    priority: i8,
    deadline: Option<Time>,
    request: Option<JobId>,
    retries: Option<JobId>,
    hooks: Option<Hooks>,
}

impl From<JobQueuedV2> for JobQueued {
    fn from(JobQueuedV2 { job, work, due, terms }: JobQueuedV2) -> Self {
        let TermsV2 { priority, deadline, request, retries, hooks } = terms;
        let terms =
            Terms { priority, deadline, request, retries, hooks: hooks.map(Box::new), after: Box::default() };
        Self { job, work, due, terms }
    }
}

/// [`IntentOpened`] before stores had limits of bandwidth.
#[derive(Deserialize)]
pub(super) struct IntentOpenedV2 {
    intent: IntentV2,
}

#[derive(Deserialize)]
struct IntentV2 {
    id: IntentId,
    job: Option<JobId>,
    effect: EffectV2,
}

#[derive(Deserialize)]
enum EffectV2 {
    Freeze(Freeze),
    Thaw(Thaw),
    Begin(Begin),
    Store(Box<StoreV2>),
    End(End),
    AddCheckpoint(AddCheckpoint),
    DeleteCheckpoint(DeleteCheckpoint),
    Clean(Clean),
    OpenRepository(OpenRepository),
    Forget(Forget),
    Check(Check),
    Prune(Prune),
    Restore(Restore),
    Offer(Offer),
    Measure(Measure),
    Keys(Keys),
    Hook(Box<Hook>),
    PruneBy(PruneBy),
}

#[derive(Deserialize)]
struct StoreV2 {
    vm: VmAddress,
    process: Process,
    qemu: String,
    installation: Installation,
    view: IntentId,
    way: Way,
    repository: RepositoryAddress,
    point: PointId,
    instant: Time,
    checkpoint: CheckpointId,
    chain: Vec<CheckpointId>,
    policy: Option<PolicyName>,
    consistency: Consistency,
    disks: Vec<StoreDisk>,
    left_out: Vec<(DiskName, String)>,
    audit_chunks: u32,
}

impl From<IntentOpenedV2> for IntentOpened {
    fn from(IntentOpenedV2 { intent: IntentV2 { id, job, effect } }: IntentOpenedV2) -> Self {
        Self { intent: Intent { id, job, effect: effect.into() } }
    }
}

impl From<EffectV2> for Effect {
    fn from(older: EffectV2) -> Self {
        match older {
            EffectV2::Freeze(it) => Effect::Freeze(it),
            EffectV2::Thaw(it) => Effect::Thaw(it),
            EffectV2::Begin(it) => Effect::Begin(it),
            EffectV2::Store(it) => Effect::Store(Box::new((*it).into())),
            EffectV2::End(it) => Effect::End(it),
            EffectV2::AddCheckpoint(it) => Effect::AddCheckpoint(it),
            EffectV2::DeleteCheckpoint(it) => Effect::DeleteCheckpoint(it),
            EffectV2::Clean(it) => Effect::Clean(it),
            EffectV2::OpenRepository(it) => Effect::OpenRepository(it),
            EffectV2::Forget(it) => Effect::Forget(it),
            EffectV2::Check(it) => Effect::Check(it),
            EffectV2::Prune(it) => Effect::Prune(it),
            EffectV2::Restore(it) => Effect::Restore(it),
            EffectV2::Offer(it) => Effect::Offer(it),
            EffectV2::Measure(it) => Effect::Measure(it),
            EffectV2::Keys(it) => Effect::Keys(it),
            EffectV2::Hook(it) => Effect::Hook(it),
            EffectV2::PruneBy(it) => Effect::PruneBy(it),
        }
    }
}

impl From<StoreV2> for Store {
    fn from(older: StoreV2) -> Self {
        let StoreV2 { vm, process, qemu, installation, view, way, repository, point, .. } = older;
        let StoreV2 {
            instant, checkpoint, chain, policy, consistency, disks, left_out, audit_chunks, ..
        } = older;
        Self {
            vm,
            process,
            qemu,
            installation,
            view,
            way,
            repository,
            point,
            instant,
            checkpoint,
            chain,
            policy,
            consistency,
            disks,
            left_out,
            audit_chunks,
            bandwidth: None,
        }
    }
}

/// [`VmAdded`] before hosts had names.
#[derive(Deserialize)]
pub(super) struct VmAddedV1 {
    vm: VmAddress,
    disks: Vec<(DiskName, String)>,
    labels: Vec<(String, String)>,
}

impl From<VmAddedV1> for VmAdded {
    fn from(VmAddedV1 { vm, disks, labels }: VmAddedV1) -> Self {
        Self { vm, disks, labels, host: None }
    }
}
