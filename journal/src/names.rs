//! The names that Backstay gives to objects inside QEMU, and how it knows its own again.
//!
//! Every name begins with `backstay.<installation>.`, so a leftover says whose it is; whatever does not carry our
//! installation's mark is foreign. A checkpoint's bitmap ends in a number of its own; a temporary object in
//! `t<intent>.<disk><role>`, where the disk is its place in the intent. QEMU limits a node name to 31 bytes
//! (`block_int-common.h`, `node_name[32]`), which is what keeps these short.

use std::fmt;

use crate::ids::{BitmapId, Installation, IntentId};

/// QEMU's limit on node names, in bytes.
pub const NODE_NAME_MAX: usize = 31;

/// What a temporary object is for; one letter in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The fleece: the node that shows one disk at one instant.
    Fleece,
    /// The scratch file that old data is copied to.
    Scratch,
    /// The qcow2 image in that file, where the fleece is not itself the image.
    Kept,
    /// The block job that copies old data into the fleece before the guest overwrites it.
    Job,
    /// The copy-before-write filter: of that job, or one that was put in by itself.
    Filter,
    /// The node between a device and a filter that was put in by itself.
    Top,
    /// The NBD export of a fleece.
    Export,
    /// The temporary bitmap: the changes that the view's reader wants to know of.
    Changes,
}

impl Role {
    const ALL: [(Role, char); 8] = [
        (Role::Fleece, 'f'),
        (Role::Scratch, 's'),
        (Role::Kept, 'k'),
        (Role::Job, 'j'),
        (Role::Filter, 'c'),
        (Role::Top, 'r'),
        (Role::Export, 'x'),
        (Role::Changes, 'm'),
    ];

    fn letter(self) -> char {
        Self::ALL.iter().find(|(role, _)| *role == self).map_or('?', |(_, letter)| *letter)
    }
}

/// Whose an object is, read from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A checkpoint's bitmap, on one disk, of some installation.
    Bitmap(Installation, BitmapId),
    /// A temporary object of some installation: for which intent, which disk of it, what it is.
    Temporary(Installation, IntentId, usize, Role),
}

impl Owner {
    /// The installation that gave the name.
    #[must_use]
    pub fn installation(self) -> Installation {
        match self {
            Owner::Bitmap(installation, _) | Owner::Temporary(installation, ..) => installation,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Bitmap(installation, bitmap) => write!(f, "backstay.{installation}.{}", bitmap.0),
            Owner::Temporary(installation, intent, disk, role) => {
                write!(f, "backstay.{installation}.t{}.{disk}{}", intent.0, role.letter())
            }
        }
    }
}

/// The name of a checkpoint's bitmap on one disk.
#[must_use]
pub fn bitmap(installation: Installation, bitmap: BitmapId) -> String {
    Owner::Bitmap(installation, bitmap).to_string()
}

/// The name of a temporary object for the `disk`-th disk of `intent`.
#[must_use]
pub fn temporary(installation: Installation, intent: IntentId, disk: usize, role: Role) -> String {
    Owner::Temporary(installation, intent, disk, role).to_string()
}

/// Whose object this is, or `None` for a foreign name. Exactly the names that we give are ours: nothing near them.
#[must_use]
pub fn owner(name: &str) -> Option<Owner> {
    let (installation, rest) = name.strip_prefix("backstay.")?.split_once('.')?;
    let installation = installation.parse().ok()?;
    let owner = match rest.strip_prefix('t') {
        None => Owner::Bitmap(installation, BitmapId(rest.parse().ok()?)),
        Some(temporary) => {
            let (intent, place) = temporary.split_once('.')?;
            let letter = place.chars().next_back()?;
            let (role, _) = Role::ALL.into_iter().find(|(_, l)| *l == letter)?;
            let disk = place.strip_suffix(letter)?.parse().ok()?;
            Owner::Temporary(installation, IntentId(intent.parse().ok()?), disk, role)
        }
    };
    (owner.to_string() == name).then_some(owner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_name_is_known_again() {
        let us = Installation(0x0a1b_2c3d);
        assert_eq!(bitmap(us, BitmapId(12)), "backstay.0a1b2c3d.12");
        assert_eq!(owner("backstay.0a1b2c3d.12"), Some(Owner::Bitmap(us, BitmapId(12))));
        for (role, _) in Role::ALL {
            let name = temporary(us, IntentId(99_999_999), 99, role);
            assert!(name.len() <= NODE_NAME_MAX, "{name}");
            assert_eq!(owner(&name), Some(Owner::Temporary(us, IntentId(99_999_999), 99, role)));
        }
    }

    #[test]
    fn what_is_only_like_ours_is_foreign() {
        for foreign in [
            "",
            "backstay.",
            "backstay.0a1b2c3d.",
            "backstay.0a1b2c3d.007",
            "backstay.0A1B2C3D.7",
            "backstay.0a1b2c3d.t1.0q",
            "backstay.0a1b2c3d.t1.+0f",
            "vnb.1",
        ] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
