//! Every row of the reconcile table, reached on a real QEMU: one test each, named as the row, and one that holds the
//! list against `docs/recovery.md`. A row is seen in the journal where its verdict is recorded, else in `doctor --json`.

mod chain;
mod devices;
mod leftovers;
mod open;
mod scene;
mod views;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tests::lab::require_qemu;

/// Makes a test of each scenario, and the list of their labels.
macro_rules! rows {
    ($($name:ident: $scenario:path,)*) => {
        /// The rows that are reached below.
        const REACHED: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                if require_qemu() {
                    $scenario();
                }
            }
        )*
    };
}

rows! {
    open_same_process: open::same_process,
    open_new_process_there: open::new_process_there,
    open_new_process_not_there: open::new_process_not_there,
    open_elsewhere: open::elsewhere,
    open_freeze: open::freeze,
    open_freeze_new_process: open::freeze_new_process,
    view_up: views::up,
    view_broken: views::broken,
    view_new_process: views::new_process,
    view_without_job: views::without_job,
    thaw_owed: views::thaw_owed,
    tracked: chain::tracked,
    tracked_twice: chain::tracked_twice,
    inconsistent: chain::inconsistent,
    not_recording: chain::not_recording,
    missing_same_process: chain::missing_same_process,
    missing_new_process: chain::missing_new_process,
    outside_snapshot: chain::outside_snapshot,
    image_moved: chain::image_moved,
    backing_changed: chain::backing_changed,
    disk_away: chain::disk_away,
    leftover: leftovers::leftover,
    leftover_stuck: leftovers::stuck,
    foreign: leftovers::foreign,
    point_gone: leftovers::point_gone,
}

#[test]
fn every_row_of_the_documented_table_is_reached() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recovery.md");
    let page = fs::read_to_string(page).expect("the table is documented");
    let documented: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(label, _)| label.to_owned())
        .collect();
    let reached: BTreeSet<String> = REACHED.iter().map(|name| name.replace('_', "-")).collect();
    assert!(documented == reached, "documented {documented:?}, reached {reached:?}");
}
