//! Replies, well meant and not. What proptest finds it prints with the seed that repeats it.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

type Answered = oneshot::Receiver<Result<Body, NbdError>>;

const READ: Extent = Extent::new(1000, 4096);
const STATUS: Extent = Extent::new(0, 1 << 20);
const CONTEXT: u32 = 77;

/// A read under cookie 1, a block status under 2, a flush under 3.
fn table() -> (Table, Vec<Answered>) {
    let table = Table::new("test", vec![CONTEXT]);
    let requests = [
        (1, Command::Read, READ, Body::Data(vec![0xaa; 4096])),
        (2, Command::BlockStatus, STATUS, Body::Status(vec![Vec::new()])),
        (3, Command::Flush, Extent::default(), Body::Nothing),
    ];
    let enter = |(cookie, command, extent, body)| {
        let (answer, answered) = oneshot::channel();
        table.enter(cookie, Pending::new(command, extent, body, answer, None)).unwrap();
        answered
    };
    let answered = requests.map(enter).into();
    (table, answered)
}

/// Feeds the bytes to the end, after which everybody must have been told something.
fn feed(bytes: &[u8]) -> Vec<Result<Body, NbdError>> {
    let (table, answered) = table();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(table.receive_all(bytes));
    answered.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect()
}

fn chunk(flags: u16, kind: u16, cookie: u64, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 0x668e_33ef_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn whole(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    chunk(flags, kind, cookie, u32::try_from(payload.len()).unwrap(), payload)
}

fn data(offset: u64, data: &[u8]) -> Vec<u8> {
    whole(0, p::CHUNK_DATA, 1, &[&offset.to_be_bytes()[..], data].concat())
}

fn status(runs: &[(u32, u32)]) -> Vec<u8> {
    let mut payload = CONTEXT.to_be_bytes().to_vec();
    for (length, flags) in runs {
        payload.extend_from_slice(&length.to_be_bytes());
        payload.extend_from_slice(&flags.to_be_bytes());
    }
    whole(p::CHUNK_DONE, p::CHUNK_STATUS, 2, &payload)
}

fn done() -> Vec<u8> {
    whole(p::CHUNK_DONE, p::CHUNK_NONE, 1, &[])
}

fn is_protocol(answer: &Result<Body, NbdError>) -> bool {
    matches!(answer, Err(NbdError::Protocol { .. }))
}

#[test]
fn a_block_status_is_cut_to_the_request_and_joined() {
    let answers = feed(&status(&[(4096, 0), (4096, 0), (1 << 30, 3)]));
    let runs = vec![
        Run { extent: Extent::new(0, 8192), flags: 0 },
        Run { extent: Extent::new(8192, (1 << 20) - 8192), flags: 3 },
    ];
    assert_eq!(*answers[1].as_ref().unwrap(), Body::Status(vec![runs]));
    assert!(is_protocol(&feed(&status(&[(0, 1)]))[1]), "an empty run");
    assert!(is_protocol(&feed(&status(&[(1 << 20, 1), (1, 1)]))[1]), "a run beyond the request");
    assert!(is_protocol(&feed(&whole(p::CHUNK_DONE, p::CHUNK_NONE, 2, &[]))[1]), "no context at all");
}

#[test]
fn a_read_takes_each_byte_exactly_once() {
    let both = [data(1000, &[1; 2048]), data(3048, &[2; 2048]), done()].concat();
    assert_eq!(*feed(&both)[0].as_ref().unwrap(), Body::Data([[1; 2048], [2; 2048]].concat()));
    let twice = [data(1000, &[1; 2048]), data(1000, &[2; 2048]), done()].concat();
    assert!(is_protocol(&feed(&twice)[0]));
    assert!(is_protocol(&feed(&[data(1000, &[1; 4095]), done()].concat())[0]), "a part is lacking");
    assert!(is_protocol(&feed(&data(999, &[1; 2]))[0]), "it starts before");
    assert!(is_protocol(&feed(&data(5095, &[1; 2]))[0]), "it ends after");
    assert!(is_protocol(&feed(&data(u64::MAX, &[1; 2]))[0]));
}

#[test]
fn what_is_announced_is_not_allocated() {
    // 16 MiB are announced and the stream ends: the buffer must have grown with what came, which was nothing.
    let answers = feed(&chunk(0, p::CHUNK_STATUS, 2, MAX_STATUS - 4, &[]));
    assert!(matches!(answers[1], Err(NbdError::Closed { .. })));
    assert!(is_protocol(&feed(&chunk(0, p::CHUNK_STATUS, 2, u32::MAX - 3, &[]))[1]));
    assert!(is_protocol(&feed(&chunk(0, p::CHUNK_ERROR | 1, 3, u32::MAX, &[]))[2]));
}

/// Heads with fields that are nearly right, and plain noise.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(0_u16), Just(1), Just(2), Just(5), Just(0x8001), Just(0x8002), any::<u16>()];
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        (990_u64..5200, proptest::collection::vec(any::<u8>(), 0..64)).prop_map(|(offset, data)| [
            &offset.to_be_bytes()[..],
            &data
        ]
        .concat()),
        (990_u64..5200, 0_u32..5000).prop_map(|(offset, length)| [
            &offset.to_be_bytes()[..],
            &length.to_be_bytes()
        ]
        .concat()),
        proptest::collection::vec(0_u32..100_000, 1..9)
            .prop_map(|numbers| numbers.iter().flat_map(|number| number.to_be_bytes()).collect()),
    ];
    prop_oneof![
        8 => (0_u16..3, kind, 0_u64..5, payload).prop_map(|(flags, kind, cookie, payload)| whole(flags, kind, cookie, &payload)),
        1 => (0_u16..3, 0_u64..5, any::<u32>()).prop_map(|(flags, cookie, length)| chunk(flags, 1, cookie, length, &[])),
        1 => (0_u32..3, 0_u64..5).prop_map(|(error, cookie)| {
            [&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #[test]
    fn nothing_a_server_sends_makes_it_panic_or_leaves_a_caller_waiting(
        frames in proptest::collection::vec(frame(), 0..12),
    ) {
        let answers = feed(&frames.concat());
        if let Ok(Body::Data(buffer)) = &answers[0] {
            prop_assert_eq!(buffer.len(), 4096);
        }
    }

    #[test]
    fn a_read_is_put_together_from_any_pieces_in_any_order(
        mut cuts in proptest::collection::btree_set(1_usize..4096, 0..20),
        holes in any::<u32>(),
        rotation in 0_usize..20,
        seed in any::<u8>(),
    ) {
        cuts.extend([0, 4096]);
        let cuts: Vec<usize> = cuts.into_iter().collect();
        let mut expected: Vec<u8> = (0..=u8::MAX).cycle().skip(usize::from(seed)).take(4096).collect();
        let mut chunks = Vec::new();
        for (number, piece) in cuts.windows(2).enumerate() {
            let offset = 1000 + u64::try_from(piece[0]).unwrap();
            let part = &mut expected[piece[0]..piece[1]];
            if holes >> number & 1 == 1 {
                part.fill(0);
                let length = u32::try_from(part.len()).unwrap();
                chunks.push(whole(0, p::CHUNK_HOLE, 1, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat()));
            } else {
                chunks.push(data(offset, part));
            }
        }
        let count = chunks.len();
        chunks.rotate_left(rotation % count);
        if rotation % 2 == 1 {
            chunks.reverse();
        }
        chunks.push(done());
        let answers = feed(&chunks.concat());
        prop_assert_eq!(answers[0].as_ref().unwrap(), &Body::Data(expected));
    }
}
