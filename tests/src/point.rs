//! Restore points as `backstay point show --json` tells them, and what a test expects of one.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::backstay::Backstay;

/// A restore point.
#[derive(Debug, Clone, Deserialize)]
pub struct Point {
    /// `p12`.
    pub id: String,
    /// Its instant.
    pub created: DateTime<Utc>,
    /// Whose it is.
    pub vm: Option<String>,
    /// The restic snapshot.
    pub snapshot: String,
    /// The checkpoint of its instant, `c7`.
    pub checkpoint: String,
    /// The point that what did not change came from.
    pub parent: Option<String>,
    /// In the VM's order.
    pub disks: Vec<PointDisk>,
}

/// One disk of it.
#[derive(Debug, Clone, Deserialize)]
pub struct PointDisk {
    /// Its name.
    pub name: String,
    /// `full` or `incremental`.
    pub mode: String,
    /// Why it was full.
    pub reason: Option<String>,
    /// Bytes that were read.
    pub read_bytes: u64,
}

impl Point {
    /// `backstay backup vm --wait`, which must be done; `more` are further arguments.
    #[track_caller]
    pub fn back_up(backstay: &Backstay, more: &[&str]) -> Point {
        let answer = backstay.ok(&[&["backup", "vm", "--wait"], more].concat());
        let point = answer["jobs"][0]["point"].as_str().unwrap_or_else(|| panic!("no point: {answer}"));
        Point::show(backstay, point)
    }

    /// The point of this id.
    #[track_caller]
    pub fn show(backstay: &Backstay, id: &str) -> Point {
        Point::read(backstay.ok(&["point", "show", id]))
    }

    /// All points, oldest first.
    #[track_caller]
    pub fn list(backstay: &Backstay) -> Vec<Point> {
        let Value::Array(points) = backstay.ok(&["point", "list"]) else { panic!("no list of points") };
        let mut points: Vec<Point> = points.into_iter().map(Point::read).collect();
        points.sort_by_key(|point| point.id[1..].parse::<u64>().expect("p and a number"));
        points
    }

    #[track_caller]
    fn read(value: Value) -> Point {
        let shown = value.to_string();
        serde_json::from_value(value).unwrap_or_else(|error| panic!("{error}: {shown}"))
    }

    /// Every disk was read incrementally.
    #[track_caller]
    pub fn must_be_incremental(&self) {
        assert!(
            self.disks.iter().all(|disk| disk.mode == "incremental" && disk.reason.is_none()),
            "not incremental: {self:?}"
        );
    }

    /// Every disk was read whole, and the reason says one of `because`.
    #[track_caller]
    pub fn must_be_full(&self, because: &[&str]) {
        for disk in &self.disks {
            disk.must_be_full(because);
        }
    }
}

impl PointDisk {
    /// It was read whole, and the reason says one of `because`.
    #[track_caller]
    pub fn must_be_full(&self, because: &[&str]) {
        let reason = self.reason.as_deref().unwrap_or_default();
        let said = because.iter().any(|words| reason.contains(words));
        assert!(self.mode == "full" && said, "not full because of {because:?}: {self:?}");
    }
}
