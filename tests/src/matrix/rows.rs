//! Which rows of the reconcile table the journal shows.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::backstay::Backstay;

/// The sequence number of the journal's last record.
#[track_caller]
pub fn last(backstay: &Backstay) -> u64 {
    log(backstay).last().and_then(|record| record["seq"].as_u64()).unwrap_or(0)
}

/// The rows that records after `seq` name. Cleaning, taking down and thawing that serve no job are effects of a row
/// whose label the record does not repeat: they are named by what they do.
#[track_caller]
pub fn since(backstay: &Backstay, seq: u64) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for record in log(backstay).iter().filter(|record| record["seq"].as_u64() > Some(seq)) {
        named(&record["body"], &mut rows);
        let intent = &record["body"]["body"]["intent"];
        let effect = intent["effect"].as_object().and_then(|effect| effect.keys().next());
        if let Some(effect) = effect.filter(|_| intent["job"].is_null()) {
            let row = match effect.as_str() {
                "Clean" => "leftover",
                "End" => "view-without-job",
                "Thaw" => "thaw-owed",
                _ => continue,
            };
            rows.insert(row.to_owned());
        }
    }
    rows
}

fn log(backstay: &Backstay) -> Vec<Value> {
    match backstay.ok(&["journal", "log"]) {
        Value::Array(records) => records,
        other => panic!("`journal log` answers no list: {other}"),
    }
}

fn named(value: &Value, rows: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(row) if key == "row" => drop(rows.insert(row.to_owned())),
                    _ => named(value, rows),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| named(value, rows)),
        _ => {}
    }
}
