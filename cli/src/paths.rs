//! Paths that an operator gives: made absolute here, since the server stands in another folder. Touches no file but
//! to read what a command was told to read.

use std::io::Read;
use std::path::Path;

use crate::exit::Failure;

/// The absolute path as the API's text. Symbolic links stay as they are: the server follows them.
///
/// # Errors
/// When the path is empty, or not UTF-8, which JSON cannot carry.
pub fn absolute(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let absolute =
        std::path::absolute(path).map_err(|error| Failure::usage(format!("`{shown}`: {error}")))?;
    absolute.into_os_string().into_string().map_err(|_| {
        Failure::usage(format!("`{shown}`: the path is not UTF-8; rename it, or use a link to it"))
    })
}

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(format!("there is no file {}", path.display())),
        _ => Failure::failed(format!("{} cannot be read: {error}", path.display())),
    })
}
