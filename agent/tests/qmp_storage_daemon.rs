//! The QMP client against a real qemu-storage-daemon.
#![allow(clippy::unwrap_used)]

mod support;

use agent::qmp::*;
use serde_json::{Value, json};
use std::time::Duration;
use support::{StorageDaemon, installed, run};

const SOON: Duration = Duration::from_secs(5);

fn bitmap_add(name: &str, persistent: bool) -> Action {
    Action::BitmapAdd(BitmapAdd {
        node: "disk0".into(),
        name: name.into(),
        persistent,
        ..BitmapAdd::default()
    })
}

fn on_disk(name: &str) -> BitmapName {
    BitmapName { node: "disk0".into(), name: name.into() }
}

#[tokio::test]
async fn it_says_who_it_is_and_what_it_can_do() {
    if !installed() {
        return;
    }
    let daemon = StorageDaemon::start(1 << 20);
    let qmp = daemon.connect().await;
    assert!(run("qemu-storage-daemon", &["--version"]).contains(&qmp.version().to_string()));
    assert_eq!(qmp.process().pid, daemon.pid());
    assert_eq!(qmp.peer().uid, rustix::process::getuid().as_raw());
    assert!(alive(qmp.process()));

    let schema = qmp.schema().await.unwrap();
    assert!(schema.has_command("transaction") && !schema.has_command("query-uuid"));
    assert!(schema.has_argument("blockdev-add", "+copy-before-write/cbw-timeout"));
    assert!(schema.has_argument("transaction", "actions/type/^block-dirty-bitmap-merge"));
    assert!(schema.has_argument("block-export-add", "+nbd/bitmaps/node"));
    assert!(!schema.has_argument("blockdev-add", "+copy-before-write/teleport"));
}

#[tokio::test]
async fn a_second_client_is_told_that_the_socket_is_held() {
    if !installed() {
        return;
    }
    let daemon = StorageDaemon::start(1 << 20);
    let first = daemon.connect().await;
    let hasty = Limits { greeting: Duration::from_millis(200), ..Limits::default() };
    // More than the socket's queue takes: the kernel's own refusal must read the same.
    for _ in 0..4 {
        let error = Qmp::connect(daemon.socket(), hasty).await.unwrap_err();
        assert!(matches!(error, QmpError::NoGreeting { .. }), "{error:?}");
        assert!(error.to_string().contains("another client"));
        assert_eq!(error.fate(), Fate::NotSent);
    }
    first.close().await;
    daemon.connect().await.query_jobs().await.unwrap();
}

#[tokio::test]
async fn a_killed_daemon_closes_then_refuses() {
    if !installed() {
        return;
    }
    let mut daemon = StorageDaemon::start(1 << 20);
    let qmp = daemon.connect().await;
    let mut events = qmp.events();
    daemon.kill();
    let error = qmp.query_nodes().await.unwrap_err();
    assert!(matches!(error, QmpError::Closed { .. }) && error.is_gone(), "{error:?}");
    let error = events.wait("anything", SOON, |_| true).await.unwrap_err();
    assert!(matches!(error, QmpError::Closed { .. }), "{error:?}");
    let error = qmp.query_nodes().await.unwrap_err();
    assert_eq!(error.fate(), Fate::NotSent, "the end is known by now: {error}");
    assert!(!alive(qmp.process()));
    let error = Qmp::connect(daemon.socket(), Limits::default()).await.unwrap_err();
    assert!(matches!(error, QmpError::Refused { .. }), "{error:?}");
    let error = Qmp::connect(daemon.file("nothing"), Limits::default()).await.unwrap_err();
    assert!(matches!(error, QmpError::NotThere { .. }), "{error:?}");
}

#[tokio::test]
async fn what_it_refuses_is_typed() {
    if !installed() {
        return;
    }
    let daemon = StorageDaemon::start(1 << 20);
    let qmp = daemon.connect().await;
    assert!(qmp.query_block().await.unwrap().is_empty());
    let error = qmp.query_uuid().await.unwrap_err();
    assert!(
        matches!(&error, QmpError::CommandNotFound { command, .. } if command == "query-uuid"),
        "{error:?}"
    );
    assert_eq!(error.fate(), Fate::Refused);
    let error = qmp.apply(&Action::BitmapRemove(on_disk("none"))).await.unwrap_err();
    assert!(matches!(&error, QmpError::Refusal { class, .. } if class == "GenericError"), "{error:?}");
    assert_eq!(error.fate(), Fate::Refused);
}

#[tokio::test]
async fn bitmaps_change_together_or_not_at_all() {
    if !installed() {
        return;
    }
    let daemon = StorageDaemon::start(8 << 20);
    let qmp = daemon.connect().await;
    qmp.apply(&bitmap_add("cp1", true)).await.unwrap();
    let both = [bitmap_add("cp2", true), Action::BitmapDisable(on_disk("cp1"))];
    qmp.transaction(&both).await.unwrap();
    let failing = [bitmap_add("cp3", true), Action::BitmapDisable(on_disk("none"))];
    assert_eq!(qmp.transaction(&failing).await.unwrap_err().fate(), Fate::Refused);
    let merge = BitmapMerge {
        node: "disk0".into(),
        target: "cp1".into(),
        bitmaps: vec![BitmapSource::Here("cp2".into()), BitmapSource::There(on_disk("cp2"))],
    };
    qmp.apply(&Action::BitmapMerge(merge)).await.unwrap();

    let nodes = qmp.query_nodes().await.unwrap();
    let disk = nodes.iter().find(|node| node.node_name.as_deref() == Some("disk0")).unwrap();
    assert!(
        disk.image.keeps_bitmaps() && !disk.ro && disk.drv == "qcow2" && disk.image.virtual_size == 8 << 20
    );
    let (older, newer) = (disk.bitmap("cp1").unwrap(), disk.bitmap("cp2").unwrap());
    assert!(!older.recording && newer.recording && newer.persistent && !newer.inconsistent && !newer.busy);
    assert!(disk.bitmap("cp3").is_none());
}

#[tokio::test]
async fn a_fleece_comes_and_goes_in_order() {
    if !installed() {
        return;
    }
    let daemon = StorageDaemon::start(8 << 20);
    let qmp = daemon.connect_and_export(&[]).await;
    let scratch = daemon.file("scratch.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", scratch.to_str().unwrap(), "8M"]);
    let file = json!({"driver": "file", "filename": scratch});
    let fleece = json!({"driver": "qcow2", "node-name": "fl0", "backing": "disk0", "file": file});
    qmp.blockdev_add(fleece).await.unwrap();
    let backup = Backup {
        job_id: "j0".into(),
        device: "disk0".into(),
        target: "fl0".into(),
        sync: BackupSync::None,
        bitmap: None,
        filter_node_name: Some("cbw0".into()),
        speed: None,
    };
    qmp.transaction(&[bitmap_add("cp1", true), Action::Backup(backup)]).await.unwrap();
    let jobs = qmp.query_jobs().await.unwrap();
    assert!(jobs.iter().any(|job| job.id == "j0" && job.kind == "backup" && job.error.is_none()), "{jobs:?}");
    assert_eq!(qmp.query_block_jobs().await.unwrap()[0].device, "j0");
    assert_eq!(qmp.query_exports().await.unwrap()[0].id, "x0");

    qmp.export_remove("x0", RemoveMode::Hard, SOON).await.unwrap();
    let mut events = qmp.events();
    qmp.job_cancel("j0").await.unwrap();
    events.job_status("j0", "concluded", SOON).await.unwrap();
    qmp.job_dismiss("j0").await.unwrap();
    qmp.blockdev_del("fl0").await.unwrap();
    qmp.nbd_server_stop().await.unwrap();
    assert!(qmp.query_jobs().await.unwrap().is_empty() && qmp.query_exports().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_one_connection() {
    if !installed() {
        return;
    }
    let daemon = StorageDaemon::start(1 << 20);
    let qmp = std::sync::Arc::new(daemon.connect().await);
    let callers = (0..100).map(|number| {
        let qmp = qmp.clone();
        tokio::spawn(async move {
            let name = format!("b{number}");
            qmp.apply(&bitmap_add(&name, false)).await.unwrap();
            let nodes: Vec<BlockNode> = qmp.ask("query-named-block-nodes", Value::Null).await.unwrap();
            assert!(nodes.iter().any(|node| node.bitmap(&name).is_some()));
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}
