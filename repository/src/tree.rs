//! Folders as restic stores them: a tree is a blob with a sorted list of nodes, as JSON.
//!
//! Owns the JSON of restic's `Tree` and `Node`, names in Go's quoting included. Knows nothing of where blobs lie.

use chrono::{DateTime, Utc};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::go_quote;
use crate::id::Digest;

/// Go's `os.ModeDir`.
const MODE_FOLDER: u32 = 1 << 31;
/// The bits of a mode that are permissions.
const PERMISSIONS: u32 = 0o777;

/// The content of one folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Sorted by name, bytewise; no two alike.
    #[serde(deserialize_with = "nodes_or_null")]
    pub nodes: Vec<Node>,
}

fn nodes_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Node>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Tree {
    /// The node of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// As the bytes of a blob: restic ends the JSON with a newline, and so the same folder is the same blob.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).expect("a tree has string keys and no failing parts");
        json.push(b'\n');
        json
    }
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, without any folder. Bytes that are no UTF-8 are replaced (U+FFFD); we never write such names.
    pub name: String,
    /// What it is.
    pub content: Content,
    /// Permission bits, as in 0o644.
    pub permissions: u32,
    /// Last change of the content.
    pub mtime: DateTime<Utc>,
    /// Last access.
    pub atime: DateTime<Utc>,
    /// Last change of the node.
    pub ctime: DateTime<Utc>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file.
    File {
        /// Bytes: the sum of the chunks' lengths.
        size: u64,
        /// Its data blobs, in order.
        chunks: Vec<Digest>,
    },
    /// A folder.
    Folder {
        /// The tree blob of its content.
        tree: Digest,
    },
    /// Something that only restic writes here (a symbolic link, a device…).
    Other {
        /// restic's word for it.
        kind: String,
    },
}

impl Node {
    /// A file that belongs to this user and is readable by it alone.
    #[must_use]
    pub fn file(name: impl Into<String>, size: u64, chunks: Vec<Digest>, time: DateTime<Utc>) -> Self {
        Self::new(name.into(), Content::File { size, chunks }, 0o600, time)
    }

    /// A folder that belongs to this user and is readable by it alone.
    #[must_use]
    pub fn folder(name: impl Into<String>, tree: Digest, time: DateTime<Utc>) -> Self {
        Self::new(name.into(), Content::Folder { tree }, 0o700, time)
    }

    fn new(name: String, content: Content, permissions: u32, time: DateTime<Utc>) -> Self {
        let (uid, gid) = (crate::machine::user_id(), crate::machine::group_id());
        Self { name, content, permissions, mtime: time, atime: time, ctime: time, uid, gid }
    }
}

/// restic's `Node`, in its order of fields.
#[derive(Serialize, Deserialize)]
struct RawNode<C> {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "is_zero32")]
    mode: u32,
    #[serde(default)]
    mtime: DateTime<Utc>,
    #[serde(default)]
    atime: DateTime<Utc>,
    #[serde(default)]
    ctime: DateTime<Utc>,
    uid: u32,
    gid: u32,
    #[serde(default, skip_serializing_if = "is_zero64")]
    size: u64,
    content: Option<C>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subtree: Option<Digest>,
}

// serde hands references to `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero32(value: &u32) -> bool {
    *value == 0
}

// serde hands references to `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero64(value: &u64) -> bool {
    *value == 0
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut raw = RawNode::<&[Digest]> {
            name: go_quote::quote(&self.name),
            kind: String::new(),
            mode: self.permissions & PERMISSIONS,
            mtime: self.mtime,
            atime: self.atime,
            ctime: self.ctime,
            uid: self.uid,
            gid: self.gid,
            size: 0,
            content: None,
            subtree: None,
        };
        match &self.content {
            Content::File { size, chunks } => {
                "file".clone_into(&mut raw.kind);
                raw.size = *size;
                raw.content = Some(chunks);
            }
            Content::Folder { tree } => {
                "dir".clone_into(&mut raw.kind);
                raw.mode |= MODE_FOLDER;
                raw.subtree = Some(*tree);
            }
            Content::Other { kind } => raw.kind.clone_from(kind),
        }
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawNode::<Vec<Digest>>::deserialize(deserializer)?;
        let name = go_quote::unquote(&raw.name).ok_or_else(|| {
            D::Error::custom(format!("the name {:?} is not quoted as Go does it", raw.name))
        })?;
        let content = match raw.kind.as_str() {
            "file" => Content::File { size: raw.size, chunks: raw.content.unwrap_or_default() },
            "dir" => Content::Folder { tree: raw.subtree.ok_or_else(|| D::Error::missing_field("subtree"))? },
            _ => Content::Other { kind: raw.kind },
        };
        let RawNode { mode, mtime, atime, ctime, uid, gid, .. } = raw;
        Ok(Self { name, content, permissions: mode & PERMISSIONS, mtime, atime, ctime, uid, gid })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn json_is_restics_to_the_byte() {
        // From `restic cat blob` on a folder of two.
        let text = concat!(
            r#"{"nodes":[{"name":"a","type":"file","mode":420,"mtime":"2026-11-20T04:55:16.669450699Z","#,
            r#""atime":"2026-11-20T04:55:16.669450699Z","ctime":"2026-11-20T04:55:16.669450699Z","uid":1,"gid":2,"#,
            r#""size":6,"content":["5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"]},"#,
            r#"{"name":"sub \\x01","type":"dir","mode":2147484096,"mtime":"2026-11-20T04:55:16Z","#,
            r#""atime":"2026-11-20T04:55:16Z","ctime":"2026-11-20T04:55:16Z","uid":0,"gid":0,"content":null,"#,
            r#""subtree":"1df37a23b8b5df1a1cab761c06b30a7006e72e9fbcae9d938cd6683bc421e456"}]}"#,
            "\n"
        );
        let tree: Tree = serde_json::from_str(text).unwrap();
        assert_eq!(tree.find("a").unwrap().permissions, 0o644);
        assert_eq!(tree.nodes[1].name, "sub \u{1}");
        assert_eq!(String::from_utf8(tree.to_bytes()).unwrap(), text);
    }

    #[test]
    fn reads_nodes_that_we_never_write() {
        let text = r#"{"nodes":[{"name":"l","type":"symlink","mode":134218239,"mtime":"0001-01-01T00:00:00Z",
            "atime":"2026-11-20T06:55:16+02:00","ctime":"2026-11-20T04:55:16Z","uid":0,"gid":0,"user":"root",
            "linktarget":"a","links":1,"content":null}]}"#;
        let tree: Tree = serde_json::from_str(text).unwrap();
        assert_eq!(tree.nodes[0].content, Content::Other { kind: "symlink".to_owned() });
        assert_eq!(serde_json::from_str::<Tree>(r#"{"nodes":null}"#).unwrap(), Tree::default());
    }
}
