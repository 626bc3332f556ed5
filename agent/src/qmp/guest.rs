//! The QEMU guest agent: the same lines as QMP, no greeting, and inside the guest, hence never to be trusted to
//! answer. Owns the handshake that recovers the line after a lost answer, and freezing and thawing.
//!
//! The agent does one thing at a time and older ones echo no id, so an answer belongs to the last command only
//! as long as none was ever given up. After a limit has passed the next call first sends
//! `guest-sync-delimited`, whose answer is marked by a 0xFF byte: everything before that is an answer that came
//! too late (qga/qapi-schema.json).

use super::error::{Fate, QmpError};
use super::line::{End, LineReader, Message};
use super::{Limits, dial, seam};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Resets the agent's parser, and marks the answer to a synchronisation.
const MARK: u8 = 0xff;

/// A connection to one guest agent socket.
#[derive(Debug)]
pub struct GuestAgent {
    path: PathBuf,
    lines: LineReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    limits: Limits,
    /// Whether the next line that comes answers the next command that goes.
    in_step: bool,
    syncs: u64,
}

impl GuestAgent {
    /// Connects and makes sure, within `limits.greeting`, that an agent answers.
    ///
    /// # Errors
    /// [`QmpError::NotThere`], [`QmpError::Refused`], and [`QmpError::NoAgent`] where nobody answers: no
    /// agent runs in the guest, or another client holds the socket.
    pub async fn connect(path: impl AsRef<Path>, limits: Limits) -> Result<Self, QmpError> {
        let path = path.as_ref();
        let handshake = async {
            let (reader, writer) = dial(path).await?.into_split();
            let lines = LineReader::new(reader, limits.line);
            let mut agent = Self { path: path.into(), lines, writer, limits, in_step: false, syncs: 0 };
            agent.synchronise().await.map(|()| agent)
        };
        match tokio::time::timeout(limits.greeting, handshake).await {
            Ok(connected) => connected,
            Err(_) => Err(QmpError::NoAgent { path: path.into(), after: limits.greeting }),
        }
    }

    /// Runs one command within `limit`. Once the limit has passed the connection stays usable, and what
    /// became of the command is unknown.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let mut fate = Fate::NotSent;
        let exchange = async {
            if !self.in_step {
                self.synchronise().await?;
            }
            seam();
            fate = Fate::Unknown;
            // Out of step until the answer is here, whichever way this future ends.
            self.in_step = false;
            self.send(command, arguments, false).await?;
            let message = self.lines.next().await;
            seam();
            let answer = self.understand(command, message)?;
            self.in_step = true;
            Ok(answer)
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(refusal))) => Err(refusal),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(QmpError::Timeout {
                path: self.path.clone(),
                command: command.into(),
                after: limit,
                fate,
            }),
        }
    }

    /// Freezes the guest's file systems; answers how many. Whatever this returns, a thaw is owed: a freeze
    /// whose answer was lost may have happened.
    ///
    /// # Errors
    /// As [`GuestAgent::execute`].
    pub async fn freeze(&mut self, limit: Duration) -> Result<u64, QmpError> {
        self.count("guest-fsfreeze-freeze", limit).await
    }

    /// Thaws the guest's file systems; answers how many, 0 where none was frozen. May be repeated.
    ///
    /// # Errors
    /// As [`GuestAgent::execute`].
    pub async fn thaw(&mut self, limit: Duration) -> Result<u64, QmpError> {
        self.count("guest-fsfreeze-thaw", limit).await
    }

    /// Whether the guest's file systems are frozen.
    ///
    /// # Errors
    /// As [`GuestAgent::execute`].
    pub async fn is_frozen(&mut self, limit: Duration) -> Result<bool, QmpError> {
        let command = "guest-fsfreeze-status";
        match self.execute(command, Value::Null, limit).await?.as_str() {
            Some("frozen") => Ok(true),
            Some("thawed") => Ok(false),
            _ => Err(self.protocol(format!("`{command}` answered neither frozen nor thawed"))),
        }
    }

    /// How long a command of no special length is given.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    async fn count(&mut self, command: &str, limit: Duration) -> Result<u64, QmpError> {
        let answer = self.execute(command, Value::Null, limit).await?;
        answer.as_u64().ok_or_else(|| self.protocol(format!("`{command}` answered no number")))
    }

    /// Brings both sides to the same place: the answer with our number is the newest that there is.
    async fn synchronise(&mut self) -> Result<(), QmpError> {
        const COMMAND: &str = "guest-sync-delimited";
        self.syncs += 1;
        let number = self.syncs << 20 | u64::from(std::process::id() & 0xf_ffff);
        self.send(COMMAND, json!({"id": number}), true).await?;
        loop {
            let skipped = self.lines.skip_past(MARK).await;
            skipped.map_err(|end| end.error(&self.path, COMMAND, Fate::NotSent))?;
            let message = self.lines.next().await;
            // The answer to an older synchronisation, or a refusal of what the mark cut off, is not ours.
            if let Ok(Message::Return { value, .. }) = &message
                && value.as_u64() == Some(number)
            {
                self.in_step = true;
                return Ok(());
            }
            message.map_err(|end| end.error(&self.path, COMMAND, Fate::NotSent))?;
        }
    }

    async fn send(&mut self, command: &str, arguments: Value, marked: bool) -> Result<(), QmpError> {
        let request = match arguments {
            Value::Null => json!({"execute": command}),
            arguments => json!({"execute": command, "arguments": arguments}),
        };
        let mut line = if marked { vec![MARK] } else { Vec::new() };
        line.extend_from_slice(request.to_string().as_bytes());
        line.push(b'\n');
        let written = self.writer.write_all(&line).await;
        written.map_err(|error| End::Closed(error.to_string()).error(&self.path, command, Fate::Unknown))
    }

    /// The outer result says whether the line is still in step, the inner one what the agent said.
    fn understand(
        &self,
        command: &str,
        message: Result<Message, End>,
    ) -> Result<Result<Value, QmpError>, QmpError> {
        let (path, command) = (self.path.clone(), command.to_owned());
        match message.map_err(|end| end.error(&path, &command, Fate::Unknown))? {
            Message::Return { value, .. } => Ok(Ok(value)),
            Message::Error { class, .. } if class == "CommandNotFound" => {
                Ok(Err(QmpError::CommandNotFound { path, command }))
            }
            Message::Error { class, desc, .. } => Ok(Err(QmpError::Refusal { path, command, class, desc })),
            other => Err(self.protocol(format!("{} came as the answer to `{command}`", other.kind()))),
        }
    }

    fn protocol(&self, what: String) -> QmpError {
        QmpError::Protocol { path: self.path.clone(), what }
    }
}
