//! The NBD client against servers that are slow, wrong or gone, played by the test over a stream in memory.
#![allow(clippy::unwrap_used)]

use agent::nbd::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const SIZE: u64 = 1 << 20;
const SHORT: Duration = Duration::from_millis(100);

/// The server's end of a connection.
struct Fake(DuplexStream);

impl Fake {
    async fn option(&mut self) -> (u32, Vec<u8>) {
        assert_eq!(self.0.read_u64().await.unwrap(), 0x4948_4156_454f_5054);
        let (option, length) = (self.0.read_u32().await.unwrap(), self.0.read_u32().await.unwrap());
        let mut data = vec![0; length as usize];
        self.0.read_exact(&mut data).await.unwrap();
        (option, data)
    }

    async fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        self.0.write_u64(0x0003_e889_0455_65a9).await.unwrap();
        for number in [option, kind, u32::try_from(data.len()).unwrap()] {
            self.0.write_u32(number).await.unwrap();
        }
        self.0.write_all(data).await.unwrap();
    }

    async fn open(&mut self) {
        self.0.write_all(b"NBDMAGICIHAVEOPT\x00\x03").await.unwrap();
        assert_eq!(self.0.read_u32().await.unwrap(), 3);
    }

    /// Agrees to structured replies and to one export of [`SIZE`] that takes every command.
    async fn negotiate(&mut self) {
        self.open().await;
        assert_eq!(self.option().await.0, 8);
        self.reply(8, 1, &[]).await;
        assert_eq!(self.option().await.0, 7);
        let mut info = vec![0, 0];
        info.extend_from_slice(&SIZE.to_be_bytes());
        info.extend_from_slice(&0x0165_u16.to_be_bytes());
        self.reply(7, 3, &info).await;
        self.reply(7, 1, &[]).await;
    }

    /// The next request: command, cookie, offset, length.
    async fn request(&mut self) -> (u16, u64, u64, u32) {
        assert_eq!(self.0.read_u32().await.unwrap(), 0x2560_9513);
        let _flags = self.0.read_u16().await.unwrap();
        let command = self.0.read_u16().await.unwrap();
        let (cookie, offset) = (self.0.read_u64().await.unwrap(), self.0.read_u64().await.unwrap());
        (command, cookie, offset, self.0.read_u32().await.unwrap())
    }

    async fn chunk(&mut self, flags: u16, kind: u16, cookie: u64, payload: &[u8]) {
        self.0.write_u32(0x668e_33ef).await.unwrap();
        self.0.write_u16(flags).await.unwrap();
        self.0.write_u16(kind).await.unwrap();
        self.0.write_u64(cookie).await.unwrap();
        self.0.write_u32(u32::try_from(payload.len()).unwrap()).await.unwrap();
        self.0.write_all(payload).await.unwrap();
    }

    async fn data(&mut self, flags: u16, cookie: u64, offset: u64, data: &[u8]) {
        self.chunk(flags, 1, cookie, &[&offset.to_be_bytes()[..], data].concat()).await;
    }
}

async fn pair(limits: Limits) -> (Nbd, Fake) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let mut fake = Fake(theirs);
    let (nbd, ()) = tokio::join!(Nbd::over(ours, "fake", "disk", &[], limits), fake.negotiate());
    (nbd.unwrap(), fake)
}

#[tokio::test]
async fn replies_may_come_in_any_order_and_in_pieces() {
    let (nbd, mut fake) = pair(Limits::default()).await;
    let server = async {
        let (_, first, ..) = fake.request().await;
        let (_, second, ..) = fake.request().await;
        fake.data(0, first, 6, b"gh").await;
        fake.data(1, second, 100, b"2222").await;
        fake.chunk(0, 2, first, &[&2_u64.to_be_bytes()[..], &4_u32.to_be_bytes()[..]].concat()).await;
        fake.data(0, first, 0, b"ab").await;
        fake.chunk(1, 0, first, &[]).await;
    };
    let (first, second, ()) = tokio::join!(nbd.read(0, vec![9; 8]), nbd.read(100, vec![9; 4]), server);
    assert_eq!(first.unwrap(), b"ab\0\0\0\0gh");
    assert_eq!(second.unwrap(), b"2222");
}

#[tokio::test]
async fn a_request_that_ran_out_of_time_keeps_its_slot_until_it_is_answered() {
    let (nbd, mut fake) = pair(Limits { request: SHORT, in_flight: 1, ..Limits::default() }).await;
    let error = nbd.read(0, vec![0; 4]).await.unwrap_err();
    assert!(matches!(error, NbdError::Timeout { .. }), "{error:?}");
    let (_, late, ..) = fake.request().await;
    let error = nbd.read(4, vec![0; 4]).await.unwrap_err();
    assert!(matches!(error, NbdError::Timeout { .. }), "the slot is taken: {error:?}");
    fake.data(1, late, 0, b"late").await;
    let server = async {
        let (command, cookie, offset, length) = fake.request().await;
        assert_eq!((command, offset, length), (0, 8, 4), "the second request was never sent");
        fake.data(1, cookie, 8, b"next").await;
    };
    let (read, ()) = tokio::join!(nbd.read(8, vec![0; 4]), server);
    assert_eq!(read.unwrap(), b"next");
}

#[tokio::test]
async fn a_request_given_up_half_written_ends_the_connection() {
    let (nbd, _fake) = pair(Limits { request: SHORT, ..Limits::default() }).await;
    let error = nbd.write(0, &vec![1; 512 << 10]).await.unwrap_err();
    assert!(matches!(error, NbdError::Timeout { .. }), "{error:?}");
    let error = nbd.read(0, vec![0; 4]).await.unwrap_err();
    assert!(matches!(error, NbdError::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn errors_in_a_reply_carry_the_servers_number_and_words() {
    let (nbd, mut fake) = pair(Limits::default()).await;
    let server = async {
        let (_, cookie, ..) = fake.request().await;
        fake.data(0, cookie, 0, b"ab").await;
        let said = [&5_u32.to_be_bytes()[..], &4_u16.to_be_bytes(), b"disk", &2_u64.to_be_bytes()].concat();
        fake.chunk(1, 0x8002, cookie, &said).await;
        let (_, cookie, ..) = fake.request().await;
        fake.0.write_u32(0x6744_6698).await.unwrap();
        fake.0.write_u32(28).await.unwrap();
        fake.0.write_u64(cookie).await.unwrap();
    };
    let client = async {
        let error = nbd.read(0, vec![0; 4]).await.unwrap_err();
        assert!(
            matches!(&error, NbdError::Server { errno: Errno::EIO, said, .. } if said == "disk"),
            "{error:?}"
        );
        let error = nbd.flush().await.unwrap_err();
        assert!(matches!(error, NbdError::Server { errno: Errno::ENOSPC, .. }), "{error:?}");
        assert!(error.to_string().contains("ENOSPC"));
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn a_broken_reply_ends_every_request_with_its_reason() {
    let (nbd, mut fake) = pair(Limits::default()).await;
    let nbd = Arc::new(nbd);
    let server = async {
        let (_, first, ..) = fake.request().await;
        fake.request().await;
        fake.data(0, first, 2, b"beyond").await;
    };
    let (first, second, ()) = tokio::join!(nbd.read(0, vec![0; 4]), nbd.read(8, vec![0; 4]), server);
    for error in [first.unwrap_err(), second.unwrap_err(), nbd.flush().await.unwrap_err()] {
        assert!(matches!(error, NbdError::Protocol { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_will_not_negotiate_is_told_apart() {
    let (ours, theirs) = tokio::io::duplex(1 << 10);
    let mut fake = Fake(theirs);
    let server = async {
        fake.open().await;
        fake.option().await;
        fake.reply(8, 1 << 31 | 5, b"use TLS").await;
    };
    let (nbd, ()) = tokio::join!(Nbd::over(ours, "fake", "disk", &[], Limits::default()), server);
    let error = nbd.unwrap_err();
    assert!(matches!(&error, NbdError::Rejected { reason, .. } if reason == "TLS required"), "{error:?}");

    let (ours, _silent) = tokio::io::duplex(1 << 10);
    let hasty = Limits { handshake: SHORT, ..Limits::default() };
    let error = Nbd::over(ours, "fake", "disk", &[], hasty).await.unwrap_err();
    assert!(matches!(error, NbdError::Timeout { .. }), "{error:?}");

    let (ours, mut theirs) = tokio::io::duplex(1 << 10);
    theirs.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian").await.unwrap();
    let error = Nbd::over(ours, "fake", "disk", &[], hasty).await.unwrap_err();
    assert!(matches!(error, NbdError::Protocol { .. }), "{error:?}");
}
