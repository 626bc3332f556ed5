//! Notices on a real server and receivers that are sometimes away: once for each trouble and once for its end, and over a
//! kill at least once; over HTTP and SMTP, with TLS and without.

mod installation;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use installation::{Installation, MIB, REPO, says};
use serde_json::Value;
use tests::authority::{Authority, HOST};
use tests::backstay::Backstay;
use tests::lab::{Lab, PATIENCE, require_qemu, until};
use tests::restic::Restic;
use tests::smtp::{MailServer, Speaks};

/// A webhook's receiver.
struct Receiver {
    address: String,
    taken: Arc<Mutex<Vec<Value>>>,
    refuses: Arc<AtomicBool>,
}

impl Receiver {
    fn start() -> Receiver {
        Receiver::listening(None)
    }

    fn listening(authority: Option<Authority>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let scheme = if authority.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://{HOST}:{port}/notices");
        let (taken, refuses) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (of_thread, down) = (Arc::clone(&taken), Arc::clone(&refuses));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket takes a time limit");
                let down = down.load(Ordering::SeqCst);
                match &authority {
                    None => serve(stream, &of_thread, down),
                    Some(authority) => serve(authority.wrap(stream), &of_thread, down),
                }
            }
        });
        Receiver { address, taken, refuses }
    }

    /// From now on it takes tests alone.
    fn refuses(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    fn taken(&self) -> Vec<Value> {
        self.taken.lock().expect("no thread of the receiver panics").clone()
    }

    /// Waits for a notice of this kind and subject.
    fn until(&self, kind: &str, subject: &str) -> Value {
        until(&format!("a notice `{kind}` of `{subject}`"), PATIENCE, || {
            self.taken().into_iter().find(|it| it["kind"] == kind && it["subject"] == subject)
        })
    }

    /// The ids of what was taken of this kind and subject: a repeat has the same.
    fn ids(&self, kind: &str, subject: &str) -> BTreeSet<String> {
        let wanted = self.taken().into_iter().filter(|it| it["kind"] == kind && it["subject"] == subject);
        wanted.map(|it| it["id"].as_str().expect("an id").to_owned()).collect()
    }
}

fn serve(stream: impl Read + Write, taken: &Mutex<Vec<Value>>, refuse: bool) {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length, mut key) = (String::new(), 0, String::new());
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().expect("a length"),
            "idempotency-key" => key = value.trim().to_owned(),
            _ => {}
        }
        line.clear();
    }
    let mut body = vec![0; length];
    // A client that does not trust us goes before it says anything.
    if length == 0 || reader.read_exact(&mut body).is_err() {
        return;
    }
    let notice: Value = serde_json::from_slice(&body).expect("JSON");
    let refuse = refuse && notice["kind"] != "test";
    let status = if refuse { "503 Service Unavailable" } else { "204 No Content" };
    if !refuse {
        assert_eq!(notice["id"], key.as_str(), "the id is in the header too");
        taken.lock().expect("no thread of the receiver panics").push(notice);
    }
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _gone = reader.get_mut().write_all(answer.as_bytes());
}

fn install(receiver: &Receiver, more: &str) -> Installation {
    install_in(Lab::new(), &format!("webhook = \"{}\"\n{more}", receiver.address))
}

fn install_in(lab: Lab, notify: &str) -> Installation {
    let restic = Restic::new(&lab, REPO);
    let backstay = start(&lab, notify);
    let site = Installation { backstay, restic, lab };
    let (path, password) = (site.repository(), site.password());
    site.backstay.ok(&["repo", "add", REPO, "--path", &path, "--password-file", &password]);
    site
}

#[test]
fn trouble_and_its_end_are_told_once_and_over_a_kill() {
    if !require_qemu() {
        return;
    }
    let receiver = Receiver::start();
    let mut site = install(&receiver, "");
    for expected in ["run skipped", "job failed", "a notice was not delivered"] {
        site.backstay.expect_log(expected);
    }
    assert_eq!(site.backstay.ok(&["notify", "test"])["delivered"], true);
    let test = receiver.until("test", "test");
    says(test["text"].as_str().unwrap_or_default(), &["a test"]);

    let _qsd = site.vm("vm", 1, 4 * MIB);
    let away = site.lab.path("away");
    fs::rename(site.repository(), &away).expect("a folder that can be moved");
    receiver.refuses(true);
    let file = site.path("often.toml");
    let policy = format!(
        "name = \"often\"\nrepositories = [\"{REPO}\"]\nconsistency = \"crash\"\nselect = {{ names = [\"*\"] }}\n\
         retry = {{ attempts = 1 }}\nschedules = [{{ cron = \"@every 2s\" }}]\n"
    );
    fs::write(&file, policy).expect("the lab's folder takes a file");
    site.backstay.ok(&["policy", "apply", "-f", &file]);
    let failed = |site: &Installation| {
        let jobs = site.backstay.ok(&["job", "list", "--vm", "vm"]);
        jobs.as_array().into_iter().flatten().filter(|job| job["state"] == "failed").count()
    };
    until("several runs failed", PATIENCE, || (failed(&site) >= 3).then_some(()));
    let owed = site.backstay.ok(&["notify", "list"]);
    assert_eq!(owed.as_array().map(Vec::len), Some(1), "one notice for one trouble: {owed}");
    assert!(receiver.ids("alarm", "backup").is_empty());
    // A test waits for nobody's turn.
    assert_eq!(site.backstay.ok(&["notify", "test"])["delivered"], true);
    assert_eq!(receiver.ids("test", "test").len(), 2);

    site.backstay.kill();
    receiver.refuses(false);
    site.backstay.restart();
    let alarm = receiver.until("alarm", "backup");
    says(alarm["text"].as_str().unwrap_or_default(), &["vm", REPO, "job retry"]);
    until("nothing is owed", PATIENCE, || {
        (site.backstay.ok(&["notify", "list"]).as_array().map(Vec::len) == Some(0)).then_some(())
    });
    fs::rename(&away, site.repository()).expect("a folder that can be moved");
    receiver.until("recovery", "backup");
    site.backstay.ok(&["policy", "pause", "often"]);
    assert_eq!(receiver.ids("alarm", "backup").len(), 1);
    assert_eq!(receiver.ids("recovery", "backup").len(), 1);
}

#[test]
fn a_vm_without_a_good_point_is_told_of() {
    if !require_qemu() {
        return;
    }
    let receiver = Receiver::start();
    let site = install(&receiver, "good_point_within = \"2s\"\n");
    let _qsd = site.vm("vm", 1, 4 * MIB);
    let alarm = receiver.until("alarm", "good-point");
    says(alarm["text"].as_str().unwrap_or_default(), &["vm has no good restore point at all"]);
    site.backup("vm");
    receiver.until("recovery", "good-point");
}

fn start(lab: &Lab, notify: &str) -> Backstay {
    let config = lab.path("backstay.toml");
    fs::write(&config, format!("[notify]\n{notify}")).expect("a file");
    let config = config.to_str().expect("the lab's paths are ASCII").to_owned();
    Backstay::start_with(lab, "data", &["--config", &config], &[])
}

/// A table of the configuration for mail to one of these servers.
fn mail_to(name: &str, server: &MailServer, more: &str) -> String {
    let port = server.port();
    format!(
        "[notify.to.{name}]\nmail = [\"ops@example.org\", \"Night Watch <night@example.org>\"]\n\
         from = \"Backstay <backstay@example.org>\"\nserver = \"{HOST}:{port}\"\nca = \"authority.pem\"\n{more}"
    )
}

/// What each receiver said to a test: whether it took it, and its answer.
fn said(tested: &Value) -> Vec<(&str, bool, &str)> {
    let receivers = tested["receivers"].as_array().expect("a list");
    receivers
        .iter()
        .map(|it| {
            let text = |key: &str| it[key].as_str().expect("a text");
            (text("name"), it["delivered"].as_bool().expect("a flag"), text("answer"))
        })
        .collect()
}

#[test]
fn a_webhook_over_tls_is_trusted_by_its_authority_only() {
    let lab = Lab::new();
    let authority = Authority::new(&lab);
    let receiver = Receiver::listening(Some(authority));
    let config = format!(
        "[notify.to.known]\nwebhook = \"{0}\"\nca = \"authority.pem\"\n[notify.to.stranger]\nwebhook = \"{0}\"\n",
        receiver.address
    );
    let mut backstay = start(&lab, &config);
    backstay.expect_log("a notice was not delivered");
    let answer = backstay.run(&["notify", "test"]);
    assert_eq!(answer.status, 1, "{}", answer.err);
    let tested = answer.json;
    match said(&tested)[..] {
        [("known", true, known), ("stranger", false, stranger)] => {
            says(known, &["204"]);
            says(stranger, &["UnknownIssuer", "`ca`"]);
        }
        _ => panic!("{tested}"),
    }
    assert_eq!(receiver.ids("test", "test").len(), 1);
}

#[test]
fn mail_is_taken_by_servers_of_every_kind_and_never_said_in_the_clear() {
    let lab = Lab::new();
    let authority = Authority::new(&lab);
    let [plain, starttls, implicit] =
        [Speaks::Plainly, Speaks::StartTls, Speaks::Tls].map(|speaks| MailServer::start(speaks, &authority));
    for (file, password) in [("password", "secret\n"), ("wrong", "guess\n")] {
        fs::write(lab.path(file), password).expect("a file");
    }
    let config = [
        mail_to("a-plain", &plain, "tls = \"none\"\n"),
        mail_to("b-starttls", &starttls, "user = \"backstay\"\npassword_file = \"password\"\n"),
        mail_to("c-implicit", &implicit, "tls = \"implicit\"\n"),
        mail_to("d-guess", &starttls, "user = \"backstay\"\npassword_file = \"wrong\"\n"),
        mail_to("e-no-tls", &plain, "user = \"backstay\"\npassword_file = \"password\"\n"),
    ];
    let mut backstay = start(&lab, &config.concat());
    backstay.expect_log("a notice was not delivered");
    let answer = backstay.run(&["notify", "test"]);
    assert_eq!(answer.status, 1, "{}", answer.err);
    let tested = answer.json;
    let said = said(&tested);
    assert_eq!(said.iter().map(|it| it.1).collect::<Vec<_>>(), [true, true, true, false, false], "{tested}");
    says(said[0].2, &["250", "queued as 4711"]);
    says(said[3].2, &["535", "wrong name or password"]);
    says(said[4].2, &["STARTTLS"]);
    for (server, encrypted, logged_in) in
        [(&plain, false, false), (&starttls, true, true), (&implicit, true, false)]
    {
        let [mail] = &server.taken()[..] else { panic!("one mail each: {:?}", server.taken()) };
        assert_eq!((mail.encrypted, mail.logged_in), (encrypted, logged_in));
        assert_eq!(mail.to, ["ops@example.org", "night@example.org"]);
        assert_eq!(mail.head("Subject"), "Backstay test");
        assert_eq!(mail.head("Auto-Submitted"), "auto-generated");
        assert_eq!(mail.head("Message-ID"), plain.taken()[0].head("Message-ID"), "one notice, one id");
        says(&mail.text, &["a test: notices of this installation arrive here"]);
    }
}

#[test]
fn each_receiver_is_told_by_itself_and_a_repeat_has_the_same_id() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let server = MailServer::start(Speaks::Tls, &Authority::new(&lab));
    let webhook = Receiver::start();
    let config = format!(
        "good_point_within = \"2s\"\nwebhook = \"{}\"\n{}",
        webhook.address,
        mail_to("mail", &server, "tls = \"implicit\"\n")
    );
    server.refuses(true);
    let mut site = install_in(lab, &config);
    site.backstay.expect_log("a notice was not delivered");
    let _qsd = site.vm("vm", 1, 4 * MIB);
    let alarm = webhook.until("alarm", "good-point");
    let owed = |site: &Installation| site.backstay.ok(&["notify", "list"]);
    until("the webhook's answer is in the journal", PATIENCE, || {
        (owed(&site)[0]["owed"] == serde_json::json!(["mail"])).then_some(())
    });

    site.backstay.kill();
    server.refuses(false);
    server.falls_silent();
    site.backstay.restart();
    until("nothing is owed", PATIENCE, || (owed(&site).as_array().map(Vec::len) == Some(0)).then_some(()));
    let mails = server.taken();
    let ids: Vec<&str> = mails.iter().map(|mail| mail.head("Message-ID")).collect();
    let id = format!("<{}@example.org>", alarm["id"].as_str().expect("an id"));
    assert_eq!(
        ids,
        [id.as_str(), id.as_str()],
        "the one whose answer was lost, and the one whose answer came"
    );
    assert_eq!(mails[1].head("Subject"), "Backstay alarm: good-point of vm");
    let times = webhook.taken().iter().filter(|it| it["id"] == alarm["id"]).count();
    assert_eq!(times, 1, "what a receiver has taken is not sent to it again");
}

#[test]
fn without_a_receiver_a_test_is_refused_with_advice() {
    let lab = Lab::new();
    let backstay = Backstay::start(&lab, "data");
    says(&backstay.refused(2, &["notify", "test"]), &["webhook", "[notify]"]);
}
