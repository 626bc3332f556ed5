//! Which performer an effect goes to. The one place that knows all of them.

use journal::{Effect, Intent};

use crate::task::{Answer, Task};
use crate::{hooks, machine, repositories, restore, store};

/// Performs an effect to its end.
pub(crate) async fn perform(intent: &Intent, task: &Task) -> Answer {
    let id = intent.id;
    match &intent.effect {
        Effect::Freeze(effect) => machine::freeze(id, effect, task).await,
        Effect::Thaw(effect) => machine::thaw(id, effect, task).await,
        Effect::Begin(effect) => machine::begin(id, effect, task).await,
        Effect::Store(effect) => {
            machine::explain(effect, &task.folders, store::store(id, effect, task).await).await
        }
        Effect::End(effect) => machine::end(id, effect, task).await,
        Effect::AddCheckpoint(effect) => machine::add_checkpoint(id, effect, task).await,
        Effect::DeleteCheckpoint(effect) => machine::delete_checkpoint(id, effect, task).await,
        Effect::Clean(effect) => machine::clean(id, effect, task).await,
        Effect::Offer(effect) => machine::offer(id, effect, task).await,
        Effect::OpenRepository(effect) => repositories::open_repository(id, effect, task).await,
        Effect::Forget(effect) => repositories::forget(id, effect, task).await,
        Effect::Check(effect) => repositories::check(id, effect, task).await,
        Effect::Prune(effect) => repositories::prune(id, effect, task).await,
        Effect::PruneBy(effect) => repositories::prune_by(id, effect, task).await,
        Effect::Restore(effect) => restore::restore(id, effect, task).await,
        Effect::Measure(effect) => repositories::measure(id, effect, task).await,
        Effect::Keys(effect) => repositories::keys(id, effect, task).await,
        Effect::Hook(effect) => hooks::hook(id, effect, task).await,
    }
}
