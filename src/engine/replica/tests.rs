use std::collections::BTreeMap;
use std::sync::Arc;

use super::site::Site;
use super::state::State;
use super::writable::Writable;
use super::*;
use crate::backup::Tier;
use crate::backup::replica::Origin;
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::{Actor, Call, Create};

/// With one database and a replica, both in that folder.
fn engine(folder: &std::path::Path) -> Engine {
    let path = |name: &str| folder.join(name).display().to_string();
    #[allow(clippy::disallowed_methods)]
    let app = rusqlite::Connection::open(path("live.db")).unwrap();
    app.execute_batch("CREATE TABLE people (name); INSERT INTO people VALUES ('Ada')").unwrap();
    std::fs::create_dir(path("there")).unwrap();
    let environment = BTreeMap::from([
        ("BACKUP_DATABASES".to_owned(), format!("attendance={}", path("live.db"))),
        ("BACKUP_DIRECTORY".to_owned(), path("backups")),
        ("BACKUP_REPLICA_OFFSITE_URL".to_owned(), format!("fs://{}", path("there"))),
        ("BACKUP_REPLICA_OFFSITE_MODE".to_owned(), "incremental".to_owned()),
    ]);
    Engine::new(Arc::new(Config::load(&environment).unwrap()), Clock::system()).unwrap()
}

/// Between the list and the opening rotation may have given the name to another, which would be a base that isn't meant.
#[test]
fn what_is_opened_is_the_backup_that_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path());
    let (name, call): (ReplicaName, _) = ("offsite".parse().unwrap(), Call::new(Actor::cli()));
    let manual = Create { tier: Tier::Manual, reason: None, accept_shrink: false };
    let [first, second] = [(); 2].map(|()| engine.create(&manual, &call).unwrap().backup);
    let site = Site::look(&engine.target(&Elsewhere::Name(name.clone())).unwrap(), &call.control).unwrap();
    let there = Writable::of(&engine, &name, site, State::default(), "s", false).unwrap();
    let opened = |of, id| there.opened_as(of, &id).unwrap().map(|opened| opened.backup.id);
    assert_eq!(opened(Origin::of(&second), second.id), Some(second.id));
    assert_eq!(opened(Origin::of(&first), second.id), None);
    assert_eq!(there.opened(Origin::of(&first)).unwrap().unwrap().backup.id, first.id);
    engine.delete(first.id, false, &call).unwrap();
    assert_eq!(opened(Origin::of(&first), first.id), None);
}
