//! Credentials for an object store: from the environment, or from the files of Amazon's own tools.
//!
//! Owns the reading of `~/.aws/credentials` and `~/.aws/config`. Never shows a secret: what it says names files and
//! profiles only. What a container or a host of Amazon's gives is left to `object_store`.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

/// A profile in the two files.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    name: String,
    credentials: PathBuf,
    config: PathBuf,
}

/// What the files say of a profile that is no credential.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

type Sections = HashMap<String, HashMap<String, String>>;

impl Profile {
    /// The profile that the environment chooses.
    pub(super) fn chosen() -> Self {
        let file = |variable: &str, usual: &str| {
            let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".aws").join(usual);
            env::var_os(variable).map_or_else(home, PathBuf::from)
        };
        Self {
            name: env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned()),
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: file("AWS_CONFIG_FILE", "config"),
        }
    }

    /// Where it is looked for, for people.
    pub(super) fn place(&self) -> String {
        format!("profile {} in {} or {}", self.name, self.credentials.display(), self.config.display())
    }

    /// Region and endpoint.
    pub(super) fn settings(&self) -> Result<Settings, String> {
        let mut found = self.section()?.unwrap_or_default();
        Ok(Settings { region: found.remove("region"), endpoint: found.remove("endpoint_url") })
    }

    /// The key; `None` when the files know no such profile, or no key of it.
    pub(super) fn key(&self) -> Result<Option<AwsCredential>, String> {
        let Some(mut found) = self.section()? else { return Ok(None) };
        let id = found.remove("aws_access_key_id");
        let secret = found.remove("aws_secret_access_key");
        match (id, secret) {
            (Some(key_id), Some(secret_key)) => {
                Ok(Some(AwsCredential { key_id, secret_key, token: found.remove("aws_session_token") }))
            }
            (None, None) => {
                let others = ["role_arn", "sso_session", "sso_start_url", "credential_process"];
                match others.iter().find(|other| found.contains_key(**other)) {
                    Some(other) => Err(format!(
                        "{} has `{other}`, which Backstay does not follow: give it a key of its own",
                        self.place()
                    )),
                    None => Ok(None),
                }
            }
            _ => Err(format!(
                "{} has half a key: it needs aws_access_key_id and aws_secret_access_key",
                self.place()
            )),
        }
    }

    /// Everything that the two files say of the profile; the credentials file counts more.
    fn section(&self) -> Result<Option<HashMap<String, String>>, String> {
        let in_config =
            if self.name == "default" { self.name.clone() } else { format!("profile {}", self.name) };
        let config = read(&self.config)?.remove(&in_config);
        let credentials = read(&self.credentials)?.remove(&self.name);
        Ok(match (config, credentials) {
            (Some(mut both), Some(credentials)) => {
                both.extend(credentials);
                Some(both)
            }
            (one, other) => one.or(other),
        })
    }
}

/// The sections of a file; none when there is no file.
fn read(file: &Path) -> Result<Sections, String> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Sections::new()),
        Err(error) => Err(format!("{} cannot be read: {error}", file.display())),
    }
}

/// The ini format as Amazon's tools read it: `[section]`, `name = value`, `#` and `;` at the start of a line. Indented
/// lines belong to the setting above them, which is none of ours.
fn parse(text: &str) -> Sections {
    let mut sections = Sections::new();
    let mut section = String::new();
    for line in text.lines() {
        if line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        let line = line.trim_end();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name.split_whitespace().collect::<Vec<_>>().join(" ");
            sections.entry(section.clone()).or_default();
        } else if let Some((name, value)) = line.split_once('=') {
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
            sections.entry(section.clone()).or_default().insert(name, value);
        }
    }
    sections
}

/// Reads the files each time: a key that was exchanged counts from the next request on.
#[async_trait]
impl CredentialProvider for Profile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let lost = || Err(format!("{} has no key any more", self.place()));
        match self.key().and_then(|key| key.map_or_else(lost, Ok)) {
            Ok(key) => Ok(Arc::new(key)),
            Err(what) => {
                Err(object_store::Error::Unauthenticated { path: self.place(), source: what.into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn profile(name: &str, credentials: &str, config: &str) -> (tempfile::TempDir, Profile) {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("credentials"), folder.path().join("config"));
        fs::write(&one, credentials).unwrap();
        fs::write(&other, config).unwrap();
        (folder, Profile { name: name.to_owned(), credentials: one, config: other })
    }

    #[test]
    fn a_profile_is_read_from_both_files_and_anew_each_time() {
        let credentials = "# mine\n[default]\naws_access_key_id=A\naws_secret_access_key=B=\n\n[ vault ]\n\
                           AWS_Access_Key_Id = C\naws_secret_access_key = D\naws_session_token = E\n";
        let config = "[default]\nregion = eu-west-1\ns3 =\n  max_concurrent_requests = 20\n[profile  vault]\n\
                      region=here\nendpoint_url = http://h:1\n";
        let (_folder, default) = profile("default", credentials, config);
        let key = default.key().unwrap().unwrap();
        assert_eq!((key.key_id.as_str(), key.secret_key.as_str(), key.token), ("A", "B=", None));
        assert_eq!(default.settings().unwrap().region.as_deref(), Some("eu-west-1"));
        let (_folder, vault) = profile("vault", credentials, config);
        let key = vault.key().unwrap().unwrap();
        assert_eq!((key.key_id.as_str(), key.token.as_deref()), ("C", Some("E")));
        assert_eq!(vault.settings().unwrap().endpoint.as_deref(), Some("http://h:1"));
        fs::write(&vault.credentials, "[vault]\naws_access_key_id=F\naws_secret_access_key=G\n").unwrap();
        assert_eq!(vault.key().unwrap().unwrap().key_id, "F");
    }

    #[test]
    fn what_cannot_be_used_is_said_without_the_secret() {
        let (_folder, none) = profile("other", "[default]\naws_access_key_id=A\n", "");
        assert!(none.key().unwrap().is_none());
        let (_folder, half) = profile("default", "[default]\naws_secret_access_key=hush\n", "");
        let said = half.key().unwrap_err();
        assert!(said.contains("half a key") && !said.contains("hush"), "{said}");
        let (_folder, role) = profile("r", "", "[profile r]\nrole_arn = arn:aws:iam::1:role/x\n");
        assert!(role.key().unwrap_err().contains("`role_arn`"));
    }
}
