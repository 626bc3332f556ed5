//! How a map of shared values is written: as one of the values themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) fn serialize<S: Serializer, K: Serialize, V: Serialize>(
    map: &BTreeMap<K, Arc<V>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(key, value)| (key, value.as_ref())))
}

pub(super) fn deserialize<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, Arc<V>>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    let map = BTreeMap::<K, V>::deserialize(deserializer)?;
    Ok(map.into_iter().map(|(key, value)| (key, Arc::new(value))).collect())
}
