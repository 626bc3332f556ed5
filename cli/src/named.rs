//! What is named on the command line and is there already, or not: that is for the server to say.

/// The name of something, as it goes into an address of the API.
///
/// # Errors
/// When it cannot stand in one: empty, `.` and `..` would be another address (RFC 3986, 5.2.4).
pub fn named(text: &str) -> Result<String, &'static str> {
    match text {
        "" | "." | ".." => Err("that is nothing's name"),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn no_name_is_another_address() {
        assert_eq!(named("p12").as_deref(), Ok("p12"));
        for bad in ["", ".", ".."] {
            assert!(named(bad).is_err(), "{bad}");
        }
    }
}
