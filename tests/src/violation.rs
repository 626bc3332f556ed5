//! What does not hold panics. Whoever walks on after that catches it here, and keeps what lies there for who looks into it.

use std::any::Any;
use std::cell::RefCell;
use std::fs;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::lab::tool;
use crate::stage::Stage;

thread_local! {
    /// Where this thread's last panic was and what it said.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on a panic prints nothing, and [`attempt`] knows what it said.
pub fn catch() {
    panic::set_hook(Box::new(|info| LAST_PANIC.with_borrow_mut(|last| *last = info.to_string())));
}

/// Does it, or answers how it went wrong.
///
/// # Errors
/// Where the panic was and what it said.
pub fn attempt<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(what))
        .map_err(|_: Box<dyn Any + Send>| LAST_PANIC.with_borrow(String::clone))
}

/// Keeps the folder of a stage's server in `to`, as it is, and gives the stage up.
pub fn keep(mut stage: Box<dyn Stage>, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let _ = fs::create_dir_all(to);
    let server = stage.server();
    server.kill();
    let _ = tool("cp").arg("-a").arg(server.data()).arg(to).status();
    println!("  kept in {}", to.display());
    // Its log may hold what nobody expected: of a stage that is given up that says nothing new.
    let _ = attempt(|| drop(stage));
}
