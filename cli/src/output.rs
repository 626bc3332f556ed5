//! What a command says: text for people or one JSON document on standard output, and failures on standard error.
//!
//! Owns both streams' forms. Knows nothing of what is said, nor of progress.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;
use serde_json::json;

use crate::exit::Failure;
use crate::table::clean;

/// Where a command's answer goes.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Text, or JSON.
    #[must_use]
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    /// Whether JSON was asked for.
    #[must_use]
    pub fn json(self) -> bool {
        self.json
    }

    /// The whole answer, as a document or as text.
    ///
    /// # Errors
    /// When standard output takes no more.
    pub fn show<T: Serialize>(self, document: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json {
            let document = serde_json::to_string_pretty(document).map_err(|error| unwritable(&error))?;
            print(&format!("{document}\n"))
        } else {
            print(&text())
        }
    }

    /// A failure: its message on standard error, and with JSON its document on standard output.
    pub fn failure(self, failure: &Failure) {
        let Failure::Because { status, message } = failure else { return };
        if self.json {
            // The failure is told on standard error too, so a document that cannot be written is not the last word.
            let error = json!({ "error": { "code": status.word(), "message": message } });
            let _reader_gone = print(&format!("{error:#}\n"));
        }
        let _no_terminal = writeln!(io::stderr(), "backstay: {}", message.trim_end());
    }

    /// A remark beside the answer, for people only.
    pub fn remark(self, text: &str) {
        if !self.json {
            let _no_terminal = writeln!(io::stderr(), "{}", clean(text));
        }
    }

    /// An answer that comes piece by piece.
    #[must_use]
    pub fn pieces(self, endless: bool) -> Pieces {
        let form = match (self.json, endless) {
            (false, _) => Form::Text,
            (true, false) => Form::Array { begun: false },
            (true, true) => Form::Lines,
        };
        Pieces { form }
    }
}

/// An answer too long to be held: lines for people; one JSON array, or one document a line where it has no end.
///
/// After a failure the array stays open, so that nobody takes a part for the whole.
#[derive(Debug)]
pub struct Pieces {
    form: Form,
}

#[derive(Debug)]
enum Form {
    Text,
    Array { begun: bool },
    Lines,
}

impl Pieces {
    /// The next pieces.
    ///
    /// # Errors
    /// When standard output takes no more.
    pub fn add<T: Serialize>(&mut self, pieces: &[T], text: impl Fn(&T) -> String) -> Result<(), Failure> {
        let mut out = String::new();
        for piece in pieces {
            let document = || serde_json::to_string(piece).map_err(|error| unwritable(&error));
            match &mut self.form {
                Form::Text => out.push_str(&clean(&text(piece))),
                Form::Lines => out.push_str(&document()?),
                Form::Array { begun } => {
                    out.push_str(if *begun { ",\n" } else { "[" });
                    *begun = true;
                    out.push_str(&document()?);
                    continue;
                }
            }
            out.push('\n');
        }
        print(&out)
    }

    /// That was all.
    ///
    /// # Errors
    /// When standard output takes no more.
    pub fn end(self) -> Result<(), Failure> {
        match self.form {
            Form::Array { begun: true } => print("]\n"),
            Form::Array { begun: false } => print("[]\n"),
            Form::Text | Form::Lines => Ok(()),
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::NobodyReads),
        Err(error) => {
            Err(Failure::failed(format!("the answer could not be written to standard output: {error}")))
        }
    }
}

fn unwritable(error: &serde_json::Error) -> Failure {
    Failure::failed(format!("the answer could not be written as JSON: {error}"))
}
