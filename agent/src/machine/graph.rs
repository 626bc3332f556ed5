//! Which block node stands on which. Knows our own nodes by their names, and a backup job's filter by its shape.
//!
//! `query-block` shows the topmost node in place of the disk while a view is up, and neither it nor
//! `query-named-block-nodes` says what a node stands on (7.2 and 10.0). `x-debug-query-block-graph` does; it has
//! been there, unchanged, since QEMU 4.0.

use std::collections::BTreeSet;

use journal::names::{self, Owner, Role};
use serde::Deserialize;
use serde_json::Value;

use crate::qmp::{Qmp, QmpError};

/// How far nodes that are looked through are followed down: nobody stacks this many.
const DEPTH: usize = 32;

/// Which node stands on which.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Graph {
    nodes: Vec<GraphNode>,
    edges: Vec<Edge>,
}

/// A node, a device's backend or a job.
#[derive(Debug, Deserialize)]
struct GraphNode {
    id: u64,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Edge {
    parent: u64,
    child: u64,
    name: String,
    #[serde(default)]
    perm: Vec<String>,
}

/// A node below another one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Below<'a> {
    /// Its name.
    pub(crate) node: &'a str,
    /// Whether it is reached through a backing link, so that QEMU only reads it.
    pub(crate) backing: bool,
    /// Whether nothing is below it.
    pub(crate) last: bool,
}

impl Graph {
    /// Asks QEMU.
    pub(crate) async fn query(qmp: &Qmp) -> Result<Self, QmpError> {
        qmp.ask("x-debug-query-block-graph", Value::Null).await
    }

    fn id(&self, name: &str) -> Option<u64> {
        self.nodes.iter().find(|node| node.name == name).map(|node| node.id)
    }

    fn name(&self, id: u64) -> Option<&str> {
        self.nodes.iter().find(|node| node.id == id).map(|node| node.name.as_str())
    }

    /// The node that `node` stands on by its link of this name.
    pub(crate) fn child(&self, node: &str, link: &str) -> Option<&str> {
        let id = self.id(node)?;
        let edge = self.edges.iter().find(|edge| edge.parent == id && edge.name == link)?;
        self.name(edge.child)
    }

    /// The first node from `top` down that is neither a view's own nor a backup job's filter: the disk.
    pub(super) fn disk_below(&self, top: &str) -> String {
        let mut at = top;
        for _ in 0..DEPTH {
            // A copy-before-write filter has exactly the children `file`, the disk, and `target`, what it copies to.
            let filter = self.child(at, "target").is_some();
            match self.child(at, "file") {
                Some(below) if filter || is_top(at) => at = below,
                _ => break,
            }
        }
        at.to_owned()
    }

    /// Who stands directly on a node, as (name, link), but for our own nodes, which come and go with a view.
    pub(crate) fn above(&self, node: &str) -> Vec<(&str, &str)> {
        let Some(id) = self.id(node) else { return Vec::new() };
        let edges = self.edges.iter().filter(|edge| edge.child == id);
        let parents = edges.filter_map(|edge| Some((self.name(edge.parent)?, edge.name.as_str())));
        parents.filter(|(parent, _)| names::owner(parent).is_none()).collect()
    }

    /// How many stand directly on a node and may write to it.
    pub(super) fn writers(&self, node: &str) -> usize {
        let Some(id) = self.id(node) else { return 0 };
        let writes = |edge: &&Edge| edge.child == id && edge.perm.iter().any(|perm| perm == "write");
        self.edges.iter().filter(writes).count()
    }

    /// Everything below a node, each once.
    pub(crate) fn below(&self, node: &str) -> Vec<Below<'_>> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let mut open: Vec<(u64, bool)> = self.id(node).map(|id| (id, false)).into_iter().collect();
        while let Some((at, backing)) = open.pop() {
            for edge in self.edges.iter().filter(|edge| edge.parent == at) {
                let Some(node) = self.name(edge.child).filter(|_| seen.insert(edge.child)) else { continue };
                let backing = backing || edge.name == "backing";
                let last = self.edges.iter().all(|other| other.parent != edge.child);
                found.push(Below { node, backing, last });
                open.push((edge.child, backing));
            }
        }
        found
    }
}

/// Whether this is the node that one of our views puts between a device and its filter.
pub(super) fn is_top(node: &str) -> bool {
    matches!(names::owner(node), Some(Owner::Temporary(.., Role::Top)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn graph(edges: &[(&str, &str, &str)]) -> Graph {
        let names: BTreeSet<&str> = edges.iter().flat_map(|(parent, _, child)| [*parent, *child]).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let id = |name: &str| names.iter().position(|it| *it == name).unwrap();
        let nodes: Vec<Value> =
            names.iter().map(|name| serde_json::json!({"id": id(name), "name": name})).collect();
        let edges: Vec<Value> = edges
            .iter()
            .map(|(parent, name, child)| {
                let perm = if *name == "root" { vec!["write"] } else { vec![] };
                serde_json::json!({"parent": id(parent), "child": id(child), "name": name, "perm": perm})
            })
            .collect();
        serde_json::from_value(serde_json::json!({"nodes": nodes, "edges": edges})).unwrap()
    }

    #[test]
    fn filters_and_views_are_looked_through_and_disks_are_not() {
        let top = "backstay.0a1b2c3d.t7.0r";
        let graph = graph(&[
            ("dev", "root", top),
            (top, "file", "c1"),
            ("c1", "file", "c0"),
            ("c1", "target", "k"),
            ("c0", "file", "disk"),
            ("c0", "target", "f0"),
            ("disk", "file", "file"),
        ]);
        for at in [top, "c1", "c0", "disk"] {
            assert_eq!(graph.disk_below(at), "disk");
        }
        assert_eq!(graph.disk_below("elsewhere"), "elsewhere");
        assert_eq!((graph.writers(top), graph.writers("disk"), graph.writers("elsewhere")), (1, 0, 0));
    }

    #[test]
    fn what_is_only_read_is_told_from_what_is_written() {
        let graph = graph(&[
            ("disk", "file", "file"),
            ("disk", "data-file", "data"),
            ("disk", "backing", "base"),
            ("base", "file", "base file"),
            ("base", "data-file", "base data"),
        ]);
        let mut files: Vec<&str> =
            graph.below("disk").iter().filter(|it| it.last && it.backing).map(|it| it.node).collect();
        files.sort_unstable();
        assert_eq!(files, ["base data", "base file"]);
        assert_eq!(graph.below("disk").len(), 5);
    }
}
