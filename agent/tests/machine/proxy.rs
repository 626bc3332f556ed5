//! A cable that can be cut: it stands between an agent and QEMU's monitor and drops the connection at the n-th
//! command. The agent does not see it: whose socket it is, is told by who called `listen` on it, and that was QEMU.
//!
//! A monitor that has a client does not accept another one. So one client is put on `front.sock` to keep QEMU from
//! accepting there, its listening socket is taken out of QEMU with `pidfd_getfd`, and what arrives on it is passed on
//! to `qmp.sock`.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Qemu, connect};

/// Where, from the command's point of view, the cable is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is never sent.
    Before,
    /// It runs, and nobody hears the answer.
    After,
    /// It is never sent, since QEMU is killed.
    Kill,
}

/// The cable. Whole until it is armed.
pub struct Proxy {
    plan: Arc<Plan>,
    task: tokio::task::JoinHandle<()>,
    _holder: agent::qmp::Qmp,
}

struct Plan {
    upstream: PathBuf,
    qemu: Pid,
    /// Commands until the cut; 0 is never.
    left: AtomicU64,
    cut: Mutex<Cut>,
    seen: AtomicU64,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Takes over `front.sock` of a storage daemon.
    pub async fn over(qemu: &Qemu) -> Self {
        let front = qemu.path("front.sock");
        let holder = connect(&front).await;
        let listener: StdListener = take_listener(qemu.child.id(), &front).into();
        listener.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        let plan = Arc::new(Plan {
            upstream: qemu.path("qmp.sock"),
            qemu: pid_of(qemu.child.id()),
            left: AtomicU64::new(0),
            cut: Mutex::new(Cut::Before),
            seen: AtomicU64::new(0),
        });
        let shared = plan.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, shared.clone()));
            }
        });
        Self { plan, task, _holder: holder }
    }

    /// Cuts at the n-th command from now, once.
    pub fn arm(&self, n: u64, cut: Cut) {
        *self.plan.cut.lock().unwrap() = cut;
        self.plan.left.store(n, Ordering::SeqCst);
    }

    /// Whole again; answers whether it was cut.
    pub fn disarm(&self) -> bool {
        self.plan.left.swap(0, Ordering::SeqCst) == 0
    }

    /// Commands passed since the last time this was asked.
    pub fn commands(&self) -> u64 {
        self.plan.seen.swap(0, Ordering::SeqCst)
    }
}

async fn pass(client: UnixStream, plan: Arc<Plan>) {
    let upstream = UnixStream::connect(&plan.upstream).await.unwrap();
    let (from_qemu, mut to_qemu) = upstream.into_split();
    let (from_agent, mut to_agent) = client.into_split();
    let (mut from_qemu, mut from_agent) =
        (BufReader::new(from_qemu).lines(), BufReader::new(from_agent).lines());
    let mut mute = false;
    loop {
        tokio::select! {
            line = from_qemu.next_line() => {
                let Ok(Some(line)) = line else { return };
                let answer = !line.contains("\"event\":");
                if mute && answer {
                    return;
                }
                if !mute && to_agent.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
            line = from_agent.next_line() => {
                let Ok(Some(line)) = line else { return };
                if !line.contains("qmp_capabilities") {
                    plan.seen.fetch_add(1, Ordering::SeqCst);
                    let left = plan.left.load(Ordering::SeqCst);
                    if left > 0 {
                        plan.left.store(left - 1, Ordering::SeqCst);
                    }
                    match *plan.cut.lock().unwrap() {
                        _ if left != 1 => {}
                        Cut::Before => return,
                        Cut::After => mute = true,
                        Cut::Kill => return kill_process(plan.qemu, Signal::KILL).unwrap(),
                    }
                }
                to_qemu.write_all(format!("{line}\n").as_bytes()).await.unwrap();
            }
        }
    }
}

fn take_listener(pid: u32, path: &Path) -> OwnedFd {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
    // Of all sockets with this path the one that listens has the flag __SO_ACCEPTCON (net/socket.h).
    let listens = |line: &&str| line.ends_with(path.to_str().unwrap()) && line.contains(" 00010000 ");
    let inode = table.lines().find(listens).unwrap().split_whitespace().nth(6).unwrap().to_owned();
    let link = format!("socket:[{inode}]");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap());
    let fd =
        fds.into_iter().find(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.to_str() == Some(&link)));
    let fd: i32 = fd.unwrap().file_name().to_str().unwrap().parse().unwrap();
    let process = pidfd_open(pid_of(pid), PidfdFlags::empty()).unwrap();
    pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).expect("the test may look into its child")
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}
