//! What an operator sets for all VMs: what a view may cost a guest, how much a bitmap is doubted, how long a chain may be, how
//! much runs at once.

use journal::effect::ViewLimits;

use super::way::Unprotected;

/// The limits that decisions keep to. They belong to this life of the orchestrator: what was decided under them is in
/// the journal, they themselves are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What a view may cost.
    pub view: ViewLimits,
    /// What becomes of a view that scratch storage which hangs could hold the guest up with.
    pub unprotected: Unprotected,
    /// How many chunks of each incremental disk that its bitmap calls clean are compared nevertheless.
    pub audit_chunks: u32,
    /// How many checkpoints a VM may have.
    pub checkpoints: usize,
    /// How many jobs run at once.
    pub jobs: usize,
    /// How many of them in one repository.
    pub jobs_per_repository: usize,
    /// How many of them on one host: those of its VMs.
    pub jobs_per_host: usize,
    /// How old a VM's newest good restore point may be before somebody is notified, in microseconds.
    pub good_point_within: Option<i64>,
}

impl Default for Limits {
    fn default() -> Self {
        // A scratch file may fill what the agent leaves free on its file system in any case; a guest's own timeout for a
        // disk is 30 seconds and more.
        let view = ViewLimits { scratch_bytes: u64::MAX, stall_ms: 5_000 };
        Self {
            view,
            unprotected: Unprotected::Take,
            audit_chunks: 8,
            checkpoints: 32,
            jobs: 4,
            jobs_per_repository: usize::MAX,
            jobs_per_host: usize::MAX,
            good_point_within: None,
        }
    }
}
