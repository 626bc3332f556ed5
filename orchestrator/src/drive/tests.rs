//! A journal that is full or has stopped is told, on a simulated disk.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use journal::base::Pace;
use journal::effect::VmAddress;
use journal::log::Options;
use journal::log::medium::SimulatedDisk;
use journal::record::{EpochBegan, Installed, JobQueued, PolicyApplied, VmAdded, Work};
use journal::{Epoch, Installation};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::history::Index;
use super::*;

/// What a drive has when it starts, on a disk that can be filled and broken.
async fn on(disk: &SimulatedDisk, folder: &std::path::Path) -> Arc<Shared> {
    let (log, _) = Log::open_on(Arc::new(disk.clone()), &Options::default(), |_| {}).unwrap();
    let history = History::start(Index::open(&folder.join("index")).unwrap()).unwrap();
    let bases = Keeper::start(&log, 0, Pace::default(), Box::new(|_| Ok(()))).unwrap();
    let shared = Shared {
        state: RwLock::new(State::default()),
        progress: std::sync::RwLock::default(),
        changed: watch::Sender::new(0),
        log,
        bases,
        journal: folder.join("journal"),
        history,
        counters: std::sync::Mutex::default(),
        host: "here".parse().unwrap(),
        limits: Limits::default(),
        receivers: BTreeSet::new(),
        tries: broadcast::Sender::new(1),
    };
    let scene = [
        Installed { installation: Installation(7) }.into(),
        EpochBegan { pid: 1, version: "0".into() }.into(),
        JobQueued {
            job: journal::JobId(1),
            work: Work::CheckRepository { repository: "main".parse().unwrap(), read_percent: 0 },
            due: None,
            terms: journal::record::Terms::default(),
        }
        .into(),
    ];
    append(&shared, &scene).await;
    Arc::new(shared)
}

async fn append(shared: &Shared, records: &[Record]) {
    let mut state = shared.state.write().await;
    start::append(&shared.log, &shared.history, &mut state, Epoch(1), records).await.unwrap();
}

/// Takes the disk's room away, and uses up what the journal has of it.
async fn fill(disk: &SimulatedDisk, shared: &Shared) {
    disk.free(Some(0));
    let work: Record = PolicyApplied { name: "large".parse().unwrap(), text: "x".repeat(30_000) }.into();
    let mut full = None;
    for _ in 0..100 {
        full = start::held_back(&shared.log, &*shared.state.read().await, std::slice::from_ref(&work)).await;
        if full.is_some() {
            break;
        }
        append(shared, std::slice::from_ref(&work)).await;
    }
    assert!(matches!(full, Some(LogError::Full { .. })));
}

async fn get(socket: &std::path::Path, path: &str) -> Value {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(format!("GET /v1/{path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// What health, the doctor and the list of jobs say while the journal is `state`: what, where, and what to do.
async fn told(socket: &std::path::Path, shared: &Shared, state: &str, advice: &str) {
    let health = get(socket, "health").await["journal"].clone();
    assert_eq!(health["state"], state);
    let doctor = get(socket, "doctor").await;
    assert_eq!(
        (&doctor["ok"], &doctor["findings"][0]["row"]),
        (&Value::Bool(false), &format!("journal-{state}").into())
    );
    let jobs = get(socket, "jobs").await;
    assert_eq!(jobs[0]["state"], "queued");
    for said in [health, doctor["findings"][0].clone(), jobs[0]["reason"].clone()] {
        let said = said.to_string();
        assert!(said.contains(&shared.journal.display().to_string()), "where: {said}");
        assert!(said.contains(advice), "what to do: {said}");
    }
}

#[tokio::test]
async fn a_journal_that_takes_no_more_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    let shared = on(&disk, folder.path()).await;
    let (calls, called) = mpsc::channel(1);
    let socket = folder.path().join("socket");
    let router = crate::api::router(Arc::clone(&shared), calls);
    let server = tokio::spawn(axum::serve(UnixListener::bind(&socket).unwrap(), router).into_future());
    assert_eq!(shared.trouble(), None);
    assert_eq!(get(&socket, "health").await["journal"]["state"], "ok");
    assert_eq!(get(&socket, "doctor").await["ok"], true);

    fill(&disk, &shared).await;
    told(&socket, &shared, "full", "free some room").await;

    disk.free(None);
    shared.log.room().wait_for(|room| *room == Room::Enough).await.unwrap();
    assert_eq!(get(&socket, "health").await["journal"]["state"], "ok");

    // The queued job is begun on a disk that is broken: for a base or a spare segment that is made meanwhile, too.
    disk.fail_every_sync();
    let (to_agent, _asked) = mpsc::channel(1);
    let (_answers, from_agent) = mpsc::channel(1);
    let mut engine =
        engine::Engine::new(Arc::clone(&shared), Epoch(1), to_agent, notify::Carriers::default());
    let (_carried, told) = mpsc::unbounded_channel();
    let ended = engine.run(called, from_agent, told).await;
    assert!(matches!(ended, Err(StartError::Log(LogError::Io { .. }))), "{ended:?}");
    let why = shared.trouble().unwrap();
    assert_eq!(why.state, "stopped");
    assert_eq!(get(&socket, "health").await["journal"]["state"], "stopped");
    assert_eq!(get(&socket, "doctor").await["findings"][0]["row"], "journal-stopped");
    assert!(why.what.contains(&shared.journal.display().to_string()) && why.what.contains("sync"), "{why:?}");
    assert!(why.advice.contains("start Backstay again"));
    server.abort();
}

#[tokio::test]
async fn where_the_vms_are_is_recorded_when_there_is_room_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    let shared = on(&disk, folder.path()).await;
    let id = VmId(uuid::Uuid::from_u128(1));
    let vm = VmAddress { id, name: "web".parse().unwrap(), qmp: "/qmp".into(), guest_agent: None };
    append(&shared, &[VmAdded { vm, disks: Vec::new(), labels: Vec::new(), host: None }.into()]).await;
    let claimed = async || {
        let mut state = shared.state.write().await;
        let before = shared.log.durable().borrow().seq;
        start::claim(&shared.log, &shared.history, &mut state, Epoch(1), &shared.host).await.unwrap();
        (state.vms[&id].host.clone(), shared.log.durable().borrow().seq - before)
    };
    fill(&disk, &shared).await;
    assert_eq!(claimed().await, (None, 0), "the reserve is for what was begun");
    disk.free(None);
    shared.log.room().wait_for(|room| *room == Room::Enough).await.unwrap();
    assert_eq!(claimed().await, (Some(shared.host.clone()), 1));
    assert_eq!(claimed().await, (Some(shared.host.clone()), 0));
}
