//! Sizes as people write them: `64K`, `1M`, `512KiB`. Powers of two throughout. Knows nothing of what is measured.

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a size: write bytes, or a number with K, M, G or T (1024 each), such as `1M` or `512KiB`"
)]
pub struct InvalidSize(String);

impl InvalidSize {
    /// That this text is none, for whoever knows more of what it should be.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

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
    }
}
