//! A notice as a mail, handed to one server over SMTP. Its Message-ID follows from the notice's id, so that a repeat is known
//! for one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use journal::notice::NoticeKind;
use journal::state::Notice;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{
    Certificate, CertificateStore, Tls, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::response::Response;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use super::{Said, cause, trust};

/// How long all of a delivery may take. Mail servers make unknown clients wait, and who hangs up on one that has the mail
/// already sends it twice.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS after the greeting, and nothing is said if the server cannot; port 587 (RFC 6409).
    StartTls,
    /// TLS from the first byte; port 465 (RFC 8314).
    Implicit,
    /// None: to a server on this machine; port 25.
    None,
}

impl Security {
    fn port(self) -> u16 {
        match self {
            Security::StartTls => 587,
            Security::Implicit => 465,
            Security::None => 25,
        }
    }
}

/// What a mail server knows us by.
#[derive(Debug, Clone)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The file with the password in its first line.
    pub password_file: PathBuf,
}

/// Mailboxes and the server that takes mail for them.
#[derive(Debug, Clone)]
pub struct Mail {
    host: String,
    port: u16,
    security: Security,
    login: Option<Login>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Mail {
    /// Of a server, `HOST` or `HOST:PORT`, and of addresses as in a mail's head.
    ///
    /// # Errors
    /// Which of them makes no sense.
    pub fn new(
        server: &str,
        security: Security,
        login: Option<Login>,
        from: &str,
        to: &[String],
    ) -> Result<Self, String> {
        let (host, port) = split(server).ok_or_else(|| {
            format!(
                "`{server}` is not a mail server; write a name, or a name and a port: `mail.example.org:587`"
            )
        })?;
        if security == Security::None && !on_this_machine(&host) {
            return Err(format!("{host} is not this machine, and mail goes nowhere else without TLS"));
        }
        let mailbox = |text: &str| {
            text.parse::<Mailbox>().map_err(|error| format!("`{text}` is not a mail address: {error}"))
        };
        let to = to.iter().map(|to| mailbox(to)).collect::<Result<Vec<_>, _>>()?;
        if to.is_empty() {
            return Err("`mail` names nobody".to_owned());
        }
        Ok(Self { host, port: port.unwrap_or(security.port()), security, login, from: mailbox(from)?, to })
    }

    pub(super) fn patience(&self) -> Duration {
        PATIENCE
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.login.as_ref().map_or(Ok(()), |login| login.credentials().map(drop))
    }

    pub(super) async fn deliver(&self, id: &str, notice: &Notice, ca: Option<&Path>) -> Said {
        let message = self.message(id, notice)?;
        let tls = match self.security {
            Security::StartTls => Tls::Required(self.tls(ca).await?),
            Security::Implicit => Tls::Wrapper(self.tls(ca).await?),
            Security::None => Tls::None,
        };
        let server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(self.host.as_str());
        let mut server = server.port(self.port).tls(tls).timeout(Some(PATIENCE));
        if let Some(login) = self.login.clone() {
            let read = tokio::task::spawn_blocking(move || login.credentials()).await;
            server = server
                .credentials(read.map_err(|error| format!("the password file was not read: {error}"))??);
        }
        let sent = server.build::<Tokio1Executor>().send(message).await;
        sent.map(|response| answer(&response)).map_err(|error| match error.status() {
            Some(code) => format!("the server answered {code} {}", cause(&error)),
            None => cause(&error),
        })
    }

    fn message(&self, id: &str, notice: &Notice) -> Result<Message, String> {
        let raised = &notice.raised;
        let about = match (raised.kind, &raised.vm) {
            (NoticeKind::Test, _) => "test".to_owned(),
            (kind, None) => format!("{}: {}", kind.name(), raised.subject.name()),
            (kind, Some(vm)) => format!("{}: {} of {vm}", kind.name(), raised.subject.name()),
        };
        let body = format!("{}\r\n\r\nNotice {id}, of {}.\r\n", raised.text, notice.at);
        let at = UNIX_EPOCH + Duration::from_micros(notice.at.0.max(0).unsigned_abs());
        // RFC 3834: nobody's absence notice is to answer it.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let mut message = Message::builder()
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .date(at)
            .from(self.from.clone())
            .subject(format!("Backstay {about}"))
            .header(ContentType::TEXT_PLAIN)
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()));
        for to in &self.to {
            message = message.to(to.clone());
        }
        message.body(body).map_err(|error| format!("no mail can be made of it: {error}"))
    }

    async fn tls(&self, ca: Option<&Path>) -> Result<TlsParameters, String> {
        let unusable = |error: lettre::transport::smtp::Error| format!("TLS: {}", cause(&error));
        let mut tls = TlsParametersBuilder::new(self.host.clone()).certificate_store(CertificateStore::None);
        for certificate in trust::certificates(ca).await? {
            tls = tls.add_root_certificate(Certificate::from_der(certificate.to_vec()).map_err(unusable)?);
        }
        tls.build().map_err(unusable)
    }
}

impl Login {
    /// Read each time: a password that was changed needs no restart.
    fn credentials(&self) -> Result<Credentials, String> {
        let path = self.password_file.display();
        let text = std::fs::read_to_string(&self.password_file)
            .map_err(|error| format!("the password file {path} cannot be read: {error}"))?;
        match text.lines().next().filter(|password| !password.is_empty()) {
            Some(password) => Ok(Credentials::new(self.user.clone(), password.to_owned())),
            None => Err(format!("the password file {path} has no password in its first line")),
        }
    }
}

fn answer(response: &Response) -> String {
    let said: Vec<&str> = response.message().collect();
    format!("{} {}", response.code(), said.join(" "))
}

/// `host`, `host:port`, `1.2.3.4:25`, `[::1]:25`.
fn split(server: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest.is_empty().then_some(None).or_else(|| rest.strip_prefix(':').map(Some))?)
        }
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let port = port
        .map(|port| port.parse::<u16>().ok().filter(|port| *port > 0))
        .map_or(Some(None), |it| it.map(Some))?;
    let named = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c));
    named.then(|| (host.to_owned(), port))
}

fn on_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mail(server: &str, security: Security) -> Result<Mail, String> {
        Mail::new(server, security, None, "backstay@example.org", &["ops@example.org".to_owned()])
    }

    #[test]
    fn a_server_is_a_name_and_perhaps_a_port() {
        for (server, host, port) in [
            ("mail.example.org", "mail.example.org", 587),
            ("mail.example.org:2525", "mail.example.org", 2525),
            ("[::1]:25", "::1", 25),
            ("[::1]", "::1", 587),
        ] {
            let mail = mail(server, Security::StartTls).unwrap();
            assert_eq!((mail.host.as_str(), mail.port), (host, port), "{server}");
        }
        for bad in ["", ":25", "host:", "host:0", "host:99999", "::1", "[host]:25", "smtp://host", "[::1]x"] {
            assert!(mail(bad, Security::StartTls).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_leaves_the_machine_in_the_clear() {
        for here in ["localhost", "127.0.0.1:2525", "[::1]:25"] {
            assert!(mail(here, Security::None).is_ok(), "{here}");
        }
        assert!(mail("mail.example.org", Security::None).unwrap_err().contains("without TLS"));
    }

    #[test]
    fn addresses_that_are_none_are_refused_by_name() {
        let refused = |from: &str, to: &[&str]| {
            let to: Vec<String> = to.iter().map(ToString::to_string).collect();
            Mail::new("localhost", Security::None, None, from, &to).unwrap_err()
        };
        assert!(refused("nobody", &["ops@example.org"]).contains("`nobody`"));
        assert!(refused("a@example.org", &["ops@example.org", "b@"]).contains("`b@`"));
        assert!(refused("a@example.org", &[]).contains("nobody"));
    }
}
