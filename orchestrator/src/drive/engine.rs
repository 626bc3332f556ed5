//! The loop itself: one event in, decisions until there are none, and wait.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use journal::notice::NoticeAnswered;
use journal::observation::{LookAt, RepositorySeen, VmSeen};
use journal::outcome::{Failure, FailureClass, Outcome};
use journal::record::{IntentSettled, Witness};
use journal::state::{Job, Vm};
use journal::wire::{FromAgent, ToAgent};
use journal::{Epoch, Intent, IntentId, JobId, Record, State, VmId, fault};
use tokio::sync::{mpsc, oneshot};
use tracing::field::{DisplayValue, display};

use super::notify::{Carriers, Told};
use super::start::{self, Appended};
use super::{Call, Examined, Refusal, Shared, StartError, now};
use crate::api::view::ErrorCode;
use crate::decide::live::{Live, Seen};
use crate::decide::notify::Delivery;
use crate::decide::reconcile::{Subject, findings, point_findings};
use crate::decide::{CheckStep, Decision, next, schedule};

/// How often VMs with unexplained leftovers are looked at again, while their QEMU does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// How often it is tried again to begin something new while the journal's disk is full.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// The loop's own memory.
pub(super) struct Engine {
    shared: Arc<Shared>,
    epoch: Epoch,
    live: Live,
    to_agent: mpsc::Sender<ToAgent>,
    carriers: Carriers,
    asked: BTreeMap<u64, Asked>,
    requests: u64,
    /// The operator was told that the journal has no room for what is to be begun.
    told_full: bool,
}

/// Who waits for an observation.
enum Asked {
    Check(VmId),
    Look(oneshot::Sender<(Option<VmSeen>, Vec<RepositorySeen>)>),
    Examine(VmId, oneshot::Sender<Examined>),
}

impl Engine {
    pub(super) fn new(
        shared: Arc<Shared>,
        epoch: Epoch,
        to_agent: mpsc::Sender<ToAgent>,
        carriers: Carriers,
    ) -> Self {
        Self {
            live: Live::new(shared.limits, carriers.names()),
            shared,
            epoch,
            to_agent,
            carriers,
            asked: BTreeMap::new(),
            requests: 0,
            told_full: false,
        }
    }

    /// Runs until the agent or the journal fails.
    pub(super) async fn run(
        &mut self,
        mut calls: mpsc::Receiver<Call>,
        mut from_agent: mpsc::Receiver<FromAgent>,
        mut told: mpsc::UnboundedReceiver<Told>,
    ) -> Result<(), StartError> {
        self.live.look_at_all(&*self.shared.state.read().await);
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.settle_down().await?;
            let wake = if self.live.full { LOOK_FOR_ROOM } else { self.until_due().await };
            tokio::select! {
                Some(call) = calls.recv() => self.called(call).await?,
                answer = from_agent.recv() => self.answered(answer.ok_or(StartError::AgentGone)?).await?,
                Some(it) = told.recv() => self.told(it).await?,
                () = tokio::time::sleep(wake) => {}
                _ = look_again.tick() => self.look_at_unexplained().await,
            }
        }
    }

    /// Decides until there is nothing to decide.
    async fn settle_down(&mut self) -> Result<(), StartError> {
        self.live.full = false;
        loop {
            let state = self.shared.state.read().await;
            for policy in self.live.refresh_policies(&state) {
                tracing::debug!(%policy, "a policy's text is not understood by this version; apply it again");
            }
            let decision = next(&state, &self.live, now());
            let Some(decision) = decision else {
                self.told_full &= self.live.full;
                return Ok(());
            };
            // New work is decided last: whatever is under way had its turn before.
            if let Some(full) = start::held_back(&self.shared.log, &state, &decision.records).await {
                if !std::mem::replace(&mut self.told_full, true) {
                    let journal = self.shared.journal.display();
                    tracing::warn!(%journal, %full, "the journal's disk is full: what is queued waits for room there");
                }
                // What frees room may stand behind it in the queue.
                if std::mem::replace(&mut self.live.full, true) {
                    return Ok(());
                }
                continue;
            }
            drop(state);
            self.carry_out(decision).await?;
        }
    }

    async fn carry_out(&mut self, decision: Decision) -> Result<(), StartError> {
        self.append(&decision.records).await?;
        for intent in decision.send {
            self.send(intent).await?;
        }
        for intent in decision.cancel {
            self.live.cancelling.insert(intent);
            self.tell(ToAgent::Cancel { intent }).await?;
        }
        for (vm, step) in decision.checks {
            self.check(vm, step).await?;
        }
        for delivery in decision.tell {
            let owed = self.shared.state.read().await.notices.get(&delivery.notice).cloned();
            if let Some(owed) = owed {
                self.carriers.send(&delivery.receiver, owed);
            }
            self.live.telling.insert(delivery);
        }
        Ok(())
    }

    async fn told(&mut self, (delivery, answer): Told) -> Result<(), StartError> {
        self.live.telling.remove(&delivery);
        let Delivery { notice, receiver } = delivery;
        self.append(&[NoticeAnswered { notice, receiver, answer }.into()]).await
    }

    /// Makes records so: durable first, then seen by readers.
    async fn append(&mut self, records: &[Record]) -> Result<(), StartError> {
        if records.is_empty() {
            return Ok(());
        }
        fault::point("append");
        let mut state = self.shared.state.write().await;
        self.shared.bases.changing();
        let Shared { log, history, .. } = self.shared.as_ref();
        let Appended { at, bytes, took } =
            match start::append(log, history, &mut state, self.epoch, records).await {
                Ok(appended) => appended,
                Err(error) => return Err(self.shared.stop(error)),
            };
        records.iter().for_each(|record| tell_operator(&state, record));
        let counters = self.shared.counters.lock();
        counters.unwrap_or_else(PoisonError::into_inner).appended(records, took, &state);
        self.shared.bases.consider(at, &state, bytes);
        drop(state);
        fault::point("appended");
        self.shared.changed.send_modify(|changed| *changed += 1);
        Ok(())
    }

    async fn send(&mut self, intent: IntentId) -> Result<(), StartError> {
        let open = self.shared.state.read().await.open.get(&intent).map(|open| open.intent.clone());
        let Some(open) = open else { return Ok(()) };
        self.live.take_up(intent);
        self.tell(ToAgent::Perform { epoch: self.epoch, intent: Box::new(open) }).await
    }

    async fn tell(&self, message: ToAgent) -> Result<(), StartError> {
        self.to_agent.send(message).await.map_err(|_| StartError::AgentGone)
    }

    async fn check(&mut self, vm: VmId, step: CheckStep) -> Result<(), StartError> {
        self.live.step(vm, step);
        match step {
            CheckStep::Ask => self.observe_vm(vm, Asked::Check(vm)).await,
            CheckStep::Want | CheckStep::Clean | CheckStep::Accept => Ok(()),
        }
    }

    /// Asks an agent to look at a VM, and at the repositories that its points are in and its jobs name.
    async fn observe_vm(&mut self, id: VmId, asked: Asked) -> Result<(), StartError> {
        let state = self.shared.state.read().await;
        let Some(vm) = state.vms.get(&id) else { return Ok(()) };
        let (vm, repositories) = (look_at(vm), repositories_of(&state, id));
        drop(state);
        self.observe(Some(vm), repositories, asked).await
    }

    async fn observe(
        &mut self,
        vm: Option<LookAt>,
        repositories: Vec<journal::effect::RepositoryAddress>,
        asked: Asked,
    ) -> Result<(), StartError> {
        self.requests += 1;
        self.asked.insert(self.requests, asked);
        self.tell(ToAgent::Observe { request: self.requests, vm, repositories }).await
    }

    async fn called(&mut self, call: Call) -> Result<(), StartError> {
        match call {
            Call::Propose(proposal, reply) => {
                let state = self.shared.state.read().await;
                let proposed = match proposal(&state, now()) {
                    Ok(records) => match start::held_back(&self.shared.log, &state, &records).await {
                        Some(full) => Err(Refusal::failed(full.to_string())),
                        None => Ok(records),
                    },
                    refused => refused,
                };
                drop(state);
                let granted = match proposed {
                    Ok(records) => self.append(&records).await,
                    Err(refusal) => {
                        let _gone = reply.send(Err(refusal));
                        return Ok(());
                    }
                };
                let answer = granted.as_ref().copied().map_err(|error| Refusal {
                    code: ErrorCode::Failed,
                    message: format!("the journal did not take it: {error}"),
                });
                let _gone = reply.send(answer);
                granted
            }
            Call::Look(vm, repositories, reply) => self.observe(vm, repositories, Asked::Look(reply)).await,
            Call::Examine(vm, reply) => self.observe_vm(vm, Asked::Examine(vm, reply)).await,
        }
    }

    async fn answered(&mut self, answer: FromAgent) -> Result<(), StartError> {
        match answer {
            FromAgent::Settled { intent, outcome } => self.settled(intent, outcome).await,
            FromAgent::Unknown { intent, why } => self.unknown(intent, why).await,
            FromAgent::Progress { intent, progress } => {
                if self.live.in_hand.contains(&intent) {
                    self.shared
                        .progress
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(intent, progress);
                    self.shared.changed.send_modify(|changed| *changed += 1);
                }
                Ok(())
            }
            FromAgent::Observed { request, vm, repositories } => {
                self.observed(request, vm, repositories).await;
                Ok(())
            }
        }
    }

    async fn settled(&mut self, intent: IntentId, outcome: Outcome) -> Result<(), StartError> {
        self.put_down(intent);
        if !self.shared.state.read().await.open.contains_key(&intent) {
            return Ok(());
        }
        self.append(&[IntentSettled { intent, outcome, by: Witness::Agent }.into()]).await
    }

    /// An intent whose fate the agent cannot tell. In QEMU an observation tells; elsewhere every effect may be
    /// repeated, so that it counts as not there.
    async fn unknown(&mut self, intent: IntentId, why: String) -> Result<(), StartError> {
        self.put_down(intent);
        let state = self.shared.state.read().await;
        let Some(open) = state.open.get(&intent) else { return Ok(()) };
        let (vm, About { job, vm: name }) = (open.intent.effect.vm(), About::intent(&state, &open.intent));
        tracing::warn!(job, vm = name, %intent, %why, "the outcome of an effect is unknown");
        drop(state);
        let Some(vm) = vm else {
            let outcome = Outcome::Failed(Failure::new(FailureClass::Host, why));
            return self.append(&[IntentSettled { intent, outcome, by: Witness::Agent }.into()]).await;
        };
        self.live.lose_sight(intent, vm);
        Ok(())
    }

    fn put_down(&mut self, intent: IntentId) {
        self.live.put_down(intent);
        self.shared.progress.write().unwrap_or_else(PoisonError::into_inner).remove(&intent);
    }

    async fn observed(&mut self, request: u64, vm: Option<VmSeen>, repositories: Vec<RepositorySeen>) {
        match (self.asked.remove(&request), vm) {
            (Some(Asked::Check(id)), Some(vm)) => {
                self.live.saw(id, Seen { vm, repositories });
            }
            (Some(Asked::Look(reply)), vm) => {
                let _gone = reply.send((vm, repositories));
            }
            (Some(Asked::Examine(id, reply)), Some(vm)) => {
                let seen = Seen { vm, repositories };
                let state = self.shared.state.read().await;
                let _gone = reply.send(examine(&state, &self.live, id, seen));
            }
            _ => {}
        }
    }

    async fn look_at_unexplained(&mut self) {
        self.live.look_at_unexplained(&*self.shared.state.read().await);
    }

    async fn until_due(&self) -> Duration {
        let state = self.shared.state.read().await;
        let at = now();
        let due = schedule::next_instant(&state, &self.live, at);
        // The wall clock may jump: it is asked again at least so often.
        let longest = Duration::from_secs(60);
        due.map_or(longest, |due| {
            Duration::from_micros(due.0.saturating_sub(at.0).max(0).unsigned_abs()).min(longest)
        })
    }
}

fn examine(state: &State, live: &Live, id: VmId, seen: Seen) -> Examined {
    let mut found = point_findings(state, id, &seen.repositories);
    if let (Some(installation), Some(vm), VmSeen::Answering(machine)) =
        (state.installation, state.vms.get(&id), &seen.vm)
    {
        found.extend(findings(Subject { state, in_hand: &live.in_hand, installation, vm, machine }));
    }
    Examined { seen, findings: found, unprotected: live.limits.unprotected }
}

/// What an agent is told about a VM that it is to look at.
pub(crate) fn look_at(vm: &Vm) -> LookAt {
    LookAt {
        id: Some(vm.address.id),
        name: vm.address.name.clone(),
        qmp: vm.address.qmp.clone(),
        disks: vm.disks.clone(),
    }
}

fn repositories_of(state: &State, id: VmId) -> Vec<journal::effect::RepositoryAddress> {
    let with_points = state.points_of(id).map(|point| &point.repository);
    let jobs = state.queue().of_vm(id).filter_map(|job| state.jobs.get(&job));
    let named = jobs.filter_map(|job| job.repository.as_ref());
    let names: std::collections::BTreeSet<_> = with_points.chain(named).collect();
    names.into_iter().filter_map(|name| state.repositories.get(name)).map(|it| it.address.clone()).collect()
}

/// The job and the VM that a line of the log is about, where there are any.
#[derive(Default)]
struct About {
    job: Option<DisplayValue<JobId>>,
    vm: Option<DisplayValue<String>>,
}

impl About {
    fn job(state: &State, id: JobId) -> About {
        let vm = state.jobs.get(&id).and_then(|job| job.work.vm());
        About { job: Some(display(id)), vm: vm.map(|vm| display(vm_name(state, vm))) }
    }

    fn intent(state: &State, intent: &Intent) -> About {
        let About { job, vm } = intent.job.map(|job| About::job(state, job)).unwrap_or_default();
        About { job, vm: vm.or_else(|| intent.effect.about().map(|vm| display(vm.name.to_string()))) }
    }
}

fn vm_name(state: &State, vm: VmId) -> String {
    state.vms.get(&vm).map_or_else(|| vm.to_string(), |vm| vm.address.name.to_string())
}

/// What an operator reads in the log: the ends of jobs, and everything that reconcile found.
fn tell_operator(state: &State, record: &Record) {
    let name = |vm: &VmId| vm_name(state, *vm);
    match record {
        Record::JobEnded(it) => {
            let About { job, vm } = About::job(state, it.job);
            let kind = state.jobs.get(&it.job).map_or("", |job| job.work.kind());
            let reason = it.reason.as_deref().unwrap_or_default();
            match it.end {
                journal::record::End::Failed => tracing::warn!(job, vm, kind, reason, "job failed"),
                end => tracing::info!(job, vm, kind, reason, ?end, "job ended"),
            }
        }
        Record::JobRetried(it) => {
            let About { job, vm } = About::job(state, it.job);
            tracing::info!(job, vm, reason = it.reason, not_before = %it.not_before, "a try failed, and the next one follows");
        }
        Record::TrackingLost(it) => {
            tracing::warn!(vm = name(&it.vm), disk = %it.disk, row = it.row, reason = it.reason, "full next");
        }
        Record::ViewLost(it) => {
            tracing::warn!(vm = name(&it.vm), row = it.row, reason = it.reason, "view lost");
        }
        Record::IntentAdopted(it) => {
            let open = state.open.get(&it.intent);
            let About { job, vm } = open.map(|open| About::intent(state, &open.intent)).unwrap_or_default();
            tracing::info!(job, vm, intent = %it.intent, row = it.row, "an open intent is repeated");
        }
        Record::IntentSettled(it) => {
            if let Witness::Observation { row } = &it.by {
                let of = |job: &&Job| job.steps.iter().any(|step| step.intent == it.intent);
                let About { job, vm } =
                    state.jobs.values().find(of).map(|job| About::job(state, job.id)).unwrap_or_default();
                tracing::info!(job, vm, intent = %it.intent, row, "an open intent is settled by what is there");
            }
        }
        Record::RunSkipped(it) => {
            tracing::info!(policy = %it.policy, schedule = it.schedule, at = %it.at, reason = it.reason, "run skipped");
        }
        Record::NoticeRaised(it) => {
            tracing::info!(notice = %it.notice, text = it.text, "the operator is to be told");
        }
        Record::NoticeSettled(it) => {
            if let Some(why) = &it.given_up {
                tracing::warn!(notice = %it.notice, why, "a notice is given up");
            }
        }
        Record::PointGone(it) => tracing::warn!(point = %it.point, why = it.why, "restore point gone"),
        _ => {}
    }
}
