//! The journal in a rehearsal: its newest instant is rebuilt and held against the live databases, whoever writes to them; what is
//! wrong is told, and the journal begins anew.

use attendance_backup::journal::Level;
use attendance_backup::journal::folder::folder;
use attendance_backup::journal::timeline::{Timeline, right};
use serde_json::{Value, json};

use crate::client::{Server, superuser};
use crate::harness::{Place, Writer, eventually, kill, python3, thoroughness};
use crate::journal_live::{index, live, place, rebuilt, ticked, timeline};
use crate::journal_states::falsify_changes;
use crate::replica_scene::Clock;
use crate::visitor::{Visitor, between, words};

/// What a rehearsal says, with its exit code.
fn drill(place: &Place) -> (i32, Value) {
    let run = place.run(&["drill", "--json"]);
    (run.code, serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}{}", run.stdout, run.stderr)))
}

/// What comes of one beside whoever writes the journal: on a machine that had no time for a tick nobody seems to, once or twice.
fn beside_serve<T>(tried: impl FnMut() -> Option<T>) -> T {
    std::iter::repeat_with(tried).take(5).flatten().next().expect("somebody writes the journal")
}

/// One that goes well beside whoever writes the journal.
fn goes_well(place: &Place) -> Value {
    beside_serve(|| {
        let (code, drilled) = drill(place);
        let journal = &drilled["journal"];
        assert_eq!((code, &drilled["ok"], &journal["ok"]), (0, &json!(true), &json!(true)), "{drilled}");
        (journal["written"] == true).then(|| drilled.clone())
    })
}

fn pages(place: &Place, name: &str) -> u64 {
    place.sql(name, "PRAGMA page_count").trim().parse().unwrap()
}

fn stop(mut server: Server) {
    kill(&mut server.child);
}

#[test]
fn the_journal_is_what_the_databases_are() {
    let place = place("200ms");
    place.create();
    let server = Server::start(&place);
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    ticked(&place);
    let drilled = goes_well(&place);
    let journal = &drilled["journal"];
    for name in ["attendance", "auth"] {
        assert_eq!(journal["databases"][name], json!({ "ok": true, "compared": pages(&place, name) }), "{drilled}");
        assert_eq!(right(&place.backups(), &name.parse().unwrap()), journal["at"].as_str().unwrap().parse().ok());
    }
    let audit = place.audit();
    let outcome = audit.last().unwrap();
    assert_eq!((&outcome["operation"], &outcome["ok"]), (&json!("drill"), &json!(true)));
    assert_eq!(outcome["details"]["journal"], *journal);
    assert_eq!(place.json(&["status"])["lastDrill"]["journal"], true);
    let told = beside_serve(|| Some(place.ok(&["drill"]).stdout).filter(|told| !told.contains("nobody writes it now")));
    assert!(
        told.contains("rebuilt, checked, and as the databases are") && told.contains("pages are the same"),
        "{told}"
    );
    let answer = beside_serve(|| {
        let answer = server.request("POST", "/api/backup/drill").token(&superuser()).send().ok();
        assert_eq!(answer["journal"]["ok"], true, "{answer}");
        (answer["journal"]["written"] == true).then_some(answer)
    });
    assert_eq!(answer["journal"]["databases"]["auth"]["compared"], pages(&place, "auth"));
    assert!(!place.backups().join("restoring").exists());
    assert_eq!(index(&place, "attendance").level(Level::SNAPSHOT).len(), 1, "nothing begins anew");
    stop(server);
    let (code, drilled) = drill(&place);
    assert_eq!((code, &drilled["journal"]["ok"], &drilled["journal"]["written"]), (0, &json!(true), &json!(false)));
    assert_eq!(drilled["journal"]["databases"]["auth"], json!({ "ok": true }), "{drilled}");
    let told = place.ok(&["drill"]).stdout;
    assert!(told.contains("nobody writes it now") && told.contains("auth: not compared"), "{told}");
    place.assert_whole();
}

/// What is written in the very moment is left out, and all the rest compared.
#[test]
fn an_app_that_writes_all_the_time_is_no_reason_for_doubt() {
    let place = place("200ms");
    place.create();
    place.fill(2);
    place.sql("auth", "PRAGMA journal_mode=DELETE");
    let server = Server::start(&place);
    let writer = place.writer(0.002);
    ticked(&place);
    let mut least = u64::MAX;
    for _ in 0..4 {
        let drilled = goes_well(&place);
        let found = &drilled["journal"]["databases"];
        least = least.min(found["attendance"]["compared"].as_u64().unwrap_or_else(|| panic!("{drilled}")));
        // Its writers would have to wait for the reader.
        assert_eq!(found["auth"], json!({ "ok": true }));
    }
    writer.stop();
    let all = pages(&place, "attendance");
    assert!(least > all / 2, "{least} of {all} pages");
    stop(server);
}

/// Grows, shrinks, vacuums and checkpoints, now without a pause and now with one.
const UNRULY: &str = "import os, random, sqlite3, sys, threading, time\n\
    c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0.2)\n\
    random.seed(7)\n\
    c.execute('PRAGMA wal_autocheckpoint=20')\n\
    c.execute('CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)')\n\
    steps = ['INSERT INTO rows (text) SELECT hex(randomblob(900)) FROM rows LIMIT 40', 'INSERT INTO rows (text) VALUES (hex(randomblob(2000)))',\n\
             'UPDATE rows SET text = hex(randomblob(500)) WHERE id % 17 = abs(random()) % 17', 'UPDATE rows SET text = text || 1 WHERE id = 1',\n\
             'DELETE FROM rows WHERE id % 3 = abs(random()) % 3', 'VACUUM', 'PRAGMA wal_checkpoint(TRUNCATE)', 'PRAGMA wal_checkpoint(RESTART)']\n\
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()\n\
    print('ready', flush=True)\n\
    while True:\n\
    \x20   try: c.execute(random.choices(steps, [4, 8, 8, 20, 1, 0.3, 1, 1])[0]).fetchall()\n\
    \x20   except sqlite3.OperationalError as error:\n\
    \x20       if 'locked' not in str(error): raise\n\
    \x20   time.sleep(random.choice([0, 0, 0, 0.01, 0.3]))\n";

#[test]
fn whatever_the_app_does_it_is_accused_of_nothing() {
    let place = place("100ms");
    place.create();
    let server = Server::start(&place);
    let _app = Writer::spawn(python3().arg("-c").arg(UNRULY).arg(place.live("attendance")));
    ticked(&place);
    let (mut compared, drills) = (0, 10 * thoroughness());
    for _ in 0..drills {
        let drilled = goes_well(&place);
        compared += usize::from(drilled["journal"]["databases"]["attendance"]["compared"].as_u64() > Some(0));
    }
    assert!(compared > drills / 2, "{compared} of {drills}");
    assert!(!place.audit().iter().any(|line| line["code"] == "journal-wrong"));
    stop(server);
}

#[test]
fn a_journal_that_is_wrong_fails_it_and_begins_anew() {
    let place = place("200ms");
    place.create();
    let server = Server::start(&place);
    let before = ticked(&place);
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    let written = ticked(&place);
    let journal = folder(&place.backups(), &"attendance".parse().unwrap());
    falsify_changes(&place);
    // Nothing in the files says so.
    std::fs::remove_file(journal.join("states")).unwrap();
    assert!(rebuilt(&place, "attendance", written) != live(&place, "attendance"));
    let (code, drilled) =
        beside_serve(|| Some(drill(&place)).filter(|(_, drilled)| drilled["journal"]["written"] == true));
    assert_eq!((code, &drilled["ok"], &drilled["journal"]["ok"]), (1, &json!(false), &json!(false)), "{drilled}");
    assert!(drilled["backups"][0]["ok"] == true && drilled["journal"]["databases"]["auth"]["ok"] == true, "{drilled}");
    let reason = drilled["journal"]["databases"]["attendance"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("1 pages differ from the database, page "), "{reason}");
    let of = |operation: &str| place.audit().into_iter().rfind(|line| line["operation"] == operation).unwrap();
    let wrong = place.audit().into_iter().find(|line| line["code"] == "journal-wrong").unwrap();
    assert!(wrong["reason"].as_str().unwrap().contains("`attendance` is wrong: 1 pages differ"), "{wrong}");
    let outcome = of("drill");
    assert_eq!((&outcome["code"], &outcome["ok"]), (&json!("drill-failed"), &json!(false)));
    assert!(outcome["reason"].as_str().unwrap().starts_with("the journal: attendance: 1 pages differ"), "{outcome}");
    let status = place.json(&["status"]);
    assert_eq!((&status["lastDrill"]["ok"], &status["lastDrill"]["journal"]), (&json!(false), &json!(false)));
    assert!(status["warnings"].to_string().contains("the journal begins anew"), "{status}");
    let bases = |name| index(&place, name).level(Level::SNAPSHOT).len();
    eventually("new bases", || {
        // At no time is it offered from here on.
        let Timeline { gaps, wrong_since, .. } = timeline(&place);
        assert!(wrong_since.is_some_and(|since| since < written) || gaps.iter().any(|gap| gap.holds(written)));
        (bases("attendance") == 2 && bases("auth") == 2).then_some(())
    });
    eventually("that it is seen to", || (!place.backups().join("journal/wrong").exists()).then_some(()));
    // A machine that had no time for some ticks has others.
    let wrong = || timeline(&place).gaps.into_iter().filter(|gap| gap.wrong).collect::<Vec<_>>();
    let gaps = wrong();
    let [gap] = &gaps[..] else { panic!("{gaps:?}") };
    assert!(gap.from <= before && gap.to > written && gap.holds(written), "{gap:?}");
    let at = written.to_rfc3339();
    place.run(&["restore", "--at", &at, "--confirm", &at]).refused(1, &["what was recorded after", "was found wrong"]);
    let now = ticked(&place);
    assert_eq!(rebuilt(&place, "attendance", now), live(&place, "attendance"));
    let (code, drilled) = drill(&place);
    assert_eq!((code, &drilled["journal"]["ok"]), (0, &json!(true)), "{drilled}");
    // What is found later goes back no farther than to here.
    let good = right(&place.backups(), &"attendance".parse().unwrap()).unwrap();
    assert!(good >= gap.to);
    assert_eq!((bases("attendance"), wrong().len()), (2, 1));
    stop(server);
}

/// Whoever makes snapshots finds that what leads to the newest state isn't right.
#[test]
fn where_no_snapshot_can_be_made_of_the_newest_state_it_begins_anew() {
    let mut place = place("200ms");
    place.set("BACKUP_PITR_SNAPSHOT_EVERY", "1m").create();
    let mut command = place.command(&["serve"]);
    let clock = Clock::of(&place, command.env("BACKUP_ENABLED", "false"));
    let server = Server::of(&mut command, place.path("serve.log"));
    ticked(&place);
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    let written = ticked(&place);
    falsify_changes(&place);
    clock.put_on(120);
    // It leaves that page as it was.
    place.sql("attendance", "CREATE TABLE others (name TEXT)");
    let bases = |name| index(&place, name).level(Level::SNAPSHOT).len();
    eventually("new bases", || (bases("attendance") == 2 && bases("auth") == 2).then_some(()));
    eventually("that it is seen to", || (!place.backups().join("journal/wrong").exists()).then_some(()));
    let wrong = place.audit().into_iter().find(|line| line["code"] == "journal-wrong").unwrap();
    let reason = wrong["reason"].as_str().unwrap();
    assert!(reason.starts_with("the journal's files in "), "not by a check, which comes in a minute: {wrong}");
    assert!(
        reason.contains("don't come to what the database was") && reason.ends_with("a new base follows"),
        "{wrong}"
    );
    assert!(timeline(&place).gaps.iter().any(|gap| gap.holds(written)), "{:?}", timeline(&place).gaps);
    let alive = timeline(&place).alive.unwrap();
    assert_eq!(rebuilt(&place, "attendance", alive), live(&place, "attendance"));
    stop(server);
}

#[test]
fn the_page_tells_of_it() {
    let place = place("200ms");
    place.create();
    let server = Server::start(&place);
    ticked(&place);
    let browser = Visitor::superuser(&server);
    beside_serve(|| {
        let answer = browser.post("/settings/backups/drill", &[]);
        assert_eq!(answer.status, 303, "{}", answer.text());
        let errand = answer.header("location").unwrap().split('#').next().unwrap().to_owned();
        let said = eventually("the outcome", || {
            let page = browser.get(&errand).text();
            ["The journal is what the databases are (", "written now"].into_iter().find(|said| page.contains(said))
        });
        (said != "written now").then_some(())
    });
    let page = browser.get("/settings/backups/activity").text();
    let told = words(between(&page, "id=\"last-rehearsal\"", "</section>"));
    assert!(told.contains("Went well") && told.contains("Journal Right"), "{told}");
    stop(server);
}

/// Found while nobody writes the journal, it is seen to at the next start.
#[test]
fn what_leads_to_the_newest_instant_is_damaged() {
    let place = place("200ms");
    place.create();
    let server = Server::start(&place);
    let first = ticked(&place);
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    let written = ticked(&place);
    stop(server);
    falsify_changes(&place);
    let (code, drilled) = drill(&place);
    assert_eq!((code, &drilled["journal"]["ok"], &drilled["journal"]["written"]), (1, &json!(false), &json!(false)));
    let reason = drilled["journal"]["reason"].as_str().unwrap_or_else(|| panic!("{drilled}"));
    assert!(reason.contains("don't come to what the database was (state 0000000000000002)"), "{reason}");
    assert!(place.audit().iter().any(|line| line["code"] == "journal-wrong"));
    let told = place.run(&["drill"]);
    assert!(
        told.code == 1 && told.stdout.contains("the journal at ") && told.stdout.contains("FAILED"),
        "{}",
        told.stdout
    );
    let server = Server::start(&place);
    ticked(&place);
    eventually("that it is seen to", || (!place.backups().join("journal/wrong").exists()).then_some(()));
    let gaps = timeline(&place).gaps;
    assert!(gaps.iter().any(|gap| gap.wrong && gap.holds(written) && first < gap.to), "{gaps:?}");
    assert_eq!(drill(&place).0, 0);
    stop(server);
}
