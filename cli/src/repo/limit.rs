//! `backstay repo limit`: how fast bytes may go to and from a repository.

use orchestrator::api::view::{RateView, Submitted};
use policies::bandwidth::Limit;
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

/// `10M`, or `08:00-18:00=10M`: as a policy's `bandwidth`, but for the weekdays.
pub fn parse(text: &str) -> Result<RateView, String> {
    let limit = Limit::parse(text).map_err(|error| error.to_string())?;
    let Limit { days, from_minute, to_minute, bytes_per_second, .. } = limit;
    if days != Limit::EVERY_DAY {
        return Err(format!(
            "`{text}`: a repository's limit holds on every day; a policy's `bandwidth` may name days"
        ));
    }
    Ok(RateView { from_minute, to_minute, bytes_per_second })
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
        for wrong in [
            "",
            "8-18=1M",
            "25:00-26:00=1M",
            "08:60-09:00=1M",
            "08:00=1M",
            "08:00-09:00=",
            "mon 08:00-09:00=1M",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show(&parse("08:00-18:30=512K").unwrap()), "512 KiB a second from 08:00 to 18:30");
    }
}
