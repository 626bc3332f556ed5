//! `backstay repo limit`: how fast bytes may go to and from a repository.

use orchestrator::api::view::{RateView, Submitted};
use serde_json::json;

use crate::exit::{Ending, Status};
use crate::session::Session;
use crate::size;

/// Runs it.
///
/// # Errors
/// As the server refuses it, or its job fails.
pub async fn run(name: &str, limits: &[RateView], session: &Session) -> Ending {
    let client = session.client()?;
    let submitted: Submitted = client.submit(&["repositories", name, "limits"], &limits).await?;
    let job = session.insist(&client, &submitted).await?;
    session.output.show(
        &json!({ "repository": name, "limits": limits, "job": job.id }),
        || match limits {
            [] => format!("{name}: no limit\n"),
            limits => limits.iter().map(|limit| format!("{name}: {}\n", show(limit))).collect(),
        },
    )?;
    Ok(Status::Done)
}

fn show(limit: &RateView) -> String {
    let rate = size::show(limit.bytes_per_second);
    let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    if limit.from_minute == limit.to_minute {
        return format!("{rate} a second");
    }
    format!("{rate} a second from {} to {}", clock(limit.from_minute), clock(limit.to_minute))
}

/// `10M`, or `08:00-18:00=10M`.
pub fn parse(text: &str) -> Result<RateView, String> {
    let (hours, rate) = match text.split_once('=') {
        Some((hours, rate)) => (Some(hours), rate),
        None => (None, text),
    };
    let bytes_per_second = size::parse(rate).map_err(|error| error.to_string())?;
    let (from_minute, to_minute) = match hours {
        None => (0, 0),
        Some(hours) => {
            let shape = || format!("`{hours}`: write FROM-TO, such as 08:00-18:00");
            let (from, to) = hours.split_once('-').ok_or_else(shape)?;
            (minute(from).ok_or_else(shape)?, minute(to).ok_or_else(shape)?)
        }
    };
    Ok(RateView { from_minute, to_minute, bytes_per_second })
}

/// The minute of the day of `08:00`; `24:00` is midnight.
fn minute(time: &str) -> Option<u16> {
    let (hour, minute) = time.split_once(':')?;
    let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
    match (hour, minute) {
        (0..24, 0..60) => Some(hour * 60 + minute),
        (24, 0) => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits_are_read_with_and_without_hours() {
        let read = |text| {
            let RateView { from_minute, to_minute, bytes_per_second } = parse(text).unwrap();
            (from_minute, to_minute, bytes_per_second)
        };
        assert_eq!(read("10M"), (0, 0, 10 << 20));
        assert_eq!(read("08:00-18:30=512K"), (480, 1110, 512 << 10));
        assert_eq!(read("22:00-24:00=1M"), (1320, 0, 1 << 20));
        for wrong in ["", "8-18=1M", "25:00-26:00=1M", "08:60-09:00=1M", "08:00=1M", "08:00-09:00="] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show(&parse("08:00-18:30=512K").unwrap()), "512 KiB a second from 08:00 to 18:30");
    }
}
