//! Several that make a repository in one folder at once.

#![allow(clippy::unwrap_used)]

mod support;

use repository::{OpenError, Repository};
use support::*;

#[test]
fn one_makes_it_and_the_others_are_told_so() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("repo");
        let made = std::thread::scope(|scope| {
            let attempt = || Repository::init(local(&path), PASSWORD, &options());
            [(); 4].map(|()| scope.spawn(attempt)).map(|attempt| attempt.join().unwrap())
        });
        let ids: Vec<_> = made.iter().flatten().map(Repository::id).collect();
        assert_eq!(ids.len(), 1, "{made:?}");
        let others = made.iter().filter_map(|made| made.as_ref().err());
        assert!(
            others.clone().all(|error| matches!(error, OpenError::AlreadyInitialised { .. })),
            "{made:?}"
        );
        assert_eq!(Repository::open(local(&path), PASSWORD).unwrap().id(), ids[0]);
        assert_eq!(files(&path.join("keys")).len(), 1);
    }
}
