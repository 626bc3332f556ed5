//! JSON lines in: bounded framing, and what a line means. Knows no sockets and no commands.

use super::error::{Fate, QmpError};
use serde_json::Value;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Why no more lines come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// End of file or a failed read or write, in words.
    Closed(String),
    /// Not what QMP says.
    Protocol(String),
    /// More bytes than the limit, which is given.
    TooLong(usize),
}

impl End {
    /// The error for whoever waited for an answer to `during`.
    pub(super) fn error(self, path: &Path, during: &str, fate: Fate) -> QmpError {
        let (path, during) = (path.to_path_buf(), during.to_owned());
        match (self, fate) {
            (Self::Closed(why), _) => QmpError::Closed { path, during, why, fate },
            (Self::Protocol(why), Fate::NotSent) => QmpError::Closed { path, during, why, fate },
            (Self::Protocol(what), _) => QmpError::Protocol { path, what },
            (Self::TooLong(limit), _) => QmpError::TooLong { path, during, limit },
        }
    }
}

/// One line, by its meaning.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// What follows `QMP` in the first line.
    Greeting(Value),
    /// The answer to the command of this id; the guest agent of older systems echoes none.
    Return { id: Option<u64>, value: Value },
    /// The refusal of the command of this id.
    Error { id: Option<u64>, class: String, desc: String },
    /// Something that happened.
    Event { name: String, data: Value, seconds: i64, microseconds: i64 },
}

impl Message {
    /// The kind in words, for messages about what was not expected.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Greeting(_) => "a greeting",
            Self::Return { .. } => "an answer",
            Self::Error { .. } => "a refusal",
            Self::Event { .. } => "an event",
        }
    }

    /// Reads one line (docs/interop/qmp-spec in QEMU).
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let value: Value =
            serde_json::from_slice(line).map_err(|error| format!("a line is not JSON: {error}"))?;
        let Value::Object(mut members) = value else { return Err("a line is not a JSON object".into()) };
        let id = members.get("id").and_then(Value::as_u64);
        if let Some(value) = members.remove("return") {
            return Ok(Self::Return { id, value });
        }
        if let Some(error) = members.get("error") {
            let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or("(not said)").to_owned();
            return Ok(Self::Error { id, class: text("class"), desc: text("desc") });
        }
        if let Some(Value::String(name)) = members.remove("event") {
            let time = |key: &str| members.get("timestamp")?.get(key)?.as_i64();
            let (seconds, microseconds) = (time("seconds").unwrap_or(0), time("microseconds").unwrap_or(0));
            let data = members.remove("data").unwrap_or(Value::Null);
            return Ok(Self::Event { name, data, seconds, microseconds });
        }
        match members.remove("QMP") {
            Some(greeting) => Ok(Self::Greeting(greeting)),
            None => Err("a line is neither greeting, answer, refusal nor event".into()),
        }
    }
}

/// Takes lines from a stream and never holds more than the limit.
#[derive(Debug)]
pub(super) struct LineReader<R> {
    source: BufReader<R>,
    line: Vec<u8>,
    limit: usize,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(super) fn new(source: R, limit: usize) -> Self {
        Self { source: BufReader::with_capacity(64 << 10, source), line: Vec::new(), limit }
    }

    /// The next message. Blank lines are skipped.
    pub(super) async fn next(&mut self) -> Result<Message, End> {
        loop {
            self.fill(b'\n').await?;
            let text = self.line.trim_ascii();
            if !text.is_empty() {
                return Message::parse(text).map_err(End::Protocol);
            }
        }
    }

    /// Throws away everything up to and with `byte`; at most the limit of a line.
    pub(super) async fn skip_past(&mut self, byte: u8) -> Result<(), End> {
        self.fill(byte).await
    }

    /// Reads up to and with `delimiter` into `self.line`, which afterwards holds what stood before it.
    async fn fill(&mut self, delimiter: u8) -> Result<(), End> {
        self.line.clear();
        loop {
            let buffered = self.source.fill_buf().await.map_err(|error| End::Closed(error.to_string()))?;
            if buffered.is_empty() {
                return Err(End::Closed("end of file".into()));
            }
            let found = buffered.iter().position(|byte| *byte == delimiter);
            let part = &buffered[..found.unwrap_or(buffered.len())];
            if self.line.len() + part.len() > self.limit {
                return Err(End::TooLong(self.limit));
            }
            self.line.extend_from_slice(part);
            let used = found.map_or(part.len(), |at| at + 1);
            self.source.consume(used);
            if found.is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
