//! What changes here while a backlog is sent.

use serde_json::{Value, json};

use crate::fault::When;
use crate::harness::Place;
use crate::replica_scene::{another, pushes, told, with_replica};
use crate::replica_writers::HeldUp;
use crate::restore_app::id;
use crate::stores::Store;

/// Something happens here when the first of what is lacking is about to be sent. Says what the push did.
fn while_the_first_is_sent(place: &Place, proxy: &crate::proxy::Proxy, happens: impl FnOnce()) -> Value {
    let when = When::of("PUT", "attendance.db");
    let push = HeldUp::at(proxy, when, false, place, &["replica", "push", "offsite", "--json"]);
    happens();
    let done = push.goes_on();
    proxy.heal();
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

/// What it was to push out there is still wanted.
#[test]
fn what_is_gone_before_it_was_sent_pushes_nothing_out() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = with_replica(&store);
    place.set("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL", "2");
    let [first, second] = [(); 2].map(|()| another(&place));
    pushes(&place, &store);
    let [gone, newest] = [(); 2].map(|()| another(&place));
    let done = while_the_first_is_sent(&place, &proxy, || drop(place.ok(&["delete", id(&gone)])));
    assert_eq!((&done["sent"], &done["dropped"]), (&json!([newest["id"]]), &json!([first["id"]])), "{done}");
    let mut expected = [id(&second), id(&newest)];
    expected.sort();
    assert_eq!(store.objects.ids(), expected);
    store.objects.assert_tidy();
}

/// The one that was taken last is missed most, and is not made to wait for all the others.
#[test]
fn what_is_taken_while_a_backlog_is_sent_is_next() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    let mut lacking = [(); 3].map(|()| another(&place)).to_vec();
    lacking.reverse();
    let mut taken = None;
    let done = while_the_first_is_sent(&place, &proxy, || taken = Some(another(&place)));
    lacking.insert(1, taken.unwrap());
    let expected: Vec<_> = lacking.iter().map(|backup| backup["id"].clone()).collect();
    assert_eq!(done["sent"], Value::from(expected));
    store.objects.assert_complete(&place);
    assert_eq!(told(&place)["pending"], 0);
}

/// It goes there too, though the plan by which it was sent was given up.
#[test]
fn what_is_deleted_while_it_is_sent_goes_there_too() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    let [first, second, newest] = [(); 3].map(|()| another(&place));
    let done = while_the_first_is_sent(&place, &proxy, || drop(place.ok(&["delete", id(&newest)])));
    assert_eq!(done["sent"], json!([newest["id"], second["id"], first["id"]]), "{done}");
    assert_eq!(done["dropped"], json!([newest["id"]]), "{done}");
    store.objects.assert_complete(&place);
}
