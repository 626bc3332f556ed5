//! How fast a store may add to its repository: the limits of its policy, as they were when the store was decided. So a repeat
//! after a crash has the same, whatever the policy says by then.
//!
//! These types are part of the journal's format: see [`record`](crate::record) for how they may change.

use serde::{Deserialize, Serialize};

use super::Rate;

/// Limits by the hour and weekday of one clock. Of those that hold at once the lowest counts; where none holds there is no
/// limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Whose clock says which hour it is: a time zone's IANA name.
    pub time_zone: String,
    /// The limits.
    pub limits: Vec<Limit>,
}

/// A rate on some days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The weekdays on which it begins to hold, bit 0 for Sunday.
    pub days: u8,
    /// How fast, and at which hours of that clock.
    pub rate: Rate,
}
