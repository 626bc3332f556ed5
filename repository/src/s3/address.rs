//! Where in an object store a repository is: endpoint, bucket and prefix, read from a URL.
//!
//! Knows no credentials: a URL that carries some is refused, since URLs are shown and recorded.

use std::fmt;

use object_store::path::Path;

/// A place in an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// `http://host:port`; none for the store that the environment names, Amazon's unless it says otherwise.
    pub(super) endpoint: Option<String>,
    pub(super) bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub(super) prefix: Path,
}

/// As restic's `-r` takes it, if there is an endpoint.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Some(endpoint) => write!(f, "s3:{endpoint}/{}", self.bucket)?,
            None => write!(f, "s3://{}", self.bucket)?,
        }
        if self.prefix.as_ref().is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl Address {
    /// Reads `http[s]://HOST[:PORT]/BUCKET[/PREFIX]` or `//BUCKET[/PREFIX]`; the error says what is wrong with it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let shape = "write http://HOST:PORT/BUCKET/PREFIX, https://HOST/BUCKET/PREFIX, or s3://BUCKET/PREFIX";
        if url.contains(['?', '#', '%']) || url.contains(char::is_whitespace) {
            return Err(format!("a URL with `?`, `#`, `%` or a space; {shape}"));
        }
        let (scheme, rest) = match url.split_once("//") {
            Some((scheme @ ("http:" | "https:" | ""), rest)) => (scheme, rest),
            _ => return Err(format!("not a URL of an object store; {shape}")),
        };
        let (endpoint, rest) = if scheme.is_empty() {
            (None, rest)
        } else {
            let (host, rest) = rest.split_once('/').unwrap_or((rest, ""));
            if host.contains('@') {
                // Not repeated: it may be a secret.
                return Err(
                    "credentials do not belong into a URL, which is shown and recorded: put them into the \
                            environment or into ~/.aws/credentials"
                        .to_owned(),
                );
            }
            if host.is_empty() {
                return Err(format!("no host; {shape}"));
            }
            (Some(format!("{scheme}//{host}")), rest)
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
        if bucket.is_empty() || !bucket.chars().all(fits) {
            return Err(format!("no bucket, or none that can be; {shape}"));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() && prefix.split('/').any(str::is_empty) {
            return Err(format!("an empty part in the prefix; {shape}"));
        }
        let prefix = Path::parse(prefix).map_err(|error| error.to_string())?;
        Ok(Self { endpoint, bucket: bucket.to_owned(), prefix })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_it_writes_and_what_restic_takes() {
        for (url, shown) in [
            ("http://10.0.0.1:9000/backups/site-a/vms", "s3:http://10.0.0.1:9000/backups/site-a/vms"),
            ("https://s3.example.org/backups/", "s3:https://s3.example.org/backups"),
            ("//backups/site-a/", "s3://backups/site-a"),
            ("//backups", "s3://backups"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(Address::parse(shown.strip_prefix("s3:").unwrap()).unwrap(), address);
        }
    }

    #[test]
    fn says_what_is_wrong_and_keeps_secrets_to_itself() {
        for (url, why) in [
            ("https://key:secret@host/bucket", "credentials do not belong"),
            ("https://host", "no bucket"),
            ("https://host/", "no bucket"),
            ("///prefix", "no bucket"),
            ("http:///bucket", "no host"),
            ("ftp://host/bucket", "not a URL of an object store"),
            ("host/bucket", "not a URL of an object store"),
            ("https://host/bucket?versioning", "`?`"),
            ("https://host/bucket//prefix", "empty"),
        ] {
            let said = Address::parse(url).unwrap_err();
            assert!(said.contains(why), "{url}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
