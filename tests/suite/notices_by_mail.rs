//! Each event, brought about for real, as it arrives in a mailbox: whether somebody who is tired would know what happened and what
//! to do. The clock is the machine's, moved by the test where only time brings an event about.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use attendance_backup::backup::notices::Event;
use attendance_backup::clock::Clock;
use attendance_backup::config::Config;
use attendance_backup::engine::{Actor, Call, Create, Engine};
use attendance_backup::journal::folder::folder;
use attendance_backup::notify::{Kind, LIMIT};
use serde_json::{Value, json};

use crate::client::Server;
use crate::disk_full::SmallDisk;
use crate::harness::{Place, eventually, kill, tree};
use crate::inject::Spot;
use crate::journal_live::{index, ticked};
use crate::receivers::Sink;
use crate::suspicion;
use crate::visitor::words;

const PAGE: &str = "https://school.example/backups/settings/backups";

/// A place whose notices go to a mailbox, and an engine that tells them there.
struct Post {
    place: Place,
    sink: Sink,
    engine: Engine,
    minutes: Arc<AtomicI64>,
    /// Mails that were looked at.
    read: usize,
    told: BTreeSet<Event>,
}

/// What has to be in a mail, besides what each has.
struct Wanted {
    event: Event,
    subject: &'static str,
    /// Of what was found.
    found: &'static [&'static str],
    /// Of what to do.
    todo: &'static [&'static str],
}

impl Post {
    fn of(mut place: Place) -> Self {
        let sink = Sink::start(&place, "none");
        place.set("BACKUP_SMTP_URL", &format!("smtp://localhost:{}?tls=none", sink.port));
        place.set("BACKUP_EMAIL_FROM", "Backups <backup@school.example>").set("BACKUP_EMAIL_TO", "it@school.example");
        place.set("BACKUP_NOTIFY_PRIVATE", "true").set("BACKUP_PUBLIC_URL", "https://school.example/backups");
        let minutes = Arc::new(AtomicI64::new(0));
        let (system, moved) = (Clock::system(), Arc::clone(&minutes));
        let clock = Clock::from_fn(move || system.now() + chrono::TimeDelta::minutes(moved.load(Ordering::Relaxed)));
        let config = Config::load(&place.environment().into_iter().collect()).unwrap();
        let engine = Engine::new(Arc::new(config), clock).unwrap();
        Self { place, sink, engine, minutes, read: 0, told: BTreeSet::new() }
    }

    /// So long after the machine's time.
    fn at(&mut self, minutes: i64) -> &mut Self {
        self.minutes.store(minutes, Ordering::Relaxed);
        self
    }

    /// Looks and sends, as `serve` does.
    fn look(&self) {
        self.engine.look_for_notices();
        while let Some(message) = self.engine.next_notice(Kind::Mail) {
            let sending = self.engine.send_notice(Kind::Mail, &message).unwrap();
            assert_eq!(sending.wait(LIMIT, &|| false), Some(Ok(())), "{}", message.notice.subject);
        }
    }

    /// The mails that a look brings.
    fn come(&mut self) -> Vec<Value> {
        self.look();
        let mails = self.sink.mails().split_off(self.read);
        self.read += mails.len();
        mails
    }

    /// A look brings a mail of each.
    fn tells(&mut self, all: &[Wanted]) {
        let mails = self.come();
        for wanted in all {
            let subject = format!("attendance-backup: {}", wanted.subject);
            let subjects: Vec<_> = mails.iter().map(|mail| mail["headers"]["subject"].as_str().unwrap()).collect();
            let is_it = |mail: &&Value| mail["headers"]["subject"].as_str().unwrap().starts_with(&subject);
            let mail = mails.iter().find(is_it).unwrap_or_else(|| panic!("{subject} is not among {subjects:?}"));
            self.assert_clear(mail, wanted);
            self.told.insert(wanted.event);
        }
    }

    fn assert_clear(&self, mail: &Value, wanted: &Wanted) {
        let text = mail["plain"].as_str().unwrap().replace("\r\n", "\n");
        if std::env::var_os("SHOW").is_some() {
            println!("Subject: {}\n\n{text}\n----", mail["headers"]["subject"].as_str().unwrap());
        }
        assert_eq!(mail["parts"], json!([["text/plain", "utf-8"], ["text/html", "utf-8"]]), "{mail}");
        let (found, todo) = (under(&text, "What was found"), under(&text, "What to do now"));
        for word in wanted.found {
            assert!(found.iter().any(|line| line.contains(word)), "{word:?} was not found: {text}");
        }
        for word in wanted.todo {
            assert!(todo.iter().any(|line| line.contains(word)), "{word:?} is not to be done: {text}");
        }
        assert!(!under(&text, "What you can rely on").is_empty(), "{text}");
        assert!(
            text.lines().next().unwrap().ends_with('.') && text.contains(&format!("\nThe page: {PAGE}\n")),
            "{text}"
        );
        assert!(text.contains(&format!("for the backups in {}", self.place.backups().display())), "{text}");
        todo.iter().for_each(|line| self.assert_typeable(line));
        // The same as HTML, word for word.
        let (html, raw) = (words(mail["html"].as_str().unwrap()), mail["html"].as_str().unwrap());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with("The page: ")) {
            let said = line.split_once(' ').filter(|(mark, _)| *mark == "-" || mark.ends_with('.') && mark.len() == 2);
            let said = words(&said.map_or(line, |(_, said)| said).replace('<', "&lt;").replace('>', "&gt;"));
            assert!(html.contains(&said), "{said:?} is not in {html}");
        }
        assert!(raw.contains(&format!("href=\"{PAGE}\"")), "{raw}");
    }

    /// Each command that is named there is one, with the options that it names.
    fn assert_typeable(&self, line: &str) {
        for named in line.split("attendance-backup ").skip(1) {
            let is_end = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
            let command = named.split(is_end).next().unwrap();
            let help = self.place.ok(&[command, "--help"]).stdout;
            let options = named.split(is_end).filter(|word| word.starts_with("--"));
            options.for_each(|option| assert!(help.contains(option), "{command} has no {option}: {line}"));
        }
    }

    fn id(&self) -> String {
        self.place.create()["id"].as_str().unwrap().to_owned()
    }
}

/// The lines below a title of a mail.
fn under<'t>(text: &'t str, title: &str) -> Vec<&'t str> {
    let below = text.split_once(&format!("\n{title}\n")).map_or("", |(_, below)| below);
    below.lines().take_while(|line| !line.is_empty()).collect()
}

/// Writes over the middle of a file.
fn spoil(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].copy_from_slice(b"not what it was!");
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn each_event_arrives_as_a_mail_that_says_what_to_do() {
    let mut place = suspicion::filled();
    std::fs::create_dir(place.path("nas")).unwrap();
    place.set("BACKUP_REPLICA_NAS_URL", &format!("fs://{}", place.path("nas").display())).set("BACKUP_PITR", "true");
    let mut post = Post::of(place);
    post.look();
    clock(&mut post);
    done_by_people(&mut post);
    suspicious_data(&mut post);
    damage(&mut post);
    failures(&mut post);
    elsewhere(&mut post);
    journal(&mut post);
    cut_short(&mut post);
    let mut all: BTreeSet<_> = Event::ALL.iter().copied().collect();
    // A disk of its own is needed for that.
    all.remove(&Event::StorageLow);
    assert_eq!(post.told, all);
}

/// A backup of an hour that is still to come.
fn clock(post: &mut Post) {
    let create = Create { tier: "manual".parse().unwrap(), reason: None, accept_shrink: false };
    post.at(60).engine.create(&create, &Call::new(Actor::cli())).unwrap();
    post.at(0).tells(&[Wanted {
        event: Event::ClockWrong,
        subject: "the clock of the server is wrong",
        found: &["lies in the future; was the clock wrong, or is it now?"],
        todo: &["Set the clock of the server", "attendance-backup create"],
    }]);
}

/// One that tells nobody anything, and takes no backups.
fn serve(place: &Place, pitr: &str) -> Server {
    let bare = ["BACKUP_SMTP_URL", "BACKUP_EMAIL_FROM", "BACKUP_EMAIL_TO", "BACKUP_NOTIFY_PRIVATE"];
    let mut serve = place.command(&["serve"]);
    for name in bare {
        serve.env_remove(name);
    }
    serve.env_remove("BACKUP_REPLICA_NAS_URL").env("BACKUP_PITR", pitr).env("BACKUP_ENABLED", "false");
    Server::of(&mut serve, place.path("serve.log"))
}

/// A file of it goes bad while nobody looks.
fn journal(post: &mut Post) {
    let mut server = serve(&post.place, "true");
    ticked(&post.place);
    kill(&mut server.child);
    let newest = index(&post.place, "attendance").files().map(|file| file.name).max_by_key(|name| name.max).unwrap();
    spoil(&newest.path(&folder(&post.place.backups(), &"attendance".parse().unwrap())));
    let server = serve(&post.place, "true");
    eventually("it is found out", || post.place.audit().into_iter().find(|line| line["code"] == "journal-wrong"));
    server.stop();
    post.tells(&[Wanted {
        event: Event::JournalWrong,
        subject: "the journal was wrong",
        found: &["is damaged", "a new base follows"],
        todo: &["Nothing for now", "attendance-backup status"],
    }]);
}

fn done_by_people(post: &mut Post) {
    let server = serve(&post.place, "false");
    for _ in 0..12 {
        server.request("GET", "/api/backup/list").token("no token at all").send();
    }
    server.stop();
    post.place.ok(&["notify", "test"]);
    post.place.ok(&["config", "--set", "retention.daily=9"]);
    let id = post.id();
    post.place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    post.place.ok(&["restore", &id, "--confirm", &id]);
    post.tells(&[
        Wanted {
            event: Event::SignInRefused,
            subject: "somebody tries to sign in",
            found: &["sign-ins were refused within ", "The last one came from 127.0.0.1."],
            todo: &["the page's activity", "give them a new one"],
        },
        Wanted {
            event: Event::Test,
            subject: "this is a test",
            found: &["It was sent from the command line (uid "],
            todo: &["Nothing."],
        },
        Wanted {
            event: Event::SettingsChanged,
            subject: "the settings were changed",
            found: &["From the command line (uid ", "Saved now: retention.daily=9."],
            todo: &["If you know of it: nothing.", "attendance-backup config --reset"],
        },
        Wanted {
            event: Event::RestoreDone,
            subject: "the data was put back to manual-",
            found: &["From the command line (uid "],
            todo: &["If you know of it: nothing.", "attendance-backup undo", "(pre-restore-"],
        },
    ]);
}

fn suspicious_data(post: &mut Post) {
    post.place.sql("attendance", "DELETE FROM marks; VACUUM");
    post.id();
    post.tells(&[Wanted {
        event: Event::RotationFrozen,
        subject: "old backups are not dropped any more",
        found: &["attendance"],
        todo: &[
            "is all of its data there?",
            "attendance-backup create --accept-shrink",
            "attendance-backup restore ID",
        ],
    }]);
    post.place.ok(&["create", "--accept-shrink"]);
}

fn damage(post: &mut Post) {
    let backup = post.place.create();
    spoil(&post.place.copy(&backup, "auth"));
    assert_eq!(post.place.run(&["verify", backup["id"].as_str().unwrap()]).code, 1);
    let mut drill = post.place.command(&["drill"]);
    drill.env("BACKUP_DRILL_SQL_ATTENDANCE", "SELECT count(*) > 1000 FROM people");
    assert_eq!(drill.output().unwrap().status.code(), Some(1));
    post.tells(&[
        Wanted {
            event: Event::VerificationFailed,
            subject: "a backup is damaged or gone",
            found: &["was read back damaged"],
            todo: &["attendance-backup create", "attendance-backup verify --all", "Look at the disk"],
        },
        Wanted {
            event: Event::DrillFailed,
            subject: "a rehearsal of a restore failed",
            found: &["attendance"],
            todo: &["attendance-backup create", "attendance-backup drill"],
        },
    ]);
}

/// Live data that can be neither restored over nor backed up; and then it is right again.
fn failures(post: &mut Post) {
    let id = post.id();
    let (live, whole) = (post.place.live("auth"), std::fs::read(post.place.live("auth")).unwrap());
    std::fs::write(&live, b"Dear diary,\n".repeat(700)).unwrap();
    assert_eq!(post.place.run(&["restore", &id, "--confirm", &id]).code, 1);
    post.tells(&[
        Wanted {
            event: Event::RestoreFailed,
            subject: "the restore of manual-",
            found: &["auth", "From the command line"],
            todo: &["Do what the reason says", "attendance-backup list", "attendance-backup status"],
        },
        Wanted {
            event: Event::LiveUnusable,
            subject: "the live data can't be backed up",
            found: &["auth"],
            todo: &["Look at the app", "attendance-backup restore ID", "attendance-backup create"],
        },
    ]);
    assert_eq!(post.place.run(&["create"]).code, 1);
    post.tells(&[Wanted {
        event: Event::BackupFailed,
        subject: "the last backup failed",
        found: &["auth"],
        todo: &[
            "Do what is said above",
            "attendance-backup create",
            "attendance-backup doctor",
            "attendance-backup restore ID",
        ],
    }]);
    std::fs::write(&live, whole).unwrap();
    post.id();
    post.look();
    post.at(16).come();
    let over = post.sink.mails();
    for subject in ["a backup went well again", "the live data can be backed up again"] {
        let is_it = |mail: &&Value| mail["headers"]["subject"] == format!("attendance-backup: {subject}");
        let text = over.iter().find(is_it).unwrap()["plain"].as_str().unwrap();
        assert!(text.contains("It is over: ") && text.contains("There is nothing to do."), "{text}");
        assert!(!text.contains("What to do now"), "{text}");
    }
    // Nobody has written the journal all the while.
    let is_it = |mail: &&Value| mail["headers"]["subject"] == "attendance-backup: the journal is not written";
    let wanted = Wanted {
        event: Event::JournalBehind,
        subject: "the journal is not written",
        found: &["The journal was never written: is `serve` running?"],
        todo: &["Look whether `serve` runs", "attendance-backup status"],
    };
    post.assert_clear(over.iter().find(is_it).unwrap(), &wanted);
    post.told.insert(wanted.event);
}

fn elsewhere(post: &mut Post) {
    post.place.ok(&["replica", "push", "nas"]);
    let nas = post.place.path("nas");
    let is_object = |(name, _, is_dir): &(String, u32, bool)| !is_dir && name.contains("auth");
    let object: PathBuf = nas.join(tree(&nas).into_iter().find(is_object).unwrap().0);
    spoil(&object);
    assert_eq!(post.place.run(&["replica", "verify", "nas"]).code, 1);
    post.tells(&[Wanted {
        event: Event::ReplicaDamaged,
        subject: "a copy elsewhere is damaged",
        found: &["Replica nas: "],
        todo: &["attendance-backup replica verify NAME", "attendance-backup replica push NAME", "Look at that place"],
    }]);
    std::fs::rename(&nas, post.place.path("unplugged")).unwrap();
    post.id();
    assert_eq!(post.place.run(&["replica", "push", "nas"]).code, 1);
    post.look();
    post.at(16 + 61).tells(&[Wanted {
        event: Event::ReplicaBehind,
        subject: "a copy elsewhere is behind",
        found: &["The replica `nas`: the folder ", "it lacks "],
        todo: &["Look whether that place is there", "attendance-backup replica push NAME"],
    }]);
}

/// A restore, the audit log and the catalog; and nobody looks after any of it for a day.
fn cut_short(post: &mut Post) {
    let id = post.id();
    post.place.sql("attendance", "INSERT INTO people (name) VALUES ('Emil')");
    let spot = Spot::on("pwrite64", "../attendance.db-wal");
    assert!(post.place.killed(&spot, 1, &["restore", &id, "--confirm", &id]));
    let log = post.place.backups().join("audit.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let half: Vec<_> = text.split_inclusive('\n').take(text.lines().count() / 2).collect();
    std::fs::write(&log, half.concat()).unwrap();
    post.tells(&[Wanted {
        event: Event::AuditBroken,
        subject: "the audit log is not whole",
        found: &["its end was cut off, or it was removed"],
        todo: &["Find out who has changed audit.jsonl", "attendance-backup audit verify"],
    }]);
    post.at(16 + 61 + 6).tells(&[Wanted {
        event: Event::RestoreUnfinished,
        subject: "a restore was cut short",
        found: &["or the start of `serve`, brings it to its end"],
        todo: &["Start `serve`, or run: attendance-backup create", "attendance-backup undo"],
    }]);
    post.at(28 * 60).look();
    post.at(29 * 60).tells(&[Wanted {
        event: Event::Stale,
        subject: "no new backup for 2",
        found: &["hours old; look at the log of `serve`"],
        todo: &["attendance-backup create", "attendance-backup doctor"],
    }]);
    let still = "attendance-backup: still: a backup is damaged or gone";
    let reminder = post.sink.mails().into_iter().find(|mail| mail["headers"]["subject"] == still).unwrap();
    assert!(reminder["plain"].as_str().unwrap().contains("This still stands, since "), "{reminder}");
    std::fs::write(post.place.backups().join("metadata.json"), "{").unwrap();
    post.look();
    post.at(29 * 60 + 2).tells(&[Wanted {
        event: Event::Unreadable,
        subject: "the backup directory can't be read",
        found: &["catalog rebuild"],
        todo: &["volume of the backups is mounted", "Do what is said above", "attendance-backup status"],
    }]);
}

#[test]
fn little_room_arrives_as_a_mail_too() {
    let test = "notices_by_mail::little_room_arrives_as_a_mail_too";
    let Some(disk) = SmallDisk::of(test, "size=4m,mode=0700") else { return };
    disk.fill();
    let mut post = Post::of(disk.place);
    post.look();
    post.at(16).tells(&[Wanted {
        event: Event::StorageLow,
        subject: "the backup disk is nearly full",
        found: &["are free and a backup takes "],
        todo: &[
            "Make room on that disk",
            "attendance-backup config --set retention.daily=5 --dry-run",
            "attendance-backup delete ID",
        ],
    }]);
}
