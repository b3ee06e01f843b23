//! What is said of the journal in a replica: until when it is there, and who can read it.

use crate::client::Server;
use crate::harness::eventually;
use crate::journal_replica::{journal_keys, kill_server, number, numbers_at, shipping};
use crate::replica_scene::{empty_machine, told};
use crate::stores::Store;

#[test]
fn what_was_sent_before_encryption_was_turned_on_is_warned_of() {
    let store = Store::s3();
    let mut place = shipping(&store);
    let keys = ["BACKUP_ENCRYPTION_RECIPIENTS", "BACKUP_ENCRYPTION_IDENTITY_FILE"];
    let values = keys.map(|key| place.environment().into_iter().find(|(name, _)| name == key).unwrap().1);
    place.unset(keys[0]).unset(keys[1]);
    let warning = |place: &crate::harness::Place| {
        let status = place.json(&["status"]);
        let found = status["warnings"].as_array().unwrap().iter().find(|it| it["code"] == "replica-plain").cloned();
        found.map(|it| it["detail"].as_str().unwrap().to_owned())
    };
    let server = Server::start(&place);
    number(&place, 1);
    kill_server(server);
    assert!(warning(&place).unwrap().contains("set BACKUP_ENCRYPTION_RECIPIENTS"));
    let plain = journal_keys(&store).iter().filter(|key| key.ends_with(".tar.zst")).count();
    place.set(keys[0], &values[0]).set(keys[1], &values[1]);
    let server = Server::start(&place);
    number(&place, 2);
    let counted = format!("in part: {plain} objects of its journal; they go as the window moves on, by 20");
    eventually("they are counted", || warning(&place).filter(|text| text.contains(&counted)));
    assert_eq!(told(&place)["journal"]["plain"], plain);
    let doctor = place.run(&["doctor"]);
    assert!(doctor.stdout.contains("objects of its journal"), "{}", doctor.stdout);
    let status = place.ok(&["status"]).stdout;
    let line = status.lines().find(|line| line.starts_with("replica ")).unwrap();
    assert!(line.contains("; any second until 20"), "{line}");
    // Somebody removes them.
    kill_server(server);
    let is_plain = |key: &String| key.ends_with(".tar.zst");
    journal_keys(&store)
        .iter()
        .filter(|key| is_plain(key))
        .for_each(|key| std::fs::remove_file(store.objects.path(key)).unwrap());
    let server = Server::start(&place);
    eventually("it is over", || warning(&place).is_none().then_some(()));
    let last = number(&place, 3);
    assert!(!journal_keys(&store).iter().any(is_plain));
    kill_server(server);
    assert_eq!(numbers_at(&empty_machine(&place, &store), last), [3, 3]);
}
