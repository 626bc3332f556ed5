//! What a settled intent changes in the state: one arm for each effect.

use super::{Illegal, Point, PointDisk, State, View, unknown};
use crate::effect::{Begin, DiskMode, Effect, Intent, KeyChange, Keys, Store};
use crate::ids::{DiskName, Time};
use crate::outcome::{Done, Outcome, Stored};
use crate::record::IntentSettled;

impl State {
    pub(super) fn settle(&mut self, it: &IntentSettled) -> Result<(), Illegal> {
        let open = self.open.remove(&it.intent).ok_or_else(|| unknown(it.intent))?;
        let intent = &open.intent;
        match &it.outcome {
            Outcome::Done(done) => {
                if let Err(illegal) = self.settle_done(intent, done) {
                    self.open.insert(it.intent, open);
                    return Err(illegal);
                }
            }
            Outcome::Failed(_) => self.settle_failed(intent),
        }
        match intent.job.and_then(|job| self.jobs.get(&job)) {
            None => Ok(()),
            Some(job) => self.change_steps(job.id, job.is_offering(), |job| {
                job.settle_step(it.intent, &it.outcome);
                Ok(())
            }),
        }
    }

    fn settle_failed(&mut self, intent: &Intent) {
        // A freeze that failed froze nothing, so that no thaw is owed.
        if let Effect::Freeze(freeze) = &intent.effect
            && let Some(vm) = self.vms.get_mut(&freeze.vm.id)
        {
            vm.thaw_owed = None;
        }
    }

    fn settle_done(&mut self, intent: &Intent, done: &Done) -> Result<(), Illegal> {
        match (&intent.effect, done) {
            (Effect::Thaw(thaw), Done::Thawed { .. }) => self.vm_mut(thaw.vm.id)?.thaw_owed = None,
            (Effect::Begin(begin), Done::Began { instant }) => self.view_began(intent, begin, *instant)?,
            (Effect::AddCheckpoint(add), Done::Began { instant }) => {
                self.vm_mut(add.vm.id)?.chain.add(add, *instant, true);
            }
            (Effect::DeleteCheckpoint(delete), Done::Plain) => {
                self.vm_mut(delete.vm.id)?.chain.delete(delete);
            }
            (Effect::End(end), Done::Plain) => {
                self.vm_mut(end.vm.id)?.views.remove(&end.view);
            }
            (Effect::Store(store), Done::Stored(stored)) => self.point_made(intent, store, stored)?,
            (Effect::Forget(forget), Done::Plain) => {
                self.remove_point(forget.point);
            }
            // One that is ours already was opened with other limits: they hold from now on.
            (Effect::OpenRepository(open), Done::Opened { .. }) => {
                if let Some(repository) = self.repositories.get_mut(&open.repository.name) {
                    repository.address.rates.clone_from(&open.repository.rates);
                }
            }
            (
                Effect::Keys(Keys { repository, change: KeyChange::Change { password_file } }),
                Done::Keys { .. },
            ) => {
                if let Some(repository) = self.repositories.get_mut(&repository.name) {
                    repository.address.password_file.clone_from(password_file);
                }
            }
            (Effect::Freeze(_) | Effect::Clean(_) | Effect::Offer(_) | Effect::Hook(_), Done::Plain)
            | (Effect::Check(_), Done::Checked { .. })
            | (Effect::Prune(_), Done::Pruned { .. })
            | (Effect::PruneBy(_), Done::PrunedBy(_))
            | (Effect::Restore(_), Done::Restored { .. })
            | (Effect::Measure(_), Done::Measured(_))
            | (Effect::Keys(_), Done::Keys { .. }) => {}
            _ => return Err(Illegal::WrongOutcome { intent: intent.id }),
        }
        Ok(())
    }

    fn view_began(&mut self, intent: &Intent, begin: &Begin, instant: Time) -> Result<(), Illegal> {
        let vm = self.vm_mut(begin.checkpoint.vm.id)?;
        vm.chain.add(&begin.checkpoint, instant, false);
        vm.views.insert(
            intent.id,
            View {
                process: begin.checkpoint.process,
                instant,
                checkpoint: begin.checkpoint.checkpoint,
                disks: begin
                    .disks
                    .iter()
                    .map(|disk| (disk.disk.clone(), !disk.changed_since.is_empty()))
                    .collect(),
                job: intent.job,
                way: begin.way,
            },
        );
        Ok(())
    }

    fn point_made(&mut self, intent: &Intent, store: &Store, stored: &Stored) -> Result<(), Illegal> {
        let same = stored.disks.len() == store.disks.len()
            && store.disks.iter().zip(&stored.disks).all(|(asked, got)| asked.disk == got.disk);
        if !same {
            return Err(Illegal::WrongOutcome { intent: intent.id });
        }
        let disks = store.disks.iter().zip(&stored.disks).map(|(asked, got)| PointDisk {
            disk: asked.disk.clone(),
            size_bytes: asked.size_bytes,
            mode: match &got.distrust {
                Some(distrust) => DiskMode::Full { reason: distrust.clone() },
                None => asked.mode.clone(),
            },
            changed_bytes: got.changed_bytes,
            read_bytes: got.read_bytes,
            stored_bytes: got.stored_bytes,
            audited_chunks: got.audited_chunks,
        });
        let disks: Vec<PointDisk> = disks.collect();
        let parent = disks.iter().find_map(|disk| match &disk.mode {
            DiskMode::Incremental { parent, .. } => Some(*parent),
            DiskMode::Full { .. } => None,
        });
        let point = Point {
            id: store.point,
            vm: store.vm.id,
            vm_name: store.vm.name.clone(),
            repository: store.repository.name.clone(),
            snapshot: stored.snapshot.clone(),
            created: store.instant,
            checkpoint: store.checkpoint,
            parent,
            consistency: stored.consistency,
            way: store.way,
            suspect: None,
            policy: store.policy.clone(),
            job: intent.job,
            held: false,
            disks,
            left_out: store.left_out.clone(),
        };
        self.remove_point(point.id);
        self.index.know_point(&point);
        self.points.insert(point.id, point);
        for (asked, got) in store.disks.iter().zip(&stored.disks) {
            if let Some(distrust) = &got.distrust {
                self.distrust(store, &asked.disk, distrust);
            }
        }
        self.refresh(store.vm.id);
        Ok(())
    }

    /// A disk's bitmaps have missed a change. When is unknown: every point of the disk since its last full one is in
    /// doubt, in every repository, and no bitmap older than this point's says anything any more.
    fn distrust(&mut self, store: &Store, disk: &DiskName, why: &str) {
        let reason =
            format!("{} found that {disk} had changed where its bitmap said nothing: {why}", store.point);
        for point in self.points.values_mut().rev() {
            let older = point.vm == store.vm.id && point.id < store.point;
            match point.disk(disk).map(|it| &it.mode) {
                Some(DiskMode::Incremental { .. }) if older => {
                    point.suspect.get_or_insert_with(|| reason.clone());
                }
                Some(DiskMode::Full { .. }) if older && point.repository == store.repository.name => break,
                _ => {}
            }
        }
        if let Some(vm) = self.vms.get_mut(&store.vm.id)
            && let Some(newest) =
                vm.chain.of_disk(disk).map(|(id, _)| id).take_while(|id| *id < store.checkpoint).last()
        {
            vm.chain.lose(disk, newest, &reason);
        }
    }
}
