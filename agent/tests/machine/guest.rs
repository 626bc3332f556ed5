//! A guest of one sector: a machine boots it from a disk of its own, and it writes through the BIOS to two more disks, one
//! block after another, never two at a time, as fast as it gets answers. So what it writes passes the device and
//! everything between that and the disk, and what it has written at any instant is known by the number of writes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{PATIENCE, Qemu, SIZE, run, which};

/// ```text
/// start:  xor ax,ax; mov ds,ax; mov es,ax; mov ss,ax; mov sp,0x7c00; cld
/// next:   inc dword [n]
///         mov di,0x8000; mov cx,512
/// fill:   mov eax,[n]; stosd; xor eax,eax; stosd; loop fill       ; a block full of the number
///         imul eax,[state],1664525; add eax,1013904223; mov [state],eax
///         shr eax,12; and eax,4095; shl eax,3; mov [lba],eax      ; one of 4096 blocks of 8 sectors
///         mov word [sectors],8
///         mov dl,[n]; and dl,1; xor dl,1; add dl,0x81             ; odd numbers to the first disk
///         mov si,dap; mov ax,0x4300; int 0x13                     ; extended write
///         mov al,'w'; jnc told; mov al,'E'
/// told:   out 0xe9,al; jmp next
/// n: dd 0   state: dd 1   dap: db 16,0  sectors: dw 8  dw 0x8000,0  lba: dd 0,0
/// ```
const SECTOR: [u8; 134] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfc, 0x66, 0xff, 0x06, 0x6e, 0x7c,
    0xbf, 0x00, 0x80, 0xb9, 0x00, 0x02, 0x66, 0xa1, 0x6e, 0x7c, 0x66, 0xab, 0x66, 0x31, 0xc0, 0x66, 0xab,
    0xe2, 0xf3, 0x66, 0x69, 0x06, 0x72, 0x7c, 0x0d, 0x66, 0x19, 0x00, 0x66, 0x05, 0x5f, 0xf3, 0x6e, 0x3c,
    0x66, 0xa3, 0x72, 0x7c, 0x66, 0xc1, 0xe8, 0x0c, 0x66, 0x25, 0xff, 0x0f, 0x00, 0x00, 0x66, 0xc1, 0xe0,
    0x03, 0x66, 0xa3, 0x7e, 0x7c, 0xc7, 0x06, 0x78, 0x7c, 0x08, 0x00, 0x8a, 0x16, 0x6e, 0x7c, 0x80, 0xe2,
    0x01, 0x80, 0xf2, 0x01, 0x80, 0xc2, 0x81, 0xbe, 0x76, 0x7c, 0xb8, 0x00, 0x43, 0xcd, 0x13, 0xb0, 0x77,
    0x73, 0x02, 0xb0, 0x45, 0xe6, 0xe9, 0xeb, 0x9e, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x10,
    0x00, 0x08, 0x00, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

/// A running machine with the disks `disk0` and `disk1`, both full of data.
pub struct Guest {
    pub qemu: Qemu,
}

impl Guest {
    /// `devices` has two; `{n}` in it is the disk's number. The QEMU is Debian's, or `BACKSTAY_QEMU`.
    pub fn start(devices: [&str; 2]) -> Option<Self> {
        let binary = std::env::var("BACKSTAY_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
        if !which(&binary) {
            let message = "SKIPPED: qemu-system-x86_64 is not installed (Debian: qemu-system-x86)";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}; under CI it must be");
            eprintln!("{message}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let mut boot = SECTOR.to_vec();
        boot.resize(510, 0);
        boot.extend([0x55, 0xaa]);
        boot.resize(1 << 20, 0);
        std::fs::write(at("boot"), boot).unwrap();
        let mut command = Command::new(binary);
        command.args("-display none -nodefaults -machine q35,accel=tcg -m 64".split(' '));
        command.args("-object iothread,id=io0 -object iothread,id=io1".split(' '));
        for monitor in ["qmp", "front"] {
            command.args(["-qmp", &format!("unix:{},server=on,wait=off", at(&format!("{monitor}.sock")))]);
        }
        command.args(["-drive", &format!("if=none,id=boot,file={},format=raw,readonly=on", at("boot"))]);
        command.args([
            "-device",
            "virtio-blk-pci,drive=boot,bootindex=0",
            "-device",
            "virtio-scsi-pci,id=scsi",
        ]);
        command.args(["-chardev", &format!("file,id=told,path={}", at("told"))]);
        command.args(["-device", "isa-debugcon,iobase=0xe9,chardev=told"]);
        for (n, device) in devices.into_iter().enumerate() {
            let image = at(&format!("disk{n}"));
            run("qemu-img", &["create", "-q", "-f", "qcow2", &image, &SIZE.to_string()]);
            // Not zeros: those cost no scratch space.
            run("qemu-io", &["-f", "qcow2", "-c", &format!("write -q -P 255 0 {SIZE}"), &image]);
            let blockdev = format!("driver=qcow2,node-name=disk{n},file.driver=file,file.filename={image}");
            command.args(["-blockdev", &blockdev, "-device"]);
            command.arg(format!("{device},drive=disk{n},id=dev{n},bootindex={}", n + 1));
        }
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        Some(Self { qemu: Qemu { child, folder } })
    }

    /// One disk on SCSI, one on AHCI: the BIOS is quick with both.
    pub fn usual() -> Option<Self> {
        Self::start(["scsi-hd", "ide-hd,bus=ide.1"])
    }

    fn told(&self) -> String {
        std::fs::read_to_string(self.qemu.path("told")).unwrap_or_default()
    }

    /// Writes that were answered.
    pub fn written(&self) -> usize {
        self.told().len()
    }

    /// Writes that failed.
    pub fn failed(&self) -> usize {
        self.told().matches('E').count()
    }

    /// Waits until this many more writes are answered.
    pub async fn progress(&self, more: usize) {
        let (goal, deadline) = (self.written() + more, Instant::now() + PATIENCE);
        while self.written() < goal {
            assert!(Instant::now() < deadline, "the guest does not write: {} of {goal}", self.written());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Measures the guest's longest wait from now on.
    pub fn time(&self) -> Stopwatch {
        Stopwatch::start(&self.qemu.path("told"))
    }
}

/// Where the first `n` writes go, as (disk, offset).
pub fn writes(n: usize) -> impl Iterator<Item = (usize, u64)> {
    let mut state = 1_u32;
    (0..n).map(move |number| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (number % 2, u64::from((state >> 12) & 4095) * 4096)
    })
}

/// Whatever both disks held after `n` writes.
pub fn images(n: usize) -> Vec<Vec<u8>> {
    let mut images = vec![vec![255; usize::try_from(SIZE).unwrap()]; 2];
    for (number, (disk, at)) in writes(n).enumerate() {
        let at = usize::try_from(at).unwrap();
        images[disk][at..at + 4096].copy_from_slice(&(number as u64 + 1).to_le_bytes().repeat(512));
    }
    images
}

/// The number of the last write that these images hold. Blocks that were never written say the highest number there is.
pub fn newest(images: &[Vec<u8>]) -> usize {
    let numbers = images.iter().flat_map(|image| image.chunks(4096));
    let numbers = numbers.map(|block| u64::from_le_bytes(block[..8].try_into().unwrap()));
    usize::try_from(numbers.filter(|number| *number != u64::MAX).max().unwrap_or(0)).unwrap()
}

/// The longest time between two answered writes.
pub struct Stopwatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Duration>>,
}

impl Stopwatch {
    fn start(file: &Path) -> Self {
        let (stop, file) = (Arc::new(AtomicBool::new(false)), file.to_path_buf());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let length = || std::fs::metadata(&file).map_or(0, |it| it.len());
            let (mut longest, mut last, mut since) = (Duration::ZERO, length(), Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                longest = longest.max(since.elapsed());
                if length() != last {
                    (last, since) = (length(), Instant::now());
                }
            }
            longest
        });
        Self { stop, thread: Some(thread) }
    }

    pub fn stop(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
