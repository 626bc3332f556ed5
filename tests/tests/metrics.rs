//! `/metrics` of the built server, read by a strict reader of Prometheus' text format.

mod installation;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use installation::{Installation, MIB, text, write};
use serde_json::{Value, json};
use tests::lab::{PATIENCE, require_qemu};
use tests::qsd::{Options, Qsd};

/// What was scraped: of each metric its samples, by their labels.
type Samples = BTreeMap<String, BTreeMap<BTreeMap<String, String>, f64>>;

/// Reads the format as <https://prometheus.io/docs/instrumenting/exposition_formats/> has it, and no other.
fn read(text: &str) -> Samples {
    assert!(text.ends_with('\n'), "the last line ends too");
    let mut kinds = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples = Samples::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, _) = rest.split_once(' ').expect("a name and its help");
            assert!(helped.insert(name.to_owned()), "{name} is explained twice");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and its type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kinds.insert(name.to_owned(), kind), None, "{name} is typed twice");
            continue;
        }
        let (name, labels, value) = sample(line);
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let kind = family.and_then(|family| kinds.get(family)).or_else(|| kinds.get(name));
        let kind = kind.unwrap_or_else(|| panic!("{name} has no type before its samples"));
        assert_eq!(*kind == "counter", name.ends_with("_total"), "{line}");
        let twice = samples.entry(name.to_owned()).or_default().insert(labels, value);
        assert_eq!(twice, None, "told twice: {line}");
    }
    samples
}

fn sample(line: &str) -> (&str, BTreeMap<String, String>, f64) {
    let (left, value) = line.rsplit_once(' ').expect("a value");
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect("a number") };
    let (name, labels) = left.split_once('{').map_or((left, ""), |(name, rest)| {
        (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("open labels: {line}")))
    });
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
    let pair = |pair: &str| {
        let (label, value) = pair.split_once('=').unwrap_or_else(|| panic!("no label: {line}"));
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        (label.to_owned(), value.unwrap_or_else(|| panic!("not quoted: {line}")).to_owned())
    };
    let labels = labels.split(',').filter(|pair| !pair.is_empty()).map(pair).collect();
    (name, labels, value)
}

fn scrape(site: &Installation) -> Samples {
    let mut stream = UnixStream::connect(site.backstay.socket()).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time limit");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.0 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    read(body)
}

fn value(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
    samples.get(name)?.get(&labels).copied()
}

#[test]
fn what_happened_is_in_the_metrics() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log("job failed");
    let mut qsd = site.vm("vm", 1, 4 * MIB);
    let age = "backstay_last_good_point_age_seconds";
    let vm = [("vm", "vm")];
    assert_eq!(value(&scrape(&site), age, &vm), Some(f64::INFINITY), "never backed up");

    write(&qsd.file("disk0"), 0, 65536, 1);
    let point = site.backup("vm");
    site.backup("vm");
    let samples = scrape(&site);
    assert!(value(&samples, age, &vm).is_some_and(|age| (0.0..PATIENCE.as_secs_f64()).contains(&age)));
    assert_eq!(value(&samples, "backstay_points", &vm), Some(2.0));
    let target = [("vm", "vm"), ("repository", "main")];
    let read = value(&samples, "backstay_read_bytes_total", &target).expect("bytes were read");
    assert!(read >= point["disks"][0]["read_bytes"].as_f64().expect("a number"));
    assert!(value(&samples, "backstay_stored_bytes_total", &target) > Some(0.0));
    assert_eq!(value(&samples, "backstay_full_disks_total", &[("reason", "first")]), Some(1.0));
    let done = [("kind", "backup"), ("outcome", "done"), ("reason", "")];
    assert_eq!(value(&samples, "backstay_jobs_ended_total", &done), Some(2.0));
    assert_eq!(value(&samples, "backstay_job_duration_seconds_count", &[("kind", "backup")]), Some(2.0));
    assert!(value(&samples, "backstay_journal_append_seconds_count", &[]) > Some(10.0));
    assert_eq!(value(&samples, "backstay_jobs", &[("state", "queued")]), Some(0.0));
    assert_eq!(value(&samples, "backstay_begin_seconds_count", &vm), Some(2.0));
    assert!(value(&samples, "backstay_begin_seconds_sum", &vm) > Some(0.0));
    assert_eq!(value(&samples, "backstay_freeze_seconds_count", &vm), None, "nobody froze it");

    let main = [("repository", "main")];
    let stored = value(&samples, "backstay_stored_bytes_total", &target);
    assert_eq!(value(&samples, "backstay_repository_added_bytes", &main), stored, "no point went");
    assert_eq!(value(&samples, "backstay_repository_stored_bytes", &main), None, "never measured");
    let stats = site.backstay.ok(&["repo", "stats", "main"]);
    let samples = scrape(&site);
    for (metric, found) in [("stored", "stored_bytes"), ("used", "used_bytes")] {
        let metric = format!("backstay_repository_{metric}_bytes");
        assert_eq!(value(&samples, &metric, &main), stats[found].as_f64(), "{metric}");
    }

    qsd.quit();
    site.failed_backup("vm");
    let failed = [("kind", "backup"), ("outcome", "failed"), ("reason", "unreachable")];
    assert_eq!(value(&scrape(&site), "backstay_jobs_ended_total", &failed), Some(1.0));
}

#[test]
fn a_freeze_is_timed() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let qsd = Qsd::start(&site.lab, Options::new("vm", 1, MIB));
    let agent = site.lab.path("agent.sock");
    let listener = UnixListener::bind(&agent).expect("the lab's folder takes a socket");
    std::thread::spawn(move || {
        let mut frozen = false;
        listener.incoming().flatten().for_each(|stream| drop(be_an_agent(&stream, &mut frozen)));
    });
    let (qmp, agent) = (text(&qsd.qmp_socket()), text(&agent));
    site.backstay.ok(&["vm", "add", "vm", "--qmp", &qmp, "--guest-agent", &agent, "--disk", "disk0=disk0"]);
    assert_eq!(site.backup("vm")["consistency"], "filesystem");
    let samples = scrape(&site);
    assert_eq!(value(&samples, "backstay_freeze_seconds_count", &[("vm", "vm")]), Some(1.0));
    let (frozen, begun) = ("backstay_freeze_seconds_sum", "backstay_begin_seconds_sum");
    let [frozen, begun] =
        [frozen, begun].map(|name| value(&samples, name, &[("vm", "vm")]).expect("it was timed"));
    assert!(frozen > begun, "the view began while it was frozen: {frozen} s, {begun} s");
}

/// Answers as a guest agent with one file system does.
fn be_an_agent(mut stream: &UnixStream, frozen: &mut bool) -> std::io::Result<()> {
    for line in BufReader::new(stream).split(b'\n') {
        // A synchronisation may begin with a byte that ends whatever was there before.
        let line: Vec<u8> = line?.into_iter().filter(|byte| *byte != 0xff).collect();
        let Ok(asked) = serde_json::from_slice::<Value>(&line) else { continue };
        let answer = match asked["execute"].as_str() {
            Some("guest-sync-delimited") => {
                stream.write_all(&[0xff])?;
                asked["arguments"]["id"].clone()
            }
            Some("guest-fsfreeze-status") => json!(if *frozen { "frozen" } else { "thawed" }),
            Some("guest-fsfreeze-freeze") => {
                *frozen = true;
                json!(1)
            }
            Some("guest-fsfreeze-thaw") => json!(i32::from(std::mem::take(frozen))),
            _ => json!({}),
        };
        writeln!(stream, "{}", json!({ "return": answer }))?;
    }
    Ok(())
}

#[test]
fn the_manual_lists_every_metric() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let manual = std::fs::read_to_string(manual).expect("the manual");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../orchestrator/src/api/metrics.rs");
    let source = std::fs::read_to_string(source).expect("the source");
    let names: BTreeSet<&str> = source.split('"').filter(|text| text.starts_with("backstay_")).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(manual.contains(&format!("`{name}`")), "docs/metrics.md does not list {name}");
    }
}
