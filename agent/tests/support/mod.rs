//! A real qemu-storage-daemon for the tests of the agent: images, a process that ends with its test, and the
//! loud skip where QEMU is not installed. Knows nothing about what is tested with it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use agent::qmp::{self, Qmp, QmpError};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whether the tools are there. If not, the test says so and is skipped; under CI that is a failure.
pub fn installed() -> bool {
    let found = |tool: &str| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
    if found("qemu-storage-daemon") && found("qemu-img") {
        return true;
    }
    let message = "SKIPPED: qemu-storage-daemon and qemu-img are not installed (Debian: qemu-system-common, qemu-utils)";
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}; under CI they must be");
    eprintln!("{message}");
    false
}

/// Runs a tool to its end and answers what it printed.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().expect("the tool was found before");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A storage daemon in a folder of its own, with one qcow2 disk as node `disk0` and a QMP socket.
pub struct StorageDaemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl StorageDaemon {
    /// Starts one over a new, empty disk of `size` bytes.
    pub fn start(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.qcow2");
        run("qemu-img", &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), &size.to_string()]);
        Self::over(folder, "qcow2", &image)
    }

    /// Starts one over an image that is in `folder` already.
    pub fn over(folder: tempfile::TempDir, format: &str, image: &Path) -> Self {
        let child = Command::new("qemu-storage-daemon")
            .arg("--blockdev")
            .arg(format!(
                "driver={format},node-name=disk0,discard=unmap,file.driver=file,file.discard=unmap,file.filename={}",
                image.display()
            ))
            .arg("--chardev")
            .arg(format!("socket,id=qmp,path={},server=on,wait=off", folder.path().join("qmp.sock").display()))
            .args(["--monitor", "chardev=qmp"])
            .spawn()
            .expect("it was found before");
        Self { child, folder }
    }

    pub fn image(&self) -> PathBuf {
        self.folder.path().join("disk.qcow2")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("qmp.sock")
    }

    pub fn nbd_socket(&self) -> PathBuf {
        self.folder.path().join("nbd.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects as soon as the daemon listens.
    pub async fn connect(&self) -> Qmp {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match Qmp::connect(self.socket(), qmp::Limits::default()).await {
                Ok(qmp) => return qmp,
                Err(QmpError::NotThere { .. } | QmpError::Refused { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("the storage daemon does not answer: {error}"),
            }
        }
    }

    /// Connects, starts the NBD server and offers `disk0` as `disk`, writable, with these bitmaps.
    pub async fn connect_and_export(&self, bitmaps: &[&str]) -> Qmp {
        let qmp = self.connect().await;
        qmp.nbd_server_start(&self.nbd_socket()).await.unwrap();
        self.export(&qmp, bitmaps).await;
        qmp
    }

    pub async fn export(&self, qmp: &Qmp, bitmaps: &[&str]) {
        let bitmaps = bitmaps.iter().map(|name| qmp::BitmapSource::Here((*name).into())).collect();
        let export = qmp::NbdExport {
            id: "x0".into(),
            node_name: "disk0".into(),
            name: "disk".into(),
            writable: true,
            bitmaps,
        };
        qmp.export_add(&export).await.unwrap();
    }

    /// Ends it without a chance to store anything.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        // Fails only where the test has killed it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes without a pattern, the same for the same seed (xorshift64*).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
