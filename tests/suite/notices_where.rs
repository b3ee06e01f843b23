//! To whom notices go, and to whom never.

use serde_json::{Value, json};

use crate::harness::Place;
use crate::notices::tested;
use crate::receivers::{PASSWORD, Receiver, Sink};

/// Addresses that nothing is sent to, however they are written; and what is said of them tells nobody what is there.
#[test]
fn nothing_is_sent_to_where_only_this_machine_gets() {
    let mut place = Place::new();
    place.create();
    let hook = Receiver::start();
    let port = hook.address.port();
    let never = [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://[fe80::1]/",
        "http://0.0.0.0:80/",
        "http://[::]/",
        "http://100.100.100.200/",
        "http://224.0.0.1/",
    ];
    for url in never {
        place.set("BACKUP_WEBHOOK_URL", url).set("BACKUP_NOTIFY_PRIVATE", "true");
        let said = tested(&place, "webhook", 1);
        assert!(said.contains("nothing is ever sent to"), "{url}: {said}");
        place.unset("BACKUP_WEBHOOK_URL").unset("BACKUP_NOTIFY_PRIVATE");
    }
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "[::1]", "[::ffff:127.0.0.1]"] {
        place.set("BACKUP_WEBHOOK_URL", &format!("http://{host}:{port}/"));
        let said = tested(&place, "webhook", 1);
        assert!(said.contains("BACKUP_NOTIFY_PRIVATE=true"), "{host}: {said}");
        place.unset("BACKUP_WEBHOOK_URL");
    }
    place.set("BACKUP_WEBHOOK_URL", "http://1.1.1.1/").set("BACKUP_NOTIFY_PRIVATE", "true");
    assert!(tested(&place, "webhook", 1).contains("use https://"), "plain text goes out of the house");
    place.unset("BACKUP_WEBHOOK_URL").set("BACKUP_EMAIL_FROM", "a@b.example").set("BACKUP_EMAIL_TO", "a@b.example");
    place.set("BACKUP_SMTP_URL", "smtp://2852039166:25?tls=none");
    assert!(tested(&place, "mail", 1).contains("nothing is ever sent to"));
    assert!(hook.got().is_empty(), "{:?}", hook.got());
}

/// A proxy would look the name up by itself, and connect to whatever it likes.
#[test]
fn no_proxy_of_the_environment_is_asked_to_send_a_notice() {
    let mut place = Place::new();
    place.create();
    let (hook, proxy) = (Receiver::start(), Receiver::start());
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        place.set(name, &proxy.url("/"));
    }
    place.set("no_proxy", "").set("NO_PROXY", "").set("BACKUP_NOTIFY_PRIVATE", "true");
    place.set("BACKUP_WEBHOOK_URL", &hook.url("/hook")).set("BACKUP_HEALTHCHECK_URL", &hook.url("/ping"));
    assert!(tested(&place, "webhook", 0).contains("it was taken"));
    assert!(proxy.got().is_empty(), "{:?}", proxy.got());
    let lines: Vec<_> = hook.got().into_iter().map(|got| got.line).collect();
    assert!(lines.iter().any(|line| line.starts_with("POST /hook ")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("GET /ping ")), "{lines:?}");
}

#[test]
fn a_mail_goes_to_none_but_the_server_that_is_meant() {
    let mut place = Place::new();
    place.create();
    place.set("BACKUP_NOTIFY_PRIVATE", "true").set("BACKUP_SMTP_PASSWORD", PASSWORD);
    place
        .set("BACKUP_EMAIL_FROM", "backup@school.example")
        .set("BACKUP_EMAIL_TO", "gone@school.example, it@school.example");
    let url = |place: &mut Place, url: &str| {
        place.unset("BACKUP_SMTP_URL").set("BACKUP_SMTP_URL", url);
    };
    let (stripped, starttls, tls) =
        (Sink::start(&place, "stripped"), Sink::start(&place, "starttls"), Sink::start(&place, "tls"));
    url(&mut place, &format!("smtp://backup@localhost:{}", stripped.port));
    assert!(tested(&place, "mail", 1).contains("doesn't offer STARTTLS"));
    assert_eq!(stripped.mails(), [] as [Value; 0]);
    // By an authority that nobody has said to trust; of another name.
    url(&mut place, &format!("smtp://backup@localhost:{}", starttls.port));
    assert!(tested(&place, "mail", 1).contains("no certificate that counts"));
    place.set("BACKUP_NOTIFY_CA_FILE", &place.path("tls/ca.pem").display().to_string());
    url(&mut place, &format!("smtps://backup@127.0.0.1:{}", tls.port));
    assert!(tested(&place, "mail", 1).contains("no certificate that counts"));
    // One recipient that is refused is in no other's way.
    url(&mut place, &format!("smtps://backup@localhost:{}", tls.port));
    let said = tested(&place, "mail", 1);
    assert!(said.contains("number 1 of 2 in BACKUP_EMAIL_TO: the mail server refuses the mail (550)"), "{said}");
    assert!(!said.contains("gone@") && !said.contains("localhost"), "{said}");
    assert_eq!(tls.mails().iter().map(|mail| mail["to"].clone()).collect::<Vec<_>>(), [json!(["it@school.example"])]);
    place.unset("BACKUP_SMTP_PASSWORD").set("BACKUP_SMTP_PASSWORD", "another password");
    let said = tested(&place, "mail", 1);
    assert!(said.contains("refuses the sign-in (535)") && !said.contains("another password"), "{said}");
    // Within the house, without a password.
    let none = Sink::start(&place, "none");
    place.unset("BACKUP_SMTP_PASSWORD").unset("BACKUP_EMAIL_TO").set("BACKUP_EMAIL_TO", "it@school.example");
    url(&mut place, &format!("smtp://localhost:{}?tls=none", none.port));
    assert!(tested(&place, "mail", 0).contains("it was taken"));
    assert_eq!((none.mails().len(), &none.mails()[0]["encrypted"]), (1, &false.into()));
}
