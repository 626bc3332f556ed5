//! From what an object store answers to what people can do about it.
//!
//! Takes code and message out of the answer and leaves the rest, which may hold parts of a signature. Knows nothing of
//! what was asked.

use std::error::Error as _;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::wire::root;
use crate::backend::BackendError;

/// The case of `error`, at `place`; `keys` says where the credentials came from.
pub(super) fn explain(place: String, keys: &str, error: &Error) -> BackendError {
    let path = place.into();
    let said = Said::in_error(error);
    let refused = |what: String| BackendError::Refused { path: std::path::PathBuf::clone(&path), what };
    match (said.code.as_str(), error) {
        ("NoSuchBucket", _) => refused("there is no such bucket; create it, or correct the URL".to_owned()),
        ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage", _) => BackendError::Full { path },
        ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken", _)
        | (_, Error::Unauthenticated { .. }) => {
            refused(format!("the credentials are not valid ({said}); they come from {keys}"))
        }
        ("RequestTimeTooSkewed", _) => refused(format!("{said}: set this machine's clock")),
        ("AuthorizationHeaderMalformed" | "PermanentRedirect", _) => {
            refused(format!("another region ({said}); set AWS_REGION to the bucket's"))
        }
        (_, Error::NotFound { .. }) => BackendError::NotFound { path },
        (_, Error::PermissionDenied { .. }) => refused(format!(
            "not permitted ({said}); the credentials, which come from {keys}, must allow to list the bucket and to get, \
             put and delete what is in it"
        )),
        _ => match connection(error) {
            Some(what) => BackendError::Unreachable { path, what },
            None if said.status >= 500 || said.status == 429 => BackendError::Unreachable {
                path,
                what: format!("the server answers {} ({said})", said.status),
            },
            None if said.status > 0 => refused(said.to_string()),
            None => BackendError::from_io(path, std::io::Error::other(root(error))),
        },
    }
}

/// Whether the range that was asked for lies behind the end.
pub(super) fn is_beyond_the_end(error: &Error) -> bool {
    Said::in_error(error).status == 416
}

/// What broke below HTTP, if that is what happened.
pub(super) fn connection(error: &Error) -> Option<String> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            let what = match http.kind() {
                HttpErrorKind::Connect => "no connection",
                HttpErrorKind::Timeout => "no answer in time",
                _ => "the connection broke",
            };
            return Some(format!("{what} ({})", root(http)));
        }
        next = error.source();
    }
    None
}

/// What the server said.
#[derive(Debug, Default)]
struct Said {
    /// The HTTP status; 0 when there was no answer.
    status: u16,
    /// S3's code, such as `NoSuchBucket`; empty when it gave none.
    code: String,
    message: String,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code.as_str(), self.message.as_str()) {
            ("", _) if self.status == 0 => f.write_str("without a reason"),
            ("", _) => write!(f, "status {}", self.status),
            (code, "") => f.write_str(code),
            (code, message) => write!(f, "{code}: {}", message.trim_end_matches('.')),
        }
    }
}

impl Said {
    /// `object_store` keeps status and answer in an error that only shows itself as text.
    fn in_error(error: &Error) -> Self {
        let mut said = Self::default();
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            if let Some((_, rest)) = text.split_once("status code: ") {
                said.status = rest.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
            }
            let element = |name: &str| {
                let (_, rest) = text.split_once(&format!("<{name}>"))?;
                Some(rest.split_once('<')?.0.to_owned())
            };
            said.code = element("Code").unwrap_or(said.code);
            said.message = element("Message").unwrap_or(said.message);
            next = error.source();
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_message_are_shown_and_nothing_else_of_the_answer() {
        let answer = "Error performing GET http://h/b/config in 2ms - Server returned non-2xx status code: 403 Forbidden: \
                      <Error><Code>SignatureDoesNotMatch</Code><Message>No match.</Message>\
                      <StringToSign>hush</StringToSign></Error>";
        let error = Error::PermissionDenied { path: "config".to_owned(), source: answer.into() };
        let shown = explain("s3:http://h/b/config".to_owned(), "the environment", &error);
        assert_eq!(
            shown.to_string(),
            "s3:http://h/b/config: the credentials are not valid (SignatureDoesNotMatch: No match); they come from the \
             environment"
        );
        let busy = "Server returned non-2xx status code: 503 Service Unavailable: <Code>SlowDown</Code>";
        let busy = Error::Generic { store: "S3", source: busy.into() };
        assert!(matches!(explain(String::new(), "", &busy), BackendError::Unreachable { .. }));
    }
}
