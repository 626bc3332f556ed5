//! `backstay repo stats`: how much is in a repository, and whose it is.

use journal::Done;
use journal::outcome::Measured;
use orchestrator::api::view::Submitted;
use serde_json::{Value, json};

use crate::exit::{Ending, Failure, Status};
use crate::follow;
use crate::session::Session;
use crate::size;
use crate::table::{Table, fields};

/// Runs it.
///
/// # Errors
/// As the server refuses it, or its job fails.
pub async fn run(name: &str, session: &Session) -> Ending {
    let client = session.client()?;
    let submitted: Submitted = client.post(&["repositories", name, "stats"], &[]).await?;
    let job = session.insist(&client, &submitted).await?;
    let measured = follow::brought(&job, "measure").into_iter().find_map(|done| match done {
        Done::Measured(measured) => Some(measured),
        _ => None,
    });
    let measured = measured.ok_or_else(|| Failure::failed("the count ended without saying what it found"))?;
    session.output.show(&document(name, &measured), || text(name, &measured))?;
    Ok(Status::Done)
}

/// How many times as much the first is; 1 where there is nothing.
#[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 1.0 } else { (of as f64 / to as f64 * 100.0).round() / 100.0 }
}

fn document(name: &str, all: &Measured) -> Value {
    let vms: Vec<Value> = all.vms.iter().map(|vm| json!(vm)).collect();
    json!({
        "repository": name,
        "points": all.points,
        "stored_bytes": all.stored_bytes,
        "used_bytes": all.used_bytes,
        "unused_bytes": all.stored_bytes.saturating_sub(all.used_bytes),
        "plain_bytes": all.plain_bytes,
        "restore_bytes": all.restore_bytes,
        "dedup_ratio": ratio(all.restore_bytes, all.plain_bytes),
        "compression_ratio": ratio(all.plain_bytes, all.used_bytes),
        "vms": vms,
    })
}

fn text(name: &str, all: &Measured) -> String {
    let unused = all.stored_bytes.saturating_sub(all.used_bytes);
    let head = fields(&[
        ("repository", name.to_owned()),
        ("restore points", all.points.to_string()),
        ("stored", size::show(all.stored_bytes)),
        (
            "needed",
            format!("{}; a prune would free at most {}", size::show(all.used_bytes), size::show(unused)),
        ),
        ("deduplication", format!("{:.2}", ratio(all.restore_bytes, all.plain_bytes))),
        ("compression", format!("{:.2}", ratio(all.plain_bytes, all.used_bytes))),
    ]);
    let mut table = Table::new(&["vm", ">points", ">to restore", ">stored", ">its own"]);
    for vm in &all.vms {
        let sizes = [vm.restore_bytes, vm.used_bytes, vm.own_bytes].map(size::show);
        table.row([vm.vm.clone(), vm.points.to_string()].into_iter().chain(sizes));
    }
    format!("{head}\n{}", table.render("no restore points"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_what_is_there() {
        assert_eq!([ratio(300, 200), ratio(1, 3), ratio(5, 0)], [1.5, 0.33, 1.0]);
    }
}
