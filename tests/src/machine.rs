//! A virtual machine with a real guest in Backstay's care: the stage for what a qemu-storage-daemon cannot show, from a
//! frozen file system to a guest that boots after its QEMU was killed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backstay::Backstay;
use crate::guest::{self, Guest};
use crate::invariants;
use crate::lab::Lab;
use crate::point::Point;
use crate::qmp::{Look, Qmp};
use crate::restic::Restic;
use crate::sequence::examine_pair;
use crate::stage::{Stage, image, restored};

/// The stage. Drop order: the server first, the folder last.
#[derive(Debug)]
pub struct Machine {
    /// The server.
    pub backstay: Backstay,
    /// The guest.
    pub guest: Guest,
    /// The repository.
    pub restic: Restic,
    bare: Look,
    /// Whether Backstay knows the guest agent, and so freezes the guest for a backup.
    agent: bool,
    scratch: AtomicU64,
    lab: Lab,
}

impl Machine {
    /// Boots a guest and puts it into the care of a new Backstay, which freezes it for a backup where `agent`.
    #[track_caller]
    pub fn start(options: guest::Options, agent: bool) -> Machine {
        let lab = Lab::new();
        let mut guest = Guest::start(&lab, options);
        let bare = guest.look().look();
        let restic = Restic::new(&lab, "repo");
        let backstay = Backstay::start(&lab, "data");
        crate::site::add_repository(&backstay, &restic);
        let mut machine = Machine { backstay, guest, restic, bare, agent, scratch: AtomicU64::new(0), lab };
        machine.add();
        machine
    }

    /// Backs up while the guest writes, proves the point, and checks what holds then.
    #[track_caller]
    pub fn back_up(&mut self) -> Point {
        self.guest.until_progress();
        let (from, point) = (self.guest.sequence(), Point::back_up(&self.backstay, &[]));
        self.guest.until_progress();
        let folder = self.lab.folder(&point.id);
        self.backstay.ok(&["restore", &point.id, "--to", &folder.to_string_lossy(), "--wait"]);
        let [a, b] = guest::DISKS.map(|disk| image(&folder, disk));
        let (_, on_b) = examine_pair(&self.lab, &a, &b, "raw");
        assert!(on_b.last >= from, "{} shows {}, the guest was at {from}", point.id, on_b.last);
        std::fs::remove_dir_all(folder).expect("a folder of ours");
        self.must_hold();
        point
    }

    /// Waits until all jobs are over, and checks what holds then.
    #[track_caller]
    pub fn must_hold(&mut self) {
        invariants::until_rest(&self.backstay);
        invariants::hold(&self.backstay, "vm", &mut self.guest.look(), &self.bare);
    }

    /// The bytes of a point's disks, by digest.
    #[track_caller]
    pub fn restored(&mut self, point: &Point) -> Vec<[u8; 32]> {
        restored(self, point)
    }
}

impl Stage for Machine {
    fn server(&mut self) -> &mut Backstay {
        &mut self.backstay
    }

    fn restic(&self) -> &Restic {
        &self.restic
    }

    fn disks(&self) -> Vec<String> {
        guest::DISKS.map(str::to_owned).to_vec()
    }

    fn new_folder(&self) -> PathBuf {
        self.lab.folder(format!("scratch{}", self.scratch.fetch_add(1, Ordering::Relaxed)))
    }

    fn progress(&mut self) {
        self.guest.until_progress();
    }

    fn examine(&mut self, images: &[PathBuf], _: bool) {
        // The guest's numbers go on over its boots, so that an instant before is as good as one after.
        let _ = examine_pair(&self.lab, &images[0], &images[1], "raw");
    }

    fn look_inside(&mut self) -> Qmp {
        self.guest.look()
    }

    fn bare(&self) -> Look {
        self.bare.clone()
    }

    fn add(&mut self) {
        let qmp = self.guest.qmp_socket();
        let agent = self.guest.agent_socket();
        let mut words = vec!["vm", "add", "vm", "--qmp", qmp.to_str().expect("the lab's paths are ASCII")];
        if self.agent {
            words.extend(["--guest-agent", agent.to_str().expect("the lab's paths are ASCII")]);
        }
        let disks = guest::DISKS.map(|disk| format!("--disk={disk}={disk}"));
        words.extend(disks.iter().map(String::as_str));
        self.backstay.ok(&words);
    }

    fn kill_machine(&mut self) {
        self.guest.kill();
    }

    fn revive_machine(&mut self) {
        self.guest.restart();
    }

    fn restart_machine(&mut self) {
        self.guest.quit();
        self.guest.restart();
    }
}
