//! From the name of a place to the storage there: a folder's path, or `s3:` and a URL.
//!
//! The one function that knows every kind of storage. Knows nothing of what is kept there.

use std::sync::Arc;

use crate::backend::{Backend, BackendError};
use crate::local::Local;
use crate::pace::{Pace, Rate};
use crate::paced::Paced;
use crate::s3::{S3, S3Options};

/// The storage at `location`: an absolute path, or `s3:http[s]://HOST[:PORT]/BUCKET[/PREFIX]` as restic spells it, or
/// `s3://BUCKET[/PREFIX]` for Amazon's own; bytes go no faster than `rates` say. Touches nothing of what is kept there.
///
/// # Errors
/// [`BackendError::Refused`] when the URL makes no sense, or no credentials are found for it.
pub fn backend_at(location: &str, rates: &[Rate]) -> Result<Arc<dyn Backend>, BackendError> {
    let folder = Local::new(location);
    Ok(match location.strip_prefix("s3:") {
        Some(url) => Arc::new(S3::at(url, &S3Options { rates: rates.to_vec(), ..S3Options::default() })?),
        None if rates.is_empty() => Arc::new(folder),
        None => Arc::new(Paced::new(folder, Pace::of(rates))),
    })
}
