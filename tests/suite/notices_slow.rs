//! A mail server that says nothing or hardly anything, and a service that is killed while it sends: no backup waits for that, and
//! no notice is lost or sent again and again.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;

use crate::client::Server;
use crate::harness::{Place, eventually};

/// Between two bytes.
const PACE: Duration = Duration::from_millis(20);

/// How it answers.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    /// It takes the connection, and never says a word.
    Silent,
    /// A byte of its first word now and then, and never the last one.
    Endless,
    /// All it should, byte by byte.
    Slow,
    /// It takes the mail, and never says so.
    Speechless,
}

/// A mail server as far as it is needed to be a bad one.
struct Sluggish {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    mood: Mood,
    connections: usize,
    /// Of a first word without an end.
    bytes: usize,
    /// Mails that it has.
    taken: Vec<String>,
}

impl Sluggish {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State { mood: Mood::Silent, connections: 0, bytes: 0, taken: Vec::new() };
        let sluggish = Self { address: listener.local_addr().unwrap(), state: Arc::new(Mutex::new(state)) };
        let state = Arc::clone(&sluggish.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&state);
                state.lock().unwrap().connections += 1;
                // Whoever is killed says no goodbye.
                std::thread::spawn(move || drop(talk(&stream, &state)));
            }
        });
        sluggish
    }

    fn is(&self, mood: Mood) {
        let mut state = self.state();
        (state.mood, state.connections) = (mood, 0);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn taken(&self) -> Vec<String> {
        self.state().taken.clone()
    }
}

fn talk(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mood = state.lock().unwrap().mood;
    let mut lines = BufReader::new(stream).lines();
    let say = |words: &str| {
        for byte in format!("{words}\r\n").bytes() {
            std::thread::sleep(PACE);
            (&mut &*stream).write_all(&[byte])?;
        }
        Ok::<_, std::io::Error>(())
    };
    match mood {
        // Until the other end goes.
        Mood::Silent => return lines.next().transpose().map(drop),
        Mood::Endless => loop {
            (&mut &*stream).write_all(b"2")?;
            state.lock().unwrap().bytes += 1;
            std::thread::sleep(PACE);
        },
        Mood::Slow | Mood::Speechless => {}
    }
    say("220 x")?;
    while let Some(line) = lines.next().transpose()? {
        if line != "DATA" {
            say("250 x")?;
            continue;
        }
        say("354 x")?;
        let mail: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| line != ".").collect();
        state.lock().unwrap().taken.push(mail.join("\n"));
        if mood == Mood::Speechless {
            return lines.next().transpose().map(drop);
        }
        say("250 x")?;
    }
    Ok(())
}

fn message_id(mail: &str) -> &str {
    mail.lines().find(|line| line.starts_with("Message-ID: ")).unwrap()
}

/// The service is gone from one moment to the next.
fn killed(mut server: Server) {
    server.child.kill().unwrap();
    server.child.wait().unwrap();
}

fn notices(server: &Server) -> Value {
    server.get("/api/backup/status").json()["notices"].clone()
}

#[test]
fn a_service_that_dies_while_it_sends_loses_no_notice_and_repeats_one_at_most_once() {
    let mut place = Place::new();
    let mail = Sluggish::start();
    place.set("BACKUP_SMTP_URL", &format!("smtp://{}?tls=none", mail.address)).set("BACKUP_NOTIFY_PRIVATE", "true");
    place.set("BACKUP_EMAIL_FROM", "backup@school.example").set("BACKUP_EMAIL_TO", "it@school.example");
    place.create();

    // It waits for a first word, and nobody waits for it.
    let server = Server::start(&place);
    place.ok(&["config", "--set", "retention.daily=9"]);
    eventually("it is asked", || (mail.state().connections > 0).then_some(()));
    place.create();
    assert_eq!((&notices(&server)["queued"], mail.state().connections), (&1.into(), 1));
    killed(server);

    // Tried anew at once. Bytes come, so no answer is late, and none ever is one.
    mail.is(Mood::Endless);
    let server = Server::start(&place);
    eventually("it is greeted", || (mail.state().bytes > 3).then_some(()));
    server.post("/api/backup/create").ok();
    assert_eq!((&notices(&server)["queued"], mail.state().connections), (&1.into(), 1));
    killed(server);
    assert!(mail.taken().is_empty());

    // Gone after the server has it and before it has said so: that can't be known, and it is sent once more.
    mail.is(Mood::Speechless);
    let server = Server::start(&place);
    eventually("it is there", || (mail.taken().len() == 1).then_some(()));
    place.create();
    killed(server);
    mail.is(Mood::Slow);
    let server = Server::start(&place);
    eventually("nothing waits", || (notices(&server)["queued"] == 0).then_some(()));
    let taken = mail.taken();
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert_eq!(message_id(&taken[0]), message_id(&taken[1]), "who gets both can't tell");
    let channel = &notices(&server)["channels"][0];
    assert!(channel["lastSuccess"].is_string() && channel["lastError"].is_null(), "{channel}");
    place.ok(&["config", "--set", "retention.daily=10"]);
    eventually("the next one goes", || (mail.taken().len() == 3).then_some(()));
    eventually("nothing waits", || (notices(&server)["queued"] == 0).then_some(()));

    // A server that stays silent is given ten seconds, and shows.
    mail.is(Mood::Silent);
    place.ok(&["config", "--set", "retention.daily=11"]);
    let shown = eventually("it shows", || {
        let shown = notices(&server);
        shown["channels"][0]["lastError"].is_object().then_some(shown)
    });
    let error = &shown["channels"][0]["lastError"];
    assert_eq!((&shown["queued"], &error["code"]), (&1.into(), &"notice-slow".into()), "{shown}");
    assert!(error["detail"].as_str().unwrap().contains("the mail server says nothing for 10 s"), "{error}");
    assert_eq!(mail.state().connections, 1, "it is asked again and again");
    server.stop();
    place.assert_whole();
}
