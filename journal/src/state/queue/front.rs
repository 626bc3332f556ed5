//! The front of one lane: the places in it that may be next, host by host.
//!
//! ```text
//!   heads:  (place 3, kvm-2)  (place 5, kvm-1)  (place 9, kvm-7)        the first place of each host, in order
//!   hosts:   kvm-1: 5 6 12     kvm-2: 3 4        kvm-7: 9
//! ```
//!
//! So whoever may start nothing on some hosts passes over each of them once, however many of its VMs wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Place;
use crate::ids::HostName;

/// Where a place is: the host of its VM; none for what touches no VM, and for a VM of which no record says its host.
pub(super) type Host = Option<Arc<HostName>>;

/// See the module. No host in it is without a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Front {
    hosts: BTreeMap<Host, BTreeSet<Place>>,
    heads: BTreeSet<(Place, Host)>,
}

impl Front {
    pub(super) fn insert(&mut self, host: &Host, place: Place) {
        self.change(host, |places| places.insert(place));
    }

    pub(super) fn remove(&mut self, host: &Host, place: Place) {
        self.change(host, |places| places.remove(&place));
    }

    /// Changes the places of one host, and has its head follow.
    fn change(&mut self, host: &Host, change: impl FnOnce(&mut BTreeSet<Place>) -> bool) {
        let places = self.hosts.entry(host.clone()).or_default();
        let before = places.first().copied();
        change(places);
        let after = places.first().copied();
        if after.is_none() {
            self.hosts.remove(host);
        }
        if before != after {
            before.map(|head| self.heads.remove(&(head, host.clone())));
            self.heads.extend(after.map(|head| (head, host.clone())));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// The places of each host in order; first the host whose first place comes first.
    pub fn hosts(&self) -> impl Iterator<Item = (Option<&HostName>, &BTreeSet<Place>)> {
        self.heads.iter().filter_map(|(_, host)| Some((host.as_deref(), self.hosts.get(host)?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::ids::{JobId, Time};

    /// Whatever comes and goes: every host once, its places in order, the hosts by their first place.
    #[test]
    fn hosts_stand_in_the_order_of_their_first_place() {
        let names: [Host; 4] = [None, Some("a"), Some("b"), Some("c")]
            .map(|name| name.map(|name| Arc::new(name.parse().unwrap())));
        for seed in 0..200 {
            let mut dice = StdRng::seed_from_u64(seed);
            let (mut front, mut there) = (Front::default(), BTreeSet::new());
            for _ in 0..100 {
                let host = dice.random_range(0..names.len());
                let place =
                    Place { not_before: Time(dice.random_range(0..5)), job: JobId(dice.random_range(0..9)) };
                if dice.random() && !there.iter().any(|(_, other): &(usize, Place)| *other == place) {
                    there.insert((host, place));
                    front.insert(&names[host], place);
                } else {
                    there.remove(&(host, place));
                    front.remove(&names[host], place);
                }
                let mut wanted: Vec<(Option<&HostName>, Vec<Place>)> = (0..names.len())
                    .map(|host| {
                        (
                            names[host].as_deref(),
                            there.iter().filter(|it| it.0 == host).map(|it| it.1).collect(),
                        )
                    })
                    .filter(|(_, places): &(_, Vec<Place>)| !places.is_empty())
                    .collect();
                wanted.sort_by_key(|(_, places)| places[0]);
                let found: Vec<_> = front
                    .hosts()
                    .map(|(host, places)| (host, places.iter().copied().collect::<Vec<_>>()))
                    .collect();
                assert_eq!(found, wanted, "seed {seed}");
                assert_eq!(front.is_empty(), there.is_empty());
            }
        }
    }
}
