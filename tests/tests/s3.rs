//! A repository in an object store: Debian's restic and we on the same bucket, and a network that fails in every way.
//!
//! moto's server is the store. The tests of faults use the `repository` crate itself, with little patience, so that what
//! takes minutes in the field takes seconds here.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use repository::{
    AccessKey, Backend, BackendError, BlobKind, CheckError, Content, FileName, InitOptions, KeyDerivation,
    LockError, LockKind, OpenError, PackId, Patience, PruneOptions, ReadData, Repository, S3, S3Options,
    SessionOptions, Snapshot, SnapshotId, TreeBuilder, WriteError, unwatched,
};
use tests::backstay::Backstay;
use tests::lab::{Lab, require, require_qemu};
use tests::point::Point;
use tests::proxy::{Fault, Proxy, Rule};
use tests::qsd::{Options, Qsd};
use tests::restic::Restic;
use tests::s3::{KEYS, Moto};
use tests::site::{add_vm, must_be_equal, noise};

const PASSWORD: &str = "correct horse battery staple";
const MIB: usize = 1 << 20;
const ALWAYS: usize = usize::MAX;

/// Enough for a machine that does something else too, and short enough to wait for.
const BRIEF: Patience = Patience {
    connect: Duration::from_secs(5),
    stall: Duration::from_secs(2),
    retry: Duration::from_secs(4),
};

/// A store, a network before it that can fail, and restic that reaches the store without it.
struct Store {
    proxy: Proxy,
    restic: Restic,
    moto: Moto,
    // Last, since what is above lies in it.
    lab: Lab,
}

impl Store {
    #[track_caller]
    fn new() -> Store {
        let lab = Lab::new();
        let moto = Moto::start(&lab, "vault");
        let proxy = Proxy::start(moto.address());
        let location = format!("s3:http://{}/vault/site-a", moto.address());
        let restic = Restic::at(&lab, "vault", location.into(), KEYS.to_vec());
        Store { proxy, restic, moto, lab }
    }

    /// Through the network that can fail, with so much patience.
    fn backend(&self, patience: Patience) -> Arc<dyn Backend> {
        self.backend_of("site-a", patience)
    }

    /// The same for another repository in the bucket.
    fn backend_of(&self, prefix: &str, patience: Patience) -> Arc<dyn Backend> {
        let url = format!("http://{}/vault/{prefix}", self.proxy.address());
        let key = AccessKey { id: KEYS[0].1.to_owned(), secret: KEYS[1].1.to_owned() };
        let options = S3Options { first: patience, lasting: patience, key: Some(key), rates: Vec::new() };
        Arc::new(S3::at(&url, &options).expect("a URL and keys"))
    }

    #[track_caller]
    fn init(&self) -> Repository {
        Repository::init(self.backend(BRIEF), PASSWORD, &cheap()).expect("an empty bucket")
    }

    /// As another process would see it.
    #[track_caller]
    fn reopened(&self) -> Repository {
        Repository::open(self.backend(BRIEF), PASSWORD).expect("it was made")
    }

    #[track_caller]
    fn must_be_sound(&self) {
        let report = self.reopened().check(ReadData::All, &unwatched).expect("the network works");
        assert!(report.is_healthy(), "{:#?}", report.problems);
        assert_eq!(self.moto.keys("vault", "site-a/locks/"), [""; 0], "locks are left");
    }
}

fn installed() -> bool {
    require(&["restic"]) && Moto::installed()
}

/// Cheap to open: these tests are not about guessing passwords.
fn cheap() -> InitOptions {
    InitOptions { key_derivation: KeyDerivation::Fixed { log_n: 10, r: 8, p: 1 }, ..InitOptions::default() }
}

/// Saves `content` as the file `disk.img`.
fn backup(repository: &Repository, content: &[u8]) -> Result<SnapshotId, WriteError> {
    let session = repository.session(&SessionOptions::default())?;
    let chunks = content.chunks(repository.chunk_size() as usize);
    let chunks = chunks.map(|chunk| Ok(session.save(BlobKind::Data, chunk)?.digest));
    let chunks = chunks.collect::<Result<Vec<_>, WriteError>>()?;
    let mut tree = TreeBuilder::new(Utc::now());
    tree.file("disk.img", content.len() as u64, chunks).expect("a plain name");
    let tree = tree.save(&session)?;
    session.commit()?;
    session.save_snapshot(Snapshot::new(tree, Utc::now(), vec!["/disk.img".to_owned()]))
}

#[track_caller]
fn read(repository: &Repository, snapshot: SnapshotId) -> Vec<u8> {
    let tree = repository.load_snapshot(snapshot).expect("it is there").tree;
    let Content::File { chunks, .. } = repository.node_at(&tree, "disk.img").expect("it was saved").content
    else {
        panic!("disk.img is no file")
    };
    chunks.iter().flat_map(|chunk| repository.load_blob(chunk).expect("a chunk of it")).collect()
}

fn rule(methods: &'static [&'static str], path: &'static str, times: usize, fault: Fault) -> Rule {
    Rule { methods, path, after: 0, times, fault }
}

#[test]
fn restic_and_we_share_a_bucket() {
    if !installed() {
        return;
    }
    let store = Store::new();
    let repository = store.init();
    let (first, second) = (noise(1, 40 * MIB), [noise(1, 20 * MIB), noise(2, 20 * MIB)].concat());
    let old = backup(&repository, &first).expect("the network works");
    let new = backup(&repository, &second).expect("the network works");
    store.restic.check();
    let dumped = store.lab.path("dumped");
    store.restic.dump(&new.to_string(), "/disk.img", &dumped);
    assert!(std::fs::read(&dumped).expect("restic wrote it") == second);

    // Each honours the other's locks, and writes into what the other made.
    let session = repository.session(&SessionOptions::default()).expect("nobody else is there");
    let refused = store.restic.answer(&["prune"]);
    assert!(refused.status != 0 && refused.err.contains("already locked"), "{refused:?}");
    drop(session);
    let alone = repository.lock(LockKind::Exclusive).expect("nobody else is there");
    assert!(store.restic.answer(&["snapshots"]).status != 0);
    let refused = store.reopened().session(&SessionOptions::default()).expect_err("locked exclusively");
    assert!(matches!(refused, WriteError::Lock(LockError::Locked { exclusive: true, .. })), "{refused}");
    drop(alone);
    store.restic.ok(&["backup", dumped.to_str().expect("the lab's paths are ASCII")]);
    store.restic.ok(&["forget", &old.to_string(), "--prune", "--max-unused", "0"]);
    // This one has the old index in memory.
    assert!(read(&repository, new) == second);
    repository.forget(new).expect("it is there");
    let options = PruneOptions { max_unused_percent: 0, ..PruneOptions::default() };
    let pruned = repository.prune(&options, &unwatched).expect("nobody else is there");
    assert!(pruned.bytes_removed > 0, "{pruned:?}");
    store.restic.check();
    store.must_be_sound();
    assert!(backup(&repository, &first).is_ok_and(|id| read(&store.reopened(), id) == first));
}

#[test]
fn a_network_that_fails_now_and_then_costs_time_only() {
    if !installed() {
        return;
    }
    let store = Store::new();
    let repository = store.init();
    let first = noise(1, 6 * MIB);
    let old = backup(&repository, &first).expect("the network works");
    let second = noise(2, 40 * MIB);
    store.proxy.set(&[
        rule(&["PUT"], "/locks/", 1, Fault::CutAnswer(0)),
        rule(&["PUT"], "/data/", 2, Fault::CutRequest(MIB)),
        rule(&["PUT"], "/data/", 1, Fault::Answer(500)),
        rule(&["PUT"], "/data/", 1, Fault::Hang),
        rule(&["PUT"], "/index/", 2, Fault::Answer(503)),
        rule(&["PUT"], "/snapshots/", 1, Fault::CutAnswer(20)),
        rule(&["DELETE"], "/locks/", 1, Fault::Answer(500)),
        rule(&["HEAD"], "/locks/", 1, Fault::CutAnswer(10)),
    ]);
    let new = backup(&repository, &second).expect("every request succeeds in the end");
    store.proxy.must_be_spent();
    store.proxy.set(&[
        rule(&["GET"], "list-type", 2, Fault::CutAnswer(400)),
        rule(&["GET"], "/data/", 2, Fault::CutAnswer(MIB / 2)),
        rule(&["GET"], "/index/", 1, Fault::CutAnswer(300)),
        rule(&["GET"], "/data/", 1, Fault::Hang),
    ]);
    let reopened = store.reopened();
    assert!(read(&reopened, new) == second && read(&reopened, old) == first);
    store.proxy.must_be_spent();
    store.must_be_sound();
    store.restic.check();
}

#[test]
fn a_server_that_stops_answering_fails_the_attempt_and_harms_nothing() {
    if !installed() {
        return;
    }
    let store = Store::new();
    let repository = store.init();
    let (first, second) = (noise(1, 6 * MIB), noise(2, 40 * MIB));
    let old = backup(&repository, &first).expect("the network works");
    for (fault, says) in
        [(Fault::Hang, "no answer in time"), (Fault::Answer(503), "503"), (Fault::CutRequest(MIB), "broke")]
    {
        store.proxy.set(&[rule(&["PUT"], "/data/", ALWAYS, fault)]);
        let begun = Instant::now();
        let failed = backup(&repository, &second).expect_err("no pack can be written");
        let WriteError::Backend(BackendError::Unreachable { path, what }) = &failed else {
            panic!("{fault:?}: {failed}")
        };
        assert!(what.contains(says) && path.starts_with("s3:http:"), "{fault:?}: {failed}");
        // Twice the patience: a request that is under way when it ends has its own. More for a busy machine.
        assert!(begun.elapsed() < 10 * (BRIEF.retry + BRIEF.stall), "{fault:?} took {:?}", begun.elapsed());
        store.proxy.set(&[]);
        store.must_be_sound();
        assert!(read(&store.reopened(), old) == first);
    }
    let new = backup(&repository, &second).expect("the network works again");
    assert!(read(&store.reopened(), new) == second);
    store.restic.check();
}

/// The store refuses every change from the n-th on, for each n until the backup gets through.
#[test]
fn a_backup_may_fail_at_every_change_and_be_repeated() {
    if !installed() {
        return;
    }
    let store = Store::new();
    let first = noise(1, 3 * MIB);
    let old = backup(&store.init(), &first).expect("the network works");
    let hasty = Patience { retry: Duration::ZERO, ..BRIEF };
    let content = noise(2, 40 * MIB);
    for after in 0.. {
        let broken = Rule { methods: &["PUT"], path: "", after, times: ALWAYS, fault: Fault::Answer(500) };
        store.proxy.set(&[]);
        let repository = Repository::open(store.backend(hasty), PASSWORD).expect("reading works");
        store.proxy.set(&[broken]);
        let done = backup(&repository, &content);
        store.proxy.set(&[]);
        store.must_be_sound();
        assert!(read(&store.reopened(), old) == first, "after {after} changes");
        if let Ok(new) = done {
            assert!(after > 4, "a lock, packs, an index file and a snapshot were to be written");
            assert!(read(&store.reopened(), new) == content);
            return;
        }
    }
}

/// The same for a prune, whose changes are removals too, and of which the last answer may be what is lost.
#[test]
fn a_prune_may_fail_at_every_change_and_be_repeated() {
    if !installed() {
        return;
    }
    for fault in [Fault::Answer(500), Fault::CutAnswer(0)] {
        let store = Store::new();
        let repository = store.init();
        let kept = noise(1, 24 * MIB);
        let mut other = kept.clone();
        other[3 * MIB..6 * MIB].copy_from_slice(&noise(2, 3 * MIB));
        let goes = backup(&repository, &other).expect("the network works");
        let stays = backup(&repository, &kept).expect("the network works");
        repository.forget(goes).expect("it is there");
        let hasty = Patience { retry: Duration::ZERO, ..BRIEF };
        let strict = PruneOptions { max_unused_percent: 0, ..PruneOptions::default() };
        let mut failed = 0;
        for after in 0.. {
            let repository = Repository::open(store.backend(hasty), PASSWORD).expect("reading works");
            let times = if fault == Fault::CutAnswer(0) { 1 } else { ALWAYS };
            store.proxy.set(&[Rule { methods: &["PUT", "DELETE"], path: "", after, times, fault }]);
            let done = repository.prune(&strict, &unwatched);
            store.proxy.set(&[]);
            let report = store.reopened().check(ReadData::All, &unwatched);
            // A lock that could not be removed is ours, and this process lives: nobody else's work ends it.
            let report = report.unwrap_or_else(|error| {
                assert!(matches!(error, CheckError::Lock(_)), "{error}");
                store.restic.ok(&["unlock", "--remove-all"]);
                store.reopened().check(ReadData::All, &unwatched).expect("nothing is locked")
            });
            assert!(report.is_healthy(), "{fault:?} after {after} changes: {:?}", report.problems);
            assert!(read(&store.reopened(), stays) == kept, "{fault:?} after {after} changes");
            store.restic.ok(&["unlock", "--remove-all"]);
            match done {
                Ok(done) if done.packs_removed == 0 => break,
                Ok(_) => {}
                Err(_) => failed += 1,
            }
        }
        assert!(failed > 3, "a lock, packs, an index file and removals were to be made: {failed}");
        store.must_be_sound();
        store.restic.check();
    }
}

#[test]
fn a_large_file_goes_up_in_parts_and_only_the_broken_part_again() {
    if !installed() {
        return;
    }
    let store = Store::new();
    store.init();
    let backend = store.backend(BRIEF);
    let content = noise(3, 30 * MIB);
    let name = FileName::pack(PackId::of(&content));
    store.proxy.set(&[
        rule(&["PUT"], "partNumber=2", 2, Fault::CutRequest(MIB)),
        rule(&["PUT"], "partNumber=3", 1, Fault::Answer(503)),
        // Each of the others would be a part that is sent twice.
        Rule { methods: &["PUT"], path: "partNumber=1", after: 1, times: ALWAYS, fault: Fault::Answer(400) },
        Rule { methods: &["PUT"], path: "partNumber=4", after: 1, times: ALWAYS, fault: Fault::Answer(400) },
    ]);
    backend.write(&name, &content).expect("every part arrives in the end");
    assert!(backend.read(&name).expect("it was written") == content);
    let mut range = vec![0; 100];
    backend.read_range(&name, 12_345, &mut range).expect("it is long enough");
    assert!(range == content[12_345..12_445]);
    for offset in [content.len() - 1, content.len(), content.len() + 5] {
        let short = backend.read_range(&name, offset as u64, &mut range).expect_err("it ends before");
        assert!(
            matches!(&short, BackendError::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof),
            "{short}"
        );
    }
    // A broken upload leaves nothing under the name.
    store.proxy.set(&[rule(&["PUT"], "partNumber=2", ALWAYS, Fault::Answer(400))]);
    let other = FileName::pack(PackId([7; 32]));
    backend.write(&other, &content).expect_err("one part is refused");
    store.proxy.set(&[]);
    assert!(!backend.exists(&other).expect("the network works"));
}

#[test]
fn of_two_that_make_a_repository_at_once_one_does() {
    if !installed() {
        return;
    }
    let store = Store::new();
    for round in 0..5 {
        let prefix = format!("round-{round}");
        let backend = || store.backend_of(&prefix, BRIEF);
        let made = std::thread::scope(|scope| {
            let attempt = || Repository::init(backend(), PASSWORD, &cheap());
            let attempts = [scope.spawn(attempt), scope.spawn(attempt), scope.spawn(attempt)];
            attempts.map(|attempt| attempt.join().expect("no panic"))
        });
        let ids: Vec<_> = made.iter().flatten().map(Repository::id).collect();
        assert_eq!(ids.len(), 1, "{made:?}");
        assert!(
            made.iter()
                .filter_map(|made| made.as_ref().err())
                .all(|error| matches!(error, OpenError::AlreadyInitialised { .. })),
            "{made:?}"
        );
        assert_eq!(Repository::open(backend(), PASSWORD).expect("one was made").id(), ids[0]);
        assert_eq!(store.moto.keys("vault", &format!("{prefix}/keys/")).len(), 1);
    }
    // The answer that says "made" is lost, and the request is repeated: it is still the one that made it.
    store.proxy.set(&[rule(&["PUT"], "/config", 1, Fault::CutAnswer(0))]);
    let made = store.init();
    store.proxy.must_be_spent();
    assert_eq!(store.reopened().id(), made.id());
}

#[test]
fn what_is_wrong_with_a_store_is_said_and_secrets_are_not() {
    if !installed() {
        return;
    }
    let store = Store::new();
    let key = || Some(AccessKey { id: "an-id".to_owned(), secret: "hush".to_owned() });
    let options = S3Options { first: BRIEF, lasting: BRIEF, key: key(), rates: Vec::new() };
    let at =
        |url: &str| S3::at(url, &options).map(|backend| Repository::open(Arc::new(backend), PASSWORD).err());
    let moto = store.moto.address();

    let said = |url: &str| at(url).expect("a URL").expect("no repository there").to_string();
    assert!(said(&format!("http://{moto}/nowhere/x")).contains("no such bucket"));
    assert!(said(&format!("http://{moto}/vault/x")).contains("there is no repository at"));
    let nobody = said("http://127.0.0.1:1/vault/x");
    assert!(nobody.contains("no connection") && nobody.contains("refused"), "{nobody}");
    store.proxy.set(&[rule(&[], "/config", ALWAYS, Fault::Answer(403))]);
    let url = format!("http://{}/vault/x", store.proxy.address());
    let forbidden = said(&url);
    assert!(forbidden.contains("not permitted") && forbidden.contains("the program"), "{forbidden}");
    assert!(!format!("{options:?} {forbidden}").contains("hush"));
    // Something else is in the bucket: it is left alone.
    store.moto.ask("PUT /vault/photos/holiday.jpg HTTP/1.1");
    let place = S3::at(&format!("http://{moto}/vault/photos"), &options).expect("a URL");
    let refused = Repository::init(Arc::new(place), PASSWORD, &cheap()).expect_err("not empty");
    assert!(matches!(&refused, OpenError::Foreign { why, .. } if why.contains("holiday.jpg")), "{refused}");
}

/// The whole product on a bucket, through a network that fails now and then.
#[test]
fn a_vm_is_backed_up_into_a_bucket_and_comes_back() {
    if !installed() || !require_qemu() {
        return;
    }
    let store = Store::new();
    let lab = &store.lab;
    let mut backstay = Backstay::start_with(lab, "data", &[], &KEYS);
    backstay.expect_log("job failed");
    let qsd = Qsd::start(lab, Options::new("vm", 2, 64 * MIB as u64));
    add_vm(&backstay, &qsd.qmp_socket(), ["disk0", "disk1"].into_iter());
    let url = format!("http://{}/vault/site-a", store.proxy.address());
    let password = store.restic.password_file().to_str().expect("the lab's paths are ASCII").to_owned();
    let added = backstay.ok(&["repo", "add", "main", "--s3", &url, "--password-file", &password]);
    assert_eq!(added["created"], true, "{added}");
    assert_eq!(backstay.ok(&["repo", "list"])[0]["path"], format!("s3:{url}"));
    let told = backstay
        .refused(2, &["repo", "add", "x", "--s3", "https://id:hush@h/b", "--password-file", &password]);
    assert!(told.contains("credentials do not belong") && !told.contains("hush"), "{told}");

    let write = |disk: &str, seed: u64, offset: usize, length: usize| {
        let file = std::fs::File::options().write(true).open(qsd.file(disk)).expect("the disk is there");
        file.write_all_at(&noise(seed, length), offset as u64).expect("the disk takes a write");
    };
    write("disk0", 1, 0, 40 * MIB);
    write("disk1", 2, 5 * MIB, 9 * MIB);
    let full = Point::back_up(&backstay, &[]);
    let images = |folder: &Path| ["disk0", "disk1"].map(|disk| folder.join(format!("{disk}.img")));
    let before = lab.folder("before");
    backstay.ok(&["restore", &full.id, "--to", before.to_str().expect("ASCII"), "--wait"]);
    for (disk, image) in ["disk0", "disk1"].into_iter().zip(images(&before)) {
        must_be_equal(&image, &qsd.file(disk));
    }

    // What changed goes up through a network that breaks in the middle.
    write("disk0", 3, 7 * MIB, 20 * MIB);
    store.proxy.set(&[
        rule(&["PUT"], "/data/", 2, Fault::CutRequest(MIB)),
        rule(&["PUT"], "/snapshots/", 1, Fault::Answer(503)),
    ]);
    let incremental = Point::back_up(&backstay, &[]);
    incremental.must_be_incremental();
    store.proxy.must_be_spent();
    store.restic.check();
    let (ours, theirs) = (lab.folder("ours"), lab.folder("theirs"));
    backstay.ok(&["restore", &incremental.id, "--to", ours.to_str().expect("ASCII"), "--wait"]);
    store.restic.dump_all(&incremental.snapshot, &theirs);
    for ((disk, ours), theirs) in ["disk0", "disk1"].into_iter().zip(images(&ours)).zip(images(&theirs)) {
        must_be_equal(&ours, &qsd.file(disk));
        must_be_equal(&ours, &theirs);
    }

    // A store that refuses fails the attempt, and the points that were there stay.
    write("disk1", 4, 0, 3 * MIB);
    store.proxy.set(&[rule(&["PUT"], "/data/", ALWAYS, Fault::Answer(403))]);
    let failed = backstay.run(&["backup", "vm", "--wait"]);
    assert_eq!(failed.status, 1, "{}", failed.json);
    let reason = failed.json["jobs"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("not permitted") && reason.contains("AWS_ACCESS_KEY_ID"), "{reason}");
    store.proxy.set(&[]);
    assert_eq!(backstay.ok(&["repo", "check", "main", "--read-data"])["ok"], true);
    backstay.ok(&["point", "forget", &full.id]);
    let pruned = backstay.ok(&["repo", "prune", "main"]);
    assert!(pruned["freed_bytes"].as_u64().is_some_and(|freed| freed > 0), "{pruned}");
    Point::back_up(&backstay, &[]).must_be_incremental();
    store.restic.check();
    assert_eq!(store.moto.keys("vault", "site-a/locks/"), [""; 0], "locks are left");
}
