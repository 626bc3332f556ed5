//! The NBD client against a real qemu-storage-daemon.
#![allow(clippy::unwrap_used)]

mod support;

use agent::nbd::*;
use agent::qmp::{Action, BitmapAdd, NbdExport};
use std::sync::Arc;
use support::{StorageDaemon, installed, noise, run};

const SIZE: u64 = 64 << 20;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

async fn connect(daemon: &StorageDaemon, contexts: &[&str]) -> Nbd {
    Nbd::connect(daemon.nbd_socket(), "disk", contexts, Limits::default()).await.unwrap()
}

#[tokio::test]
async fn the_changed_map_is_what_was_written() {
    if !installed() {
        return;
    }
    let daemon = StorageDaemon::start(SIZE);
    let qmp = daemon.connect().await;
    let bitmap = BitmapAdd {
        node: "disk0".into(),
        name: "cp1".into(),
        granularity: Some(65536),
        ..Default::default()
    };
    qmp.apply(&Action::BitmapAdd(bitmap)).await.unwrap();
    qmp.nbd_server_start(&daemon.nbd_socket()).await.unwrap();
    daemon.export(&qmp, &[]).await;
    let writer = connect(&daemon, &[]).await;
    let written = [(0, 64 * KIB), (3 * MIB, MIB), (4 * MIB, 64 * KIB), (SIZE - 64 * KIB, 64 * KIB)];
    for (offset, length) in written {
        writer.write(offset, &noise(offset, usize::try_from(length).unwrap())).await.unwrap();
    }
    // One byte marks the whole granule that it is in.
    writer.write(10 * MIB + 5, b"x").await.unwrap();
    writer.flush().await.unwrap();
    writer.close().await.unwrap();

    let read_only = NbdExport {
        id: "x1".into(),
        node_name: "disk0".into(),
        name: "view".into(),
        bitmaps: vec![agent::qmp::BitmapSource::Here("cp1".into())],
        ..Default::default()
    };
    let context = dirty_context("cp1");
    // A bitmap that records cannot be exported read-only.
    qmp.apply(&Action::BitmapDisable(agent::qmp::BitmapName { node: "disk0".into(), name: "cp1".into() }))
        .await
        .unwrap();
    qmp.export_add(&read_only).await.unwrap();
    let offered = list_contexts(&daemon.nbd_socket(), "view", Limits::default()).await.unwrap();
    assert!(offered.contains(&context) && offered.iter().any(|name| name == ALLOCATION), "{offered:?}");
    let exports = list_exports(&daemon.nbd_socket(), Limits::default()).await.unwrap();
    assert!(exports.contains(&"disk".into()) && exports.contains(&"view".into()), "{exports:?}");

    let contexts = [ALLOCATION, context.as_str()];
    let nbd = Nbd::connect(daemon.nbd_socket(), "view", &contexts, Limits::default()).await.unwrap();
    assert!(nbd.export().is_read_only() && nbd.export().allows_multiple_connections());
    let dirty = nbd.extents(&context, Run::is_dirty).await.unwrap();
    let expected = [
        Extent::new(0, 64 * KIB),
        Extent::new(3 * MIB, MIB + 64 * KIB),
        Extent::new(10 * MIB, 64 * KIB),
        Extent::new(SIZE - 64 * KIB, 64 * KIB),
    ];
    assert_eq!(dirty, expected);
    let maps = nbd.maps().await.unwrap();
    assert!(maps.iter().all(|map| map.iter().map(|run| run.extent.length).sum::<u64>() == SIZE));
    let error = nbd.write(0, b"no").await.unwrap_err();
    assert!(matches!(error, NbdError::Misfit { .. }) && error.to_string().contains("read-only"), "{error:?}");
    assert_eq!(
        nbd.read(3 * MIB, vec![1; 4096]).await.unwrap(),
        noise(3 * MIB, 4096),
        "the connection goes on"
    );
}

#[tokio::test]
async fn holes_and_zeros_are_told_apart_from_data() {
    if !installed() {
        return;
    }
    let daemon = StorageDaemon::start(SIZE);
    let _qmp = daemon.connect_and_export(&[]).await;
    let nbd = connect(&daemon, &[ALLOCATION]).await;
    assert_eq!(nbd.export().size, SIZE);
    assert_eq!(nbd.maps().await.unwrap()[0].len(), 1, "an empty disk is one hole");
    nbd.write(8 * MIB, &noise(1, 1 << 20)).await.unwrap();
    nbd.write(16 * MIB, &noise(2, 1 << 20)).await.unwrap();
    nbd.write_zeroes(Extent::new(16 * MIB, 512 * KIB), false).await.unwrap();
    nbd.trim(Extent::new(8 * MIB, 512 * KIB)).await.unwrap();
    let data = nbd.extents(ALLOCATION, |run| !run.is_zero()).await.unwrap();
    let expected =
        [Extent::new(8 * MIB + 512 * KIB, 512 * KIB), Extent::new(16 * MIB + 512 * KIB, 512 * KIB)];
    assert_eq!(data, expected);
    let holes = nbd.extents(ALLOCATION, Run::is_hole).await.unwrap();
    assert!(holes.contains(&Extent::new(0, 8 * MIB + 512 * KIB)), "{holes:?}");
    // A read over hole, zeros and data: the old contents of the buffer must not shine through.
    let read = nbd.read(16 * MIB, vec![0xaa; 2 << 20]).await.unwrap();
    assert!(read[..512 << 10].iter().all(|byte| *byte == 0) && read[1 << 20..].iter().all(|byte| *byte == 0));
    assert_eq!(read[512 << 10..1 << 20], noise(2, 1 << 20)[512 << 10..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_reads_give_the_bytes_that_qemu_img_gives() {
    if !installed() {
        return;
    }
    let daemon = StorageDaemon::start(SIZE);
    let _qmp = daemon.connect_and_export(&[]).await;
    let nbd = Arc::new(connect(&daemon, &[]).await);
    let writes = (0..40_u64).map(|number| {
        let nbd = nbd.clone();
        tokio::spawn(async move {
            let offset = number * 1_600_003;
            nbd.write(offset, &noise(number, 700_001)).await.unwrap();
        })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    nbd.flush().await.unwrap();
    let raw = daemon.file("disk.raw");
    let (image, target) = (daemon.image(), raw.clone());
    let arguments = ["convert", "-U", "-O", "raw", image.to_str().unwrap(), target.to_str().unwrap()];
    run("qemu-img", &arguments);
    let expected = Arc::new(std::fs::read(raw).unwrap());
    let reads = (0..SIZE / 333_333 + 1).map(|number| {
        let (nbd, expected) = (nbd.clone(), expected.clone());
        tokio::spawn(async move {
            let offset = number * 333_333;
            let length = usize::try_from((SIZE - offset).min(333_333)).unwrap();
            let read = nbd.read(offset, vec![0; length]).await.unwrap();
            let start = usize::try_from(offset).unwrap();
            assert!(read == expected[start..start + length], "at {offset}");
        })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap();
    }
    assert_eq!(nbd.read(0, vec![1; MAX_REQUEST as usize]).await.unwrap(), expected[..MAX_REQUEST as usize]);
}

#[tokio::test]
async fn what_cannot_be_had_is_typed() {
    if !installed() {
        return;
    }
    let mut daemon = StorageDaemon::start(SIZE);
    let _qmp = daemon.connect_and_export(&[]).await;
    let socket = daemon.nbd_socket();
    let error = Nbd::connect(&socket, "nothing", &[], Limits::default()).await.unwrap_err();
    assert!(matches!(error, NbdError::ExportNotFound { .. }), "{error:?}");
    let error = Nbd::connect(&socket, "nothing", &[ALLOCATION], Limits::default()).await.unwrap_err();
    assert!(matches!(error, NbdError::ExportNotFound { .. }), "{error:?}");
    let missing = dirty_context("none");
    let error = Nbd::connect(&socket, "disk", &[ALLOCATION, &missing], Limits::default()).await.unwrap_err();
    assert!(matches!(&error, NbdError::ContextNotAgreed { context, .. } if *context == missing), "{error:?}");

    let nbd = connect(&daemon, &[]).await;
    for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 2), (0, 0), (0, (MAX_REQUEST + 1) as usize)]
    {
        let error = nbd.read(offset, vec![0; length]).await.unwrap_err();
        assert!(matches!(error, NbdError::Misfit { .. }), "{error:?}");
    }
    assert!(matches!(nbd.block_status(Extent::new(0, 1)).await, Err(NbdError::Misfit { .. })));

    daemon.kill();
    let error = nbd.read(0, vec![0; 512]).await.unwrap_err();
    assert!(matches!(error, NbdError::Closed { .. }) && error.wants_new_connection(), "{error:?}");
    let error = Nbd::connect(&socket, "disk", &[], Limits::default()).await.unwrap_err();
    assert!(matches!(error, NbdError::Refused { .. }), "{error:?}");
    let error = Nbd::connect(daemon.file("nothing"), "disk", &[], Limits::default()).await.unwrap_err();
    assert!(matches!(error, NbdError::NotThere { .. }), "{error:?}");
}
