//! Sizes as people read them, such as `1.5 GiB`; as they write them they are read by [`policies::size`]. Powers of two
//! throughout. Knows nothing of what is measured.

pub use policies::size::{InvalidSize, parse};

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A chunk size: bytes that fit the API's 32 bits.
///
/// # Errors
/// As [`parse`].
pub fn parse_chunk(text: &str) -> Result<u32, InvalidSize> {
    u32::try_from(parse(text)?).map_err(|_| InvalidSize::of(text))
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
    fn a_chunk_size_fits_the_api() {
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
