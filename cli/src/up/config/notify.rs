//! What the configuration file says of notices: when, and to whom.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use journal::ReceiverName;
use orchestrator::{Login, Mail, Receiver, Security, Way, Webhook};
use serde::Deserialize;

use crate::exit::Failure;

/// The name of the receiver that `webhook` is short for.
const SHORT: &str = "webhook";

/// What the file may say under `[notify]`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyRead {
    /// Where notices are posted to: short for a receiver with nothing but that.
    webhook: Option<String>,
    /// How old a VM's newest good restore point may be, such as `26h`.
    good_point_within: Option<Within>,
    /// Who is told.
    #[serde(default)]
    to: BTreeMap<ReceiverName, ReceiverRead>,
}

/// What the file may say under `[notify.to.NAME]`. Paths are relative to the configuration file.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiverRead {
    /// A URL that notices are posted to; or else:
    webhook: Option<String>,
    /// The addresses that mail is for.
    mail: Option<Addresses>,
    /// Whom mail is from.
    from: Option<String>,
    /// The server that takes it, `HOST` or `HOST:PORT`.
    server: Option<String>,
    /// How that is spoken to.
    tls: Option<TlsRead>,
    /// What it knows us by.
    user: Option<String>,
    /// The file with the password.
    password_file: Option<PathBuf>,
    /// Certificates that vouch for the receiver beside the system's.
    ca: Option<PathBuf>,
}

/// One address, or several.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Addresses {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TlsRead {
    StartTls,
    Implicit,
    None,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Within(i64);

impl TryFrom<String> for Within {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let length = policies::duration::parse(&text).map_err(|error| error.to_string())?;
        let micros = length.num_microseconds().filter(|micros| *micros > 0);
        micros.map(Self).ok_or_else(|| format!("`{text}` is no time"))
    }
}

impl NotifyRead {
    /// Microseconds.
    #[must_use]
    pub fn good_point_within(&self) -> Option<i64> {
        self.good_point_within.map(|within| within.0)
    }

    /// Who is told; the files that they name are below `folder`, and were looked at.
    ///
    /// # Errors
    /// What of which receiver makes no sense.
    pub fn receivers(&self, folder: &Path) -> Result<Vec<Receiver>, Failure> {
        let short = self.webhook.iter().map(|url| {
            let read = ReceiverRead { webhook: Some(url.clone()), ..ReceiverRead::default() };
            (SHORT.parse().expect("it is a name"), read)
        });
        let short: BTreeMap<ReceiverName, ReceiverRead> = short.collect();
        if let Some(name) = short.keys().find(|name| self.to.contains_key(*name)) {
            let what =
                format!("[notify]: `webhook` is short for [notify.to.{name}]; leave one of the two out");
            return Err(Failure::usage(what));
        }
        let all = short.iter().chain(&self.to);
        all.map(|(name, read)| {
            let receiver = read.receiver(name, folder).and_then(|it| it.check().map(|()| it));
            receiver.map_err(|why| Failure::usage(format!("[notify.to.{name}]: {why}")))
        })
        .collect()
    }
}

impl ReceiverRead {
    fn receiver(&self, name: &ReceiverName, folder: &Path) -> Result<Receiver, String> {
        let way = match (&self.webhook, &self.mail) {
            (Some(url), None) => {
                self.refuse_mail_keys()?;
                Way::Webhook(Webhook::new(url)?)
            }
            (None, Some(to)) => Way::Mail(self.mail(to, folder)?),
            _ => return Err("give either `webhook` or `mail`".to_owned()),
        };
        Ok(Receiver { name: name.clone(), way, ca: self.ca.as_ref().map(|ca| folder.join(ca)) })
    }

    fn mail(&self, to: &Addresses, folder: &Path) -> Result<Mail, String> {
        let (Some(from), Some(server)) = (&self.from, &self.server) else {
            return Err("mail needs `from` and `server` too".to_owned());
        };
        let login = match (&self.user, &self.password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => Some(Login { user: user.clone(), password_file: folder.join(file) }),
            _ => return Err("`user` and `password_file` go together".to_owned()),
        };
        let security = match self.tls {
            None | Some(TlsRead::StartTls) => Security::StartTls,
            Some(TlsRead::Implicit) => Security::Implicit,
            Some(TlsRead::None) => Security::None,
        };
        let to = match to {
            Addresses::One(to) => std::slice::from_ref(to),
            Addresses::Several(to) => to,
        };
        Mail::new(server, security, login, from, to)
    }

    fn refuse_mail_keys(&self) -> Result<(), String> {
        let given = [
            ("from", self.from.is_some()),
            ("server", self.server.is_some()),
            ("tls", self.tls.is_some()),
            ("user", self.user.is_some()),
            ("password_file", self.password_file.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(format!("`{key}` is for mail, and this is a webhook")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn receivers(text: &str) -> Result<Vec<Receiver>, String> {
        let read: NotifyRead = toml::from_str(text).map_err(|error| error.to_string())?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "secret\n").unwrap();
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        read.receivers(folder.path()).map_err(|failure| failure.to_string())
    }

    const MAIL: &str =
        "[to.ops]\nmail = 'ops@example.org'\nfrom = 'b@example.org'\nserver = 'mail.example.org'\n";

    #[test]
    fn each_receiver_has_a_name_and_one_way() {
        let text = format!("webhook = 'https://a/'\n[to.chat]\nwebhook = 'http://b/'\n{MAIL}");
        let names: Vec<String> = receivers(&text).unwrap().iter().map(|it| it.name.to_string()).collect();
        assert_eq!(names, ["webhook", "chat", "ops"]);
        assert!(receivers(&format!("{MAIL}user = 'u'\npassword_file = 'password'\n")).is_ok());
        assert!(receivers("").unwrap().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        for (text, what) in [
            ("webhook = 'ftp://a/'".to_owned(), "[notify.to.webhook]: a webhook begins with https://"),
            (
                "webhook = 'http://a/'\n[to.webhook]\nwebhook = 'http://a/'".to_owned(),
                "leave one of the two out",
            ),
            ("[to.x]".to_owned(), "[notify.to.x]: give either"),
            ("[to.x]\nmail = 'a@b.c'".to_owned(), "`from` and `server`"),
            ("[to.x]\nwebhook = 'http://a/'\nuser = 'u'".to_owned(), "`user` is for mail"),
            ("[to.x]\nwebhok = 'http://a/'".to_owned(), "line 2, column 1"),
            ("[to.'x y']\nwebhook = 'http://a/'".to_owned(), "receiver name"),
            (format!("{MAIL}tls = 'none'"), "without TLS"),
            (format!("{MAIL}tls = 'perhaps'"), "starttls"),
            (format!("{MAIL}user = 'u'"), "go together"),
            (format!("{MAIL}user = 'u'\npassword_file = 'nowhere'"), "nowhere cannot be read"),
            (format!("{MAIL}user = 'u'\npassword_file = 'empty'"), "no password"),
            (format!("{MAIL}ca = 'password'"), "no certificate"),
        ] {
            let refused = receivers(&text).unwrap_err();
            assert!(refused.contains(what), "{text}: {refused}");
        }
    }
}
