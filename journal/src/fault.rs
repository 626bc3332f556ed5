//! Crash points: places where a test asks this process to die as if by `kill -9`.
//!
//! `BACKSTAY_CRASH_AT=<point>:<n>` kills this process at the n-th passage (from 1) of that point, and `BACKSTAY_STOP_AT`
//! stops it there, for a test that harms something else in that very instant. `BACKSTAY_PASSED=<file>` appends the name
//! of each point passed, a line each, for a test that counts them. Compiled to nothing in a release build. Knows nothing
//! about what happens around a point.

/// Passes a crash point, and does not come back when a test has asked for a crash at this passage.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::pass(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::fs::File;
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// What is to happen where.
    struct Plan {
        point: String,
        passages_left: AtomicU64,
        signal: Signal,
    }

    fn plan() -> Option<&'static Plan> {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        PLAN.get_or_init(|| {
            // SIGKILL, not abort: no destructor, no flush, no core file.
            read("BACKSTAY_CRASH_AT", Signal::KILL).or_else(|| read("BACKSTAY_STOP_AT", Signal::STOP))
        })
        .as_ref()
    }

    fn read(variable: &str, signal: Signal) -> Option<Plan> {
        let text = std::env::var(variable).ok()?;
        let (point, passage) = text.split_once(':')?;
        let passages_left = AtomicU64::new(passage.parse().ok()?);
        Some(Plan { point: point.to_owned(), passages_left, signal })
    }

    pub(super) fn pass(name: &str) {
        note(name);
        let Some(plan) = plan().filter(|plan| plan.point == name) else { return };
        if plan.passages_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = kill_process(getpid(), plan.signal);
            while plan.signal == Signal::STOP && stop_is_pending() {}
        }
    }

    /// Whether the signal is still on its way. The kernel gives it to any thread, and stops the others once that one has
    /// taken it: until then this one must not go on.
    fn stop_is_pending() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let stop = 1 << (Signal::STOP.as_raw() - 1);
        pending.is_some_and(|mask| mask & stop != 0)
    }

    fn note(name: &str) {
        static PASSED: OnceLock<Option<File>> = OnceLock::new();
        let file = PASSED.get_or_init(|| {
            let path = std::env::var_os("BACKSTAY_PASSED")?;
            File::options().create(true).append(true).open(path).ok()
        });
        if let Some(mut file) = file.as_ref() {
            // One write, so that two threads' lines do not mix.
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
    }
}
