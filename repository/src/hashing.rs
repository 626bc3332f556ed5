//! The sha256 of several chunks at a time.
//!
//! A hash is a chain in which every step waits for the one before it, so most of a core idles. Chains that do not depend on one
//! another run side by side in the lanes of its wide registers, twice as many bytes in the same time (decision 23). The code
//! for each kind of processor is a library's. Since a wrong digest would be a wrong name for ever, each process holds what its processor's
//! lanes make against the plain hash once, before anything is named by them. Knows nothing of what is hashed.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

/// As many chunks as are worth hashing together: the widest registers have so many lanes.
pub const LANES: usize = 16;

/// The sha256 of each message.
pub(crate) fn sha256_each(messages: &[&[u8]]) -> Vec<[u8; 32]> {
    static AGREE: LazyLock<bool> = LazyLock::new(|| {
        let agree = lanes_agree();
        if !agree {
            tracing::error!(
                backend = tape_sha256::backend(),
                "this processor's wide registers hash wrongly: hashing without them"
            );
        }
        agree
    });
    if *AGREE { side_by_side(messages) } else { one_by_one(messages) }
}

fn side_by_side(messages: &[&[u8]]) -> Vec<[u8; 32]> {
    let mut digests = vec![[0; 32]; messages.len()];
    tape_sha256::hash_many(messages, &mut digests);
    digests
}

fn one_by_one(messages: &[&[u8]]) -> Vec<[u8; 32]> {
    messages.iter().map(|message| Sha256::digest(message).into()).collect()
}

/// Whether both ways agree on full and on partly filled lanes, of equal and of different lengths.
fn lanes_agree() -> bool {
    let bytes: Vec<u8> =
        (0..4096_u32).map(|place| place.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let equal: Vec<&[u8]> = (0..2 * LANES).map(|lane| &bytes[lane..][..1024]).collect();
    let different: Vec<&[u8]> = (0..2 * LANES).map(|lane| &bytes[lane..][..57 * lane]).collect();
    [equal, different].iter().all(|messages| {
        (1..=messages.len()).all(|count| side_by_side(&messages[..count]) == one_by_one(&messages[..count]))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_processor_hashes_rightly_side_by_side() {
        assert!(lanes_agree(), "{}", tape_sha256::backend());
    }

    proptest! {
        #[test]
        fn each_has_its_own_digest(messages in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..5_000), 0..40,
        )) {
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(sha256_each(&messages), one_by_one(&messages));
        }
    }
}
