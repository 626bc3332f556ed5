//! Sizes as people write and read them: `64K`, `1.5 GiB`. Powers of two throughout. Knows nothing of what is measured.

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a size: write bytes, or a number with K, M, G or T (1024 each), such as `1M` or `512KiB`"
)]
pub struct InvalidSize(String);

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Bytes, from `1048576`, `1024K`, `1M` or `1MiB`.
///
/// # Errors
/// When it is none, or over 2^64.
pub fn parse(text: &str) -> Result<u64, InvalidSize> {
    let invalid = || InvalidSize(text.to_owned());
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let power: u32 = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(invalid()),
    };
    number.checked_mul(1024_u64.pow(power)).ok_or_else(invalid)
}

/// A chunk size: bytes that fit the API's 32 bits.
///
/// # Errors
/// As [`parse`].
pub fn parse_chunk(text: &str) -> Result<u32, InvalidSize> {
    u32::try_from(parse(text)?).map_err(|_| InvalidSize(text.to_owned()))
}

/// For people: three digits that matter, such as `1.46 GiB`; whole numbers without a fraction.
#[must_use]
pub fn show(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Hundredths of the unit, in integers: no rounding surprises at the borders.
    let mut unit = 0;
    let mut hundredths = u128::from(bytes) * 100 / 1024;
    while hundredths >= 1024 * 100 && unit + 1 < UNITS.len() {
        hundredths /= 1024;
        unit += 1;
    }
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match (whole, rest) {
        (_, 0) | (100.., _) => format!("{whole} {}", UNITS[unit]),
        (10.., _) => format!("{whole}.{} {}", rest / 10, UNITS[unit]),
        _ => format!("{whole}.{rest:02} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_read_in_every_usual_spelling() {
        for text in ["1048576", "1024k", "1024 KiB", "1M", "1MiB", "1mb"] {
            assert_eq!(parse(text).unwrap(), 1 << 20, "{text}");
        }
        for text in ["", "M", "1.5M", "-1", "1X", "18446744073709551616", "99999999999T"] {
            assert!(parse(text).unwrap_err().to_string().contains("is not a size"), "{text}");
        }
        assert_eq!(parse_chunk("4M").unwrap(), 4 << 20);
        assert!(parse_chunk("4G").is_err());
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        let shown: Vec<String> =
            [0, 1023, 1024, 1536, 10 << 20, (1 << 20) * 1500, 64 << 30, u64::MAX].map(show).into();
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "1.50 KiB", "10 MiB", "1.46 GiB", "64 GiB", "15.9 EiB"]);
    }
}
