//! Style as a test: what ARCHITECTURE.md says about the shape of this tree, checked. Each rule is a function
//! from sources to complaints, and a complaint says where and what to do. Reads files; knows no Rust grammar.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Which of our packages each may depend on. An arrow that is not here is a decision: draw it there first.
const ARROWS: &[(&str, &[&str])] = &[
    ("journal", &[]),
    ("repository", &[]),
    ("policies", &["journal"]),
    ("agent", &["journal", "repository"]),
    ("orchestrator", &["journal", "policies"]),
    ("cli", &["agent", "journal", "orchestrator", "policies", "repository"]),
    ("tests", &["agent", "journal", "orchestrator", "policies", "repository"]),
];

/// Where deciding happens: the same arguments give the same answer, on any machine, at any time.
const PURE: &[&str] = &["orchestrator/src/decide", "policies/src"];

/// What makes a function depend on more than its arguments.
const IMPURE: &[&str] = &[
    "tokio",
    "async fn",
    ".await",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::io",
    "Instant::now",
    "SystemTime",
    "time::Instant",
    "Utc::now",
    "Local::now",
    "rand::",
    "new_v4",
    "println!",
];

/// Names that say nothing about what is inside.
const VAGUE: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "service", "types", "misc"];

/// Lines from which a file must be split by verb.
const LONGEST_FILE: usize = 700;

const REQUIRED: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "Cargo.lock",
    "deny.toml",
    "rustfmt.toml",
    ".ci/run",
    ".config/nextest.toml",
    "scripts/setup",
    "scripts/test",
    "scripts/demo",
    "scripts/bench",
    "decisions",
    "deploy",
    "docs",
];

/// A file of the tree.
struct Source {
    /// Relative to the root of the repository.
    path: PathBuf,
    text: String,
}

impl Source {
    fn new(path: impl Into<PathBuf>, text: &str) -> Source {
        Source { path: path.into(), text: text.to_owned() }
    }

    fn is(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }

    fn at(&self, line: usize) -> String {
        format!("{}:{}", self.path.display(), line + 1)
    }

    /// Numbered lines that are neither comment nor part of a test module.
    fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        let of_tests =
            self.path.ends_with("tests.rs") || self.path.components().any(|part| part.as_os_str() == "tests");
        let lines: Vec<_> = self.text.lines().collect();
        let end = lines
            .windows(2)
            .position(|pair| {
                pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
            })
            .unwrap_or(lines.len());
        let end = if of_tests { 0 } else { end };
        lines.into_iter().enumerate().take(end).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// Every file that a person wrote: no build output, no version control.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of ours").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                let made = [".git", ".cache", "target"].iter().any(|made| name == *made)
                    || path.join("CACHEDIR.TAG").exists();
                if !made {
                    folders.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).expect("found below the root").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Fails with all complaints of a rule at once.
fn enforce(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "rule `{rule}`:\n  {}\n", complaints.join("\n  "));
}

/// Names in a Cargo.toml's `[dependencies]`, `[dev-dependencies]` and `[build-dependencies]`.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies");
            // [dependencies.journal]
            names.extend(section.split_once("dependencies.").map(|(_, name)| name));
        } else if inside && !line.starts_with('#') {
            names.extend(line.split(['.', '=', ' ']).next().filter(|name| !name.is_empty()));
        }
    }
    names
}

fn wrong_arrows(sources: &[Source]) -> Vec<String> {
    let ours: BTreeSet<_> = ARROWS.iter().map(|(package, _)| *package).collect();
    let mut complaints = Vec::new();
    for (package, allowed) in ARROWS {
        let manifest = Path::new(package).join("Cargo.toml");
        let Some(source) = sources.iter().find(|source| source.path == manifest) else { continue };
        for name in dependencies(&source.text) {
            if ours.contains(name) && !allowed.contains(&name) {
                complaints.push(format!(
                    "{package} depends on {name}: move what it needs to where both may look, or draw the arrow in ARROWS"
                ));
            }
        }
    }
    complaints
}

fn without_module_doc(sources: &[Source]) -> Vec<String> {
    let rust = sources.iter().filter(|source| source.is("rs"));
    rust.filter(|source| !source.text.starts_with("//!"))
        .map(|source| {
            format!(
                "{}: start with `//!`: what it owns and what it knows nothing about",
                source.path.display()
            )
        })
        .collect()
}

fn impure_decisions(sources: &[Source]) -> Vec<String> {
    let pure =
        |source: &&Source| source.is("rs") && PURE.iter().any(|folder| source.path.starts_with(folder));
    let mut complaints = Vec::new();
    for source in sources.iter().filter(pure) {
        for (number, line) in source.product() {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                complaints
                    .push(format!("{}: `{word}`: take what it gives as an argument", source.at(number)));
            }
        }
    }
    complaints
}

fn leftovers(sources: &[Source]) -> Vec<String> {
    // Put together here, so that this file does not accuse itself.
    let marks =
        [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["dbg", "!"], ["todo", "!"], ["unimplemented", "!"]];
    let marks = marks.map(|parts| parts.concat());
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| !source.is("lock") && !source.is("md")) {
        for (number, line) in source.text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| contains_word(line, mark)) {
                complaints.push(format!(
                    "{}: {mark}: do it now, or write down why not without the mark",
                    source.at(number)
                ));
            }
        }
    }
    complaints
}

/// Whether `word` stands in `line` and not as a part of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    line.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).is_some_and(|at| inside(line.as_bytes()[at]));
        let after = line.as_bytes().get(at + word.len()).is_some_and(|byte| inside(*byte));
        !before && (!after || word.ends_with('!'))
    })
}

fn too_long(sources: &[Source]) -> Vec<String> {
    let rust = sources.iter().filter(|source| source.is("rs"));
    rust.map(|source| (source, source.text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .map(|(source, lines)| format!("{}: {lines} lines: split it by verb", source.path.display()))
        .collect()
}

fn vague_names(sources: &[Source]) -> Vec<String> {
    let vague = |source: &&Source| {
        let parts = source.path.iter().filter_map(|part| part.to_str());
        parts.map(|part| part.trim_end_matches(".rs")).any(|part| VAGUE.contains(&part))
    };
    let rust = sources.iter().filter(|source| source.is("rs")).filter(vague);
    rust.map(|source| format!("{}: name it for what it does", source.path.display())).collect()
}

/// The targets of a markdown text's links to files, without their anchors.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let files = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    files.filter_map(|target| target.split('#').next()).filter(|target| !target.is_empty()).collect()
}

fn dead_links(sources: &[Source], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.is("md")) {
        let folder = source.path.parent().unwrap_or(Path::new(""));
        for target in links(&source.text) {
            if !exists(&folder.join(target)) {
                complaints.push(format!("{}: links to {target}, which is not there", source.path.display()));
            }
        }
    }
    complaints
}

fn unlinked_decisions(sources: &[Source]) -> Vec<String> {
    let architecture = sources.iter().find(|source| source.path == Path::new("ARCHITECTURE.md"));
    let linked: BTreeSet<_> =
        architecture.map(|source| links(&source.text)).unwrap_or_default().into_iter().collect();
    let decisions = sources.iter().filter(|source| source.path.starts_with("decisions") && source.is("md"));
    decisions
        .filter(|source| !linked.contains(source.path.to_str().unwrap_or_default()))
        .map(|source| {
            format!("{}: link it from ARCHITECTURE.md, beside what it decides", source.path.display())
        })
        .collect()
}

fn careless_scripts(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.text.starts_with("#!/usr/bin/env bash\n")) {
        if !source.text.contains("\nset -euo pipefail\n") {
            complaints.push(format!("{}: add `set -euo pipefail`", source.path.display()));
        }
        if !source.text.lines().nth(1).is_some_and(|line| line.starts_with("# ")) {
            complaints.push(format!("{}: say in the second line what it does", source.path.display()));
        }
    }
    complaints
}

#[test]
fn dependencies_run_one_way() {
    enforce("dependencies run one way", &wrong_arrows(&sources()));
}

#[test]
fn every_file_says_what_it_owns() {
    enforce("every file says what it owns", &without_module_doc(&sources()));
}

#[test]
fn deciding_is_pure() {
    enforce("deciding is pure", &impure_decisions(&sources()));
}

#[test]
fn nothing_is_left_for_later() {
    enforce("nothing is left for later", &leftovers(&sources()));
}

#[test]
fn no_file_is_too_long() {
    enforce("no file is too long", &too_long(&sources()));
}

#[test]
fn names_say_something() {
    enforce("names say something", &vague_names(&sources()));
}

#[test]
fn links_resolve() {
    enforce("links resolve", &dead_links(&sources(), |path| root().join(path).exists()));
}

#[test]
fn every_decision_is_linked() {
    enforce("every decision is linked", &unlinked_decisions(&sources()));
}

#[test]
fn scripts_stop_at_the_first_error() {
    let sources = sources();
    let mut complaints = careless_scripts(&sources);
    for source in sources.iter().filter(|source| source.text.starts_with("#!")) {
        let mode = fs::metadata(root().join(&source.path)).expect("found a moment ago").permissions().mode();
        if mode & 0o111 == 0 {
            complaints.push(format!("{}: make it executable", source.path.display()));
        }
    }
    enforce("scripts stop at the first error", &complaints);
}

#[test]
fn the_tree_is_complete() {
    let missing = REQUIRED.iter().filter(|entry| !root().join(entry).exists());
    let complaints: Vec<_> =
        missing.map(|entry| format!("{entry} is missing: README and scripts count on it")).collect();
    enforce("the tree is complete", &complaints);
}

/// Each rule once on an offence and once on its innocent neighbour: a rule that never bites is no rule.
#[test]
fn every_rule_bites() {
    let one = |path: &str, text: &str| [Source::new(path, text)];
    let bites = |complaints: Vec<String>| complaints.len() == 1;

    assert!(bites(wrong_arrows(&one("repository/Cargo.toml", "[dependencies]\njournal.workspace = true\n"))));
    assert!(bites(wrong_arrows(&one(
        "journal/Cargo.toml",
        "[dev-dependencies.agent]\npath = \"../agent\"\n"
    ))));
    assert!(wrong_arrows(&one("agent/Cargo.toml", "[dependencies]\njournal.workspace = true\n")).is_empty());

    assert!(bites(without_module_doc(&one("a/src/b.rs", "use std::fs;\n//! Late.\n"))));
    assert!(without_module_doc(&one("a/src/b.rs", "//! Owns b.\n")).is_empty());

    let clock = "//! tokio is not used.\nlet now = Utc::now();\n";
    assert!(bites(impure_decisions(&one("policies/src/due.rs", clock))));
    assert!(impure_decisions(&one("agent/src/due.rs", clock)).is_empty());
    let tested = "//! Due.\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    assert!(impure_decisions(&one("policies/src/due.rs", tested)).is_empty());

    assert!(bites(leftovers(&one("a/src/b.rs", &["// TO", "DO: later\n"].concat()))));
    assert!(leftovers(&one("scripts/x", "mktemp build.XXXXXX\n")).is_empty());

    assert!(bites(too_long(&one("a/src/b.rs", &"//\n".repeat(LONGEST_FILE + 1)))));
    assert!(bites(vague_names(&one("a/src/util/b.rs", ""))));
    assert!(vague_names(&one("a/src/utility.rs", "")).is_empty());

    let page = one("docs/page.md", "[a](a.md) [b](b.md#part) [c](https://example.org/c) [d](#d)");
    assert!(bites(dead_links(&page, |path| path == Path::new("docs/a.md"))));
    assert!(bites(unlinked_decisions(&one("decisions/0001-why.md", "# Why"))));
    let linked = [
        Source::new("decisions/0001-why.md", ""),
        Source::new("ARCHITECTURE.md", "[why](decisions/0001-why.md)"),
    ];
    assert!(unlinked_decisions(&linked).is_empty());

    assert!(bites(careless_scripts(&one("scripts/x", "#!/usr/bin/env bash\n# Does x.\necho\n"))));
}
