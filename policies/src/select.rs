//! Which machines a policy speaks of: by name, label and host, less the excluded. Knows a machine only by these.

use std::collections::BTreeMap;

/// What is known of a machine when it is selected.
#[derive(Clone, Copy, Debug)]
pub struct Vm<'a> {
    /// Its name, unique in the installation.
    pub name: &'a str,
    /// Its labels, each name once.
    pub labels: &'a [(String, String)],
    /// The host it runs on, when known.
    pub host: Option<&'a str>,
}

/// Each part that is given must agree; a part that is empty agrees with all. Names, label values and hosts
/// are patterns: `*` stands for any letters, `?` for one, and case counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Selection {
    /// Any of these names.
    pub names: Vec<String>,
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
    /// On any of these hosts; a machine whose host is not known is on none.
    pub hosts: Vec<String>,
    /// None of these names, whatever else agrees.
    pub exclude: Vec<String>,
}

impl Selection {
    /// True when neither name, label nor host is given: such a selection would take every machine, and is
    /// more often a slip than a wish (`names = ["*"]` says it).
    #[must_use]
    pub fn is_open_ended(&self) -> bool {
        self.names.is_empty() && self.labels.is_empty() && self.hosts.is_empty()
    }

    /// Whether the machine is selected.
    #[must_use]
    pub fn matches(&self, vm: &Vm<'_>) -> bool {
        let any = |patterns: &[String], text: &str| patterns.iter().any(|pattern| glob(pattern, text));
        let label = |(wanted, pattern): (&String, &String)| {
            vm.labels.iter().any(|(label, value)| label == wanted && glob(pattern, value))
        };
        (self.names.is_empty() || any(&self.names, vm.name))
            && (self.hosts.is_empty() || vm.host.is_some_and(|host| any(&self.hosts, host)))
            && self.labels.iter().all(label)
            && !any(&self.exclude, vm.name)
    }
}

/// Matches the whole text: `*` any letters, `?` one letter. On a mismatch only the last `*` can give way,
/// which keeps this within pattern times text.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                last_star = Some((p, t));
                p += 1;
            }
            Some(&letter) if letter == '?' || letter == text[t] => (p, t) = (p + 1, t + 1),
            _ => match last_star {
                Some((star, taken)) => {
                    last_star = Some((star, taken + 1));
                    (p, t) = (star + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&letter| letter == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("*", "web-1", true),
            ("web-*", "web-", true),
            ("web-?", "web-12", false),
            ("web-??", "web-12", true),
            ("*-db-*", "a-db-b-db", true),
            ("*-db", "a-db-b-db", true),
            ("*a*b", "aXbXa", false),
            ("Web", "web", false),
            ("", "", true),
            ("", "a", false),
            ("ü?", "üé", true),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} on {text}");
        }
        assert!(!glob(&"*a".repeat(200), &"a".repeat(100)), "and in reasonable time");
    }

    #[test]
    fn every_part_must_agree_and_exclusion_wins() {
        let labels = [("env".to_owned(), "prod".to_owned()), ("tier".to_owned(), "web".to_owned())];
        let vm = Vm { name: "web-1", labels: &labels, host: Some("rack1-a") };
        let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
        let select =
            |names: &[&str], label: Option<(&str, &str)>, hosts: &[&str], exclude: &[&str]| Selection {
                names: list(names),
                labels: label.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect(),
                hosts: list(hosts),
                exclude: list(exclude),
            };
        assert!(select(&["db-*", "web-*"], None, &[], &[]).matches(&vm));
        assert!(!select(&["db-*"], Some(("env", "prod")), &[], &[]).matches(&vm));
        assert!(select(&[], Some(("env", "pr*")), &["rack1-*"], &[]).matches(&vm));
        assert!(!select(&[], Some(("zone", "*")), &[], &[]).matches(&vm));
        assert!(!select(&["*"], None, &[], &["*-1"]).matches(&vm));
        assert!(!select(&["*"], None, &["rack1-*"], &[]).matches(&Vm { host: None, ..vm }));
    }
}
