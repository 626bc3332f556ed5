//! Where the server is: the address as the operator gives it, and the default when none is given.
//!
//! Owns the order in which flags, environment and defaults count. Connects to nothing.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The environment variable for `--server`.
pub const SERVER_VARIABLE: &str = "BACKSTAY_SERVER";
/// The environment variable for `--data`.
pub const DATA_VARIABLE: &str = "BACKSTAY_DATA";

/// An address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// TLS.
    #[error(
        "`{0}`: this version does not speak TLS yet. Use the unix socket on the server's host, unix:///path"
    )]
    NotYet(String),
    /// Plain HTTP over a network.
    #[error("`{0}`: plain HTTP goes to this machine only (127.0.0.1, [::1], localhost). Use unix:///path")]
    NotLocal(String),
    /// A socket's path that depends on where one stands.
    #[error("`{0}`: the path of a unix socket is absolute and has three slashes: unix:///run/backstay.sock")]
    NotAbsolute(String),
    /// Anything else.
    #[error("`{0}` is no server's address: write unix:///path")]
    Unknown(String),
}

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// A unix socket.
    Unix(PathBuf),
    /// Plain HTTP on a loopback address; what follows `http://`.
    Loopback(String),
}

impl Server {
    /// Reads an address.
    ///
    /// # Errors
    /// When it is none, or one that this version cannot use.
    pub fn parse(text: &str) -> Result<Server, AddressError> {
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.starts_with('/') && path.len() > 1 {
                true => Ok(Server::Unix(PathBuf::from(path))),
                false => Err(AddressError::NotAbsolute(text.to_owned())),
            };
        }
        if text.starts_with("https://") {
            return Err(AddressError::NotYet(text.to_owned()));
        }
        let authority = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match authority {
            Some(authority) if authority.contains(['/', '@', '?', '#']) => {
                Err(AddressError::Unknown(text.to_owned()))
            }
            Some(authority) if is_loopback(authority) => Ok(Server::Loopback(authority.to_owned())),
            Some(_) => Err(AddressError::NotLocal(text.to_owned())),
            None => Err(AddressError::Unknown(text.to_owned())),
        }
    }

    /// The socket in a data folder.
    #[must_use]
    pub fn in_folder(data: &Path) -> Server {
        Server::Unix(orchestrator::api_socket(data))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Unix(path) => write!(f, "unix://{}", path.display()),
            Server::Loopback(authority) => write!(f, "http://{authority}"),
        }
    }
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// What the environment says; an argument, so that the rules below can be tested.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `BACKSTAY_SERVER`.
    pub server: Option<String>,
    /// `BACKSTAY_DATA`.
    pub data: Option<OsString>,
    /// `XDG_DATA_HOME`.
    pub xdg_data_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
    /// Whether the program runs as root.
    pub root: bool,
}

impl Surroundings {
    /// Those of this process. A variable that is empty is as one that is not set.
    #[must_use]
    pub fn here() -> Surroundings {
        let get = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Surroundings {
            server: get(SERVER_VARIABLE).map(|value| value.to_string_lossy().into_owned()),
            data: get(DATA_VARIABLE),
            xdg_data_home: get("XDG_DATA_HOME"),
            home: get("HOME"),
            root: rustix::process::geteuid().is_root(),
        }
    }

    /// The data folder: `--data`, `BACKSTAY_DATA`, or the place for this user.
    #[must_use]
    pub fn data_folder(&self, flag: Option<&Path>) -> PathBuf {
        if let Some(folder) = flag {
            return folder.to_owned();
        }
        if let Some(folder) = &self.data {
            return PathBuf::from(folder);
        }
        // Without a home there is no place of the user's own; the system's is a good name in the error that follows.
        let own = || match (&self.xdg_data_home, &self.home) {
            (Some(folder), _) => Some(PathBuf::from(folder)),
            (None, Some(home)) => Some(Path::new(home).join(".local/share")),
            (None, None) => None,
        };
        match own() {
            Some(folder) if !self.root => folder.join("backstay"),
            _ => PathBuf::from("/var/lib/backstay"),
        }
    }

    /// The server: `--server`, the socket in `--data`, `BACKSTAY_SERVER`, the socket in the data folder. A flag
    /// counts more than a variable, whichever of the two it is.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn server(&self, server: Option<&str>, data: Option<&Path>) -> Result<Server, AddressError> {
        match (server, data, &self.server) {
            (Some(text), _, _) => Server::parse(text),
            (None, None, Some(text)) => Server::parse(text),
            (None, _, _) => Ok(Server::in_folder(&self.data_folder(data))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for text in
            ["unix:///run/backstay.sock", "http://127.0.0.1:8080", "http://[::1]:80", "http://localhost:1"]
        {
            assert_eq!(Server::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Server::parse("http://127.0.0.1:8080/").unwrap().to_string(), "http://127.0.0.1:8080");
        let is = |text: &str| Server::parse(text).unwrap_err();
        assert!(matches!(is("https://backup.example:443"), AddressError::NotYet(_)));
        assert!(matches!(is("http://backup.example:80"), AddressError::NotLocal(_)));
        assert!(matches!(is("http://127.0.0.1@evil.example"), AddressError::Unknown(_)));
        assert!(matches!(is("unix://run/x"), AddressError::NotAbsolute(_)));
        assert!(matches!(is("/run/x"), AddressError::Unknown(_)));
    }

    #[test]
    fn flags_count_more_than_variables() {
        let around = Surroundings {
            server: Some("unix:///from/variable".to_owned()),
            data: Some("/data/variable".into()),
            home: Some("/home/me".into()),
            ..Surroundings::default()
        };
        let at = |server, data: Option<&str>| around.server(server, data.map(Path::new)).unwrap().to_string();
        assert_eq!(at(Some("unix:///flag"), Some("/data/flag")), "unix:///flag");
        assert_eq!(at(None, Some("/data/flag")), "unix:///data/flag/backstay.sock");
        assert_eq!(at(None, None), "unix:///from/variable");
    }

    #[test]
    fn the_default_is_the_user_s_own_or_the_system_s() {
        let mut around = Surroundings { home: Some("/home/me".into()), ..Surroundings::default() };
        assert_eq!(around.data_folder(None), Path::new("/home/me/.local/share/backstay"));
        around.xdg_data_home = Some("/x".into());
        assert_eq!(around.data_folder(None), Path::new("/x/backstay"));
        around.root = true;
        assert_eq!(around.data_folder(None), Path::new("/var/lib/backstay"));
        around.data = Some("/d".into());
        assert_eq!(around.server(None, None).unwrap().to_string(), "unix:///d/backstay.sock");
    }
}
