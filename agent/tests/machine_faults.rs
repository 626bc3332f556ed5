//! Fail at every command, repeat every effect: the connection to a real qemu-storage-daemon is cut before and after
//! each command of an effect in turn; the effect is then given once more, and must end as if nothing had happened.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machine;

use futures::StreamExt;
use journal::effect::Way;
use journal::observation::Machine;
use journal::{Effect, FailureClass, Process};
use machine::proxy::{Cut, Proxy};
use machine::{Became, Hands, QCOW2, Qemu, RAW, UNLIMITED, in_a_child};

/// Machines at a time. Most of a run is waiting.
const AT_ONCE: usize = 8;

/// What must be the same at the end, however it was reached.
fn shape(seen: &Machine) -> String {
    let disks: Vec<_> = (0..seen.disks.len()).map(|disk| machine::bitmaps(seen, disk)).collect();
    // Not how far they are: one that copies may be done or not.
    let jobs: Vec<_> = seen.jobs.iter().map(|job| (&job.id, &job.error)).collect();
    format!("{disks:?} {jobs:?} {:?} {:?} {:?}", seen.exports, seen.nodes, seen.files)
}

/// One machine with its cable, and an agent.
struct Rig {
    hands: Hands,
    proxy: Proxy,
    process: Process,
    _qemu: Qemu,
    _home: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        let qemu = Qemu::storage_daemon(&[QCOW2, RAW], false);
        qemu.connect().await.close().await;
        let proxy = Proxy::over(&qemu).await;
        let home = tempfile::tempdir().unwrap();
        let mut hands = Hands::new(home.path(), &qemu.path("front.sock"));
        let process = hands.machine(2).await.process;
        assert_eq!(process.pid, qemu.child.id(), "the agent sees QEMU, not the cable");
        Self { hands, proxy, process, _qemu: qemu, _home: home }
    }
}

/// Runs `before` on a fresh machine, then the effect with a cut at each of its commands in turn, then the effect again.
async fn fail_at_every_command(before: impl Fn(&Rig) -> Vec<Effect>, effect: impl Fn(&Rig) -> Effect) {
    let mut clean = Rig::new().await;
    let steps = before(&clean);
    prepare(&mut clean, steps).await;
    clean.proxy.commands();
    clean.hands.perform(50, effect(&clean)).await.done();
    let commands = clean.proxy.commands();
    let expected = shape(&clean.hands.machine(2).await);
    assert!(commands > 1, "the cable saw {commands} commands");

    let cuts = (1..=commands).flat_map(|n| [(n, Cut::Before), (n, Cut::After)]);
    let runs = cuts.map(|(n, cut)| {
        let (before, effect, expected) = (&before, &effect, &expected);
        async move {
            let mut rig = Rig::new().await;
            let steps = before(&rig);
            prepare(&mut rig, steps).await;
            rig.proxy.arm(n, cut);
            let first = rig.hands.perform(50, effect(&rig)).await;
            assert!(rig.proxy.disarm(), "{cut:?} command {n} was not reached");
            // It was cut off, so it cannot claim to know that it failed.
            assert!(matches!(first, Became::Unknown(_)), "{cut:?} command {n}: {first:?}");
            rig.hands.perform(50, effect(&rig)).await.done();
            assert_eq!(shape(&rig.hands.machine(2).await), *expected, "{cut:?} command {n} of {commands}");
        }
    });
    futures::stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

async fn prepare(rig: &mut Rig, steps: Vec<Effect>) {
    for (n, step) in steps.into_iter().enumerate() {
        rig.hands.perform(n as u64 + 1, step).await.done();
    }
}

fn full(rig: &Rig) -> Effect {
    rig.hands.begin(rig.hands.checkpoint(rig.process, 1, &[0, 1], None), &[0, 1], &[])
}

fn chain(rig: &Rig) -> Vec<Effect> {
    let first = rig.hands.checkpoint(rig.process, 1, &[0, 1], None);
    let second = rig.hands.checkpoint(rig.process, 2, &[0, 1], Some(1));
    vec![Effect::AddCheckpoint(first), Effect::AddCheckpoint(second)]
}

#[tokio::test(flavor = "multi_thread")]
async fn begin() {
    let incremental = |rig: &Rig| {
        let checkpoint = rig.hands.checkpoint(rig.process, 3, &[0, 1], Some(2));
        rig.hands.begin(checkpoint, &[0, 1], &[1, 2])
    };
    fail_at_every_command(chain, incremental).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn begin_by_push() {
    fail_at_every_command(chain, |rig| push(rig, 3, &[1, 2])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn end_after_push() {
    let before = |rig: &Rig| [chain(rig), vec![push(rig, 3, &[1, 2])]].concat();
    fail_at_every_command(before, |rig| rig.hands.end(rig.process, 3, 2)).await;
}

fn push(rig: &Rig, number: u64, since: &[u64]) -> Effect {
    let checkpoint = rig.hands.checkpoint(rig.process, number, &[0, 1], since.last().copied());
    rig.hands.begin_by(Way::Push, UNLIMITED, checkpoint, &[0, 1], since)
}

#[tokio::test(flavor = "multi_thread")]
async fn end() {
    fail_at_every_command(|rig| vec![full(rig)], |rig| rig.hands.end(rig.process, 1, 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn add_checkpoint() {
    let third = |rig: &Rig| Effect::AddCheckpoint(rig.hands.checkpoint(rig.process, 3, &[0, 1], Some(2)));
    fail_at_every_command(chain, third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_checkpoint() {
    let newest = |rig: &Rig| rig.hands.delete(rig.process, 2, &[0, 1], Some(1), true);
    fail_at_every_command(chain, newest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clean() {
    use journal::IntentId;
    use journal::names::{Role, temporary};
    let everything = |rig: &Rig| {
        let name = |disk, role| temporary(machine::US, IntentId(1), disk, role);
        let both = |role| vec![name(0, role), name(1, role)];
        Effect::Clean(journal::effect::Clean {
            vm: rig.hands.vm.clone(),
            process: rig.process,
            installation: machine::US,
            exports: both(Role::Export),
            jobs: both(Role::Job),
            nodes: [both(Role::Scratch), both(Role::Fleece)].concat(),
            bitmaps: vec![("disk0".into(), machine::bitmap(1)), ("disk1".into(), machine::bitmap(1))],
            files: [both(Role::Scratch), vec![name(0, Role::Job)]].concat(),
        })
    };
    fail_at_every_command(|rig| vec![full(rig)], everything).await;
}

/// QEMU is killed at each command of an effect in turn: nothing is left on the host, and the view may be ended.
async fn kill_qemu_at_every_command(
    before: impl Fn(&Rig) -> Vec<Effect>,
    effect: impl Fn(&Rig) -> Effect,
    view: u64,
    expected: impl Fn(&Became) -> bool,
) {
    for n in 1.. {
        let mut rig = Rig::new().await;
        let steps = before(&rig);
        prepare(&mut rig, steps).await;
        rig.proxy.arm(n, Cut::Kill);
        let became = rig.hands.perform(50, effect(&rig)).await;
        if !rig.proxy.disarm() {
            assert!(n > 6, "{n} commands only");
            return;
        }
        assert!(expected(&became), "QEMU killed at command {n}: {became:?}");
        assert!(!rig.hands.folders.scratch_of(rig.hands.vm.id).exists() && !rig.hands.nbd_socket().exists());
        rig.hands.perform(51, rig.hands.end(rig.process, view, 2)).await.done();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn begin_on_a_dying_qemu() {
    let gone = |became: &Became| matches!(became, Became::Failed(FailureClass::ProcessGone, _));
    kill_qemu_at_every_command(|_| vec![], full, 50, gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn end_on_a_dying_qemu() {
    let done = |became: &Became| matches!(became, Became::Done(_));
    kill_qemu_at_every_command(|rig| vec![full(rig)], |rig| rig.hands.end(rig.process, 1, 2), 1, done).await;
}

/// The agent is killed before and after each QMP command in turn; the next one, on the same folders, is given the
/// effect once more.
async fn kill_at_every_command(
    before: impl Fn(&Hands, Process) -> Vec<Effect>,
    last: impl Fn(&Hands, Process) -> Effect,
) {
    let mut expected = None;
    for passage in 1..=1000 {
        let qemu = Qemu::storage_daemon(&[QCOW2, RAW], false);
        qemu.connect().await.close().await;
        let home = tempfile::tempdir().unwrap();
        let mut hands = Hands::new(home.path(), &qemu.path("qmp.sock"));
        let process = hands.machine(2).await.process;
        for (n, step) in before(&hands, process).into_iter().enumerate() {
            hands.perform(n as u64 + 1, step).await.done();
        }
        let effect = last(&hands, process);
        let killed =
            in_a_child(home.path(), &hands, &effect, Some(passage), &std::env::var("PATH").unwrap()).await;
        hands.perform(50, effect).await.done();
        let shape = shape(&hands.machine(2).await);
        assert_eq!(*expected.get_or_insert_with(|| shape.clone()), shape, "killed at passage {passage}");
        if !killed {
            assert!(passage > 6, "there were {passage} passages only");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agent that is killed in the tests below; does nothing without them"]
async fn child() {
    machine::be_the_child().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_begins_a_view_once() {
    let chain =
        |hands: &Hands, process| vec![Effect::AddCheckpoint(hands.checkpoint(process, 1, &[0, 1], None))];
    let next =
        |hands: &Hands, process| hands.begin(hands.checkpoint(process, 2, &[0, 1], Some(1)), &[0, 1], &[1]);
    kill_at_every_command(chain, next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_ends_a_view() {
    let view =
        |hands: &Hands, process| vec![hands.begin(hands.checkpoint(process, 1, &[0, 1], None), &[0, 1], &[])];
    kill_at_every_command(view, |hands, process| hands.end(process, 1, 2)).await;
}
