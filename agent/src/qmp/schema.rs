//! What a QEMU can do, by its own description (`query-qmp-schema`): features are looked up, never concluded
//! from a version number, which a distribution's backport makes a lie.

use serde::Deserialize;
use std::collections::HashMap;

/// The description of every command, indexed.
#[derive(Clone, Debug)]
pub struct Schema {
    entities: HashMap<String, Entity>,
}

/// One entity as QEMU sends it (qapi/introspect.json); `name` of a type is a meaningless number.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Entity {
    name: String,
    meta_type: String,
    arg_type: Option<String>,
    element_type: Option<String>,
    #[serde(default)]
    members: Vec<Member>,
    #[serde(default)]
    variants: Vec<Variant>,
    /// Enumerations of QEMU before 6.2 list their values here only.
    #[serde(default)]
    values: Vec<String>,
}

/// A member of an object, an alternative, or a value of an enumeration.
#[derive(Clone, Debug, Deserialize)]
struct Member {
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Variant {
    case: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Schema {
    pub(super) fn new(entities: Vec<Entity>) -> Self {
        Self { entities: entities.into_iter().map(|entity| (entity.name.clone(), entity)).collect() }
    }

    /// Whether the command exists.
    pub fn has_command(&self, name: &str) -> bool {
        self.entities.get(name).is_some_and(|entity| entity.meta_type == "command")
    }

    /// Whether the command takes an argument. `path` goes down from the command's arguments, with `/` between
    /// the steps: `name` is a member, `+case` the branch for a value of the union's tag, `^value` a value of an
    /// enumeration (libvirt's notation). Lists and alternatives are looked through.
    ///
    /// `("blockdev-add", "+copy-before-write/cbw-timeout")`, `("transaction", "actions/type/^blockdev-backup")`
    pub fn has_argument(&self, command: &str, path: &str) -> bool {
        let start = self.entities.get(command).filter(|entity| entity.meta_type == "command");
        let Some(start) = start.and_then(|entity| entity.arg_type.as_deref()) else { return false };
        let mut reached = vec![start];
        for step in path.split('/') {
            reached = reached.into_iter().flat_map(|kind| self.step(kind, step)).collect();
            if step.starts_with('^') {
                break;
            }
        }
        !reached.is_empty()
    }

    /// The types that one step leads to; for a value of an enumeration, the enumeration itself.
    fn step<'a>(&'a self, kind: &'a str, step: &str) -> Vec<&'a str> {
        let mut found = Vec::new();
        for entity in self.objects(kind) {
            if let Some(case) = step.strip_prefix('+') {
                found.extend(entity.variants.iter().filter(|v| v.case == case).map(|v| v.kind.as_str()));
            } else if let Some(value) = step.strip_prefix('^') {
                let listed = entity.values.iter().any(|v| v == value)
                    || entity.members.iter().any(|m| m.name.as_deref() == Some(value));
                if entity.meta_type == "enum" && listed {
                    found.push(entity.name.as_str());
                }
            } else if entity.meta_type == "object" {
                let named = entity.members.iter().filter(|m| m.name.as_deref() == Some(step));
                found.extend(named.filter_map(|m| m.kind.as_deref()));
            }
        }
        found
    }

    /// The entity behind a type, seen through lists and alternatives. The depth is bounded: the schema comes
    /// from outside, and a list of itself must not hang us.
    fn objects<'a>(&'a self, kind: &str) -> Vec<&'a Entity> {
        let mut level = vec![kind];
        let mut found = Vec::new();
        for _ in 0..4 {
            let mut next = Vec::new();
            for entity in level.iter().filter_map(|name| self.entities.get(*name)) {
                match entity.meta_type.as_str() {
                    "array" => next.extend(entity.element_type.as_deref()),
                    "alternate" => next.extend(entity.members.iter().filter_map(|m| m.kind.as_deref())),
                    _ => found.push(entity),
                }
            }
            level = next;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        let entities = json!([
            {"name": "blockdev-add", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
            {"name": "1", "meta-type": "object", "tag": "driver", "members": [
                {"name": "driver", "type": "2"}, {"name": "children", "type": "[3]"}],
             "variants": [{"case": "cbw", "type": "4"}, {"case": "raw", "type": "0"}]},
            {"name": "2", "meta-type": "enum", "members": [{"name": "cbw"}], "values": ["cbw", "raw"]},
            {"name": "[3]", "meta-type": "array", "element-type": "3"},
            {"name": "3", "meta-type": "alternate", "members": [{"type": "1"}, {"type": "str"}]},
            {"name": "4", "meta-type": "object", "members": [{"name": "cbw-timeout", "type": "int", "default": null}]},
            {"name": "loop", "meta-type": "command", "arg-type": "5"},
            {"name": "5", "meta-type": "array", "element-type": "5"},
        ]);
        Schema::new(serde_json::from_value(entities).unwrap())
    }

    #[test]
    fn paths_go_through_unions_enumerations_lists_and_alternatives() {
        let schema = schema();
        let has = |path| schema.has_argument("blockdev-add", path);
        assert!(schema.has_command("blockdev-add") && !schema.has_command("1"));
        assert!(
            has("driver")
                && has("+cbw/cbw-timeout")
                && has("driver/^raw")
                && has("children/+cbw/cbw-timeout")
        );
        assert!(!has("cbw-timeout") && !has("+cbw/min") && !has("driver/^nbd") && !has("+nbd"));
        assert!(!schema.has_argument("loop", "x") && !schema.has_argument("nothing", "x"));
    }
}
