//! Go's quoting of strings (`strconv.Quote` without the outer quotes), which restic applies to the names in trees.
//!
//! Knows nothing of trees.

use std::fmt::Write as _;

/// As Go writes it, except that every printable-or-not character beyond ASCII stands as it is, which Go reads.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(character));
            }
            other => quoted.push(other),
        }
    }
    quoted
}

/// Reads what Go writes; `None` when it is no quoted string. Bytes that are no UTF-8 become U+FFFD.
pub(crate) fn unquote(quoted: &str) -> Option<String> {
    if !quoted.contains('\\') {
        return Some(quoted.to_owned());
    }
    let mut bytes = Vec::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match rest.next()? {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            same @ ('\\' | '"' | '\'') => bytes.extend_from_slice(same.encode_utf8(&mut [0; 4]).as_bytes()),
            'x' => bytes.push(u8::try_from(digits(&mut rest, 2, 16, 0)?).ok()?),
            'u' => push_character(&mut bytes, digits(&mut rest, 4, 16, 0)?)?,
            'U' => push_character(&mut bytes, digits(&mut rest, 8, 16, 0)?)?,
            first @ '0'..='7' => bytes.push(u8::try_from(digits(&mut rest, 2, 8, first.to_digit(8)?)?).ok()?),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn digits(rest: &mut std::str::Chars<'_>, count: u32, radix: u32, start: u32) -> Option<u32> {
    let mut value = start;
    for _ in 0..count {
        value = value.checked_mul(radix)?.checked_add(rest.next()?.to_digit(radix)?)?;
    }
    Some(value)
}

fn push_character(bytes: &mut Vec<u8>, code: u32) -> Option<()> {
    let character = char::from_u32(code)?;
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(text in any::<String>()) {
            prop_assert_eq!(unquote(&quote(&text)), Some(text));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), tail in "[\\\\xuU0-9a-f]{0,12}") {
            let _ = unquote(&format!("{text}{tail}"));
        }
    }

    #[test]
    fn reads_every_escape_of_go() {
        assert_eq!(
            unquote(r#"\a\b\f\n\r\t\v\\\"\x41\101é\u00e9\U0001f600"#).as_deref(),
            Some("\u{7}\u{8}\u{c}\n\r\t\u{b}\\\"AAéé😀")
        );
        assert_eq!(unquote(r"\xff").as_deref(), Some("\u{fffd}"));
        assert_eq!(unquote(r"\q"), None);
        assert_eq!(unquote(r"\x4"), None);
    }
}
