//! Tells people what they would otherwise have to look for: a thread that looks, one for each channel that sends, and the ping of the
//! dead man's switch. None is in any backup's way: what hangs, hangs alone, and what fails is tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{Engine, Look};
use crate::notify::{Kind, Unsent, Wait};
use crate::sqlite::Control;

/// Between two looks at whether anything was done.
const TICK: Duration = Duration::from_millis(500);
/// Between two looks where nothing was: much comes about by nothing but time.
const LOOK: Duration = Duration::from_secs(60);
/// Between two looks in any case: each costs a look at all files.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two pings.
const PING: Duration = Duration::from_secs(300);

/// Runs until cancelled.
pub fn run(engine: &Engine, control: &Control) {
    let kinds = engine.notice_channels();
    if kinds.is_empty() {
        return;
    }
    std::thread::scope(|scope| {
        for kind in kinds.into_iter().filter(|kind| *kind != Kind::Ping) {
            scope.spawn(move || send(engine, kind, control));
        }
        look(engine, control);
    });
}

/// Looks again and again; and pings, right after a look that found everything in time.
fn look(engine: &Engine, control: &Control) {
    let mut pings = Pings { can: engine.notice_channels().contains(&Kind::Ping), ..Pings::default() };
    let (mut looked, mut seen): (Option<Instant>, _) = (None, None);
    while !control.is_cancelled() {
        let stamp = engine.last_done();
        let pause = if seen == Some(stamp) { LOOK } else { PAUSE };
        if looked.is_none_or(|at| at.elapsed() >= pause) {
            let found = engine.look_for_notices();
            (looked, seen) = (Some(Instant::now()), Some(stamp));
            pings.after(&found, engine, control);
        }
        std::thread::sleep(TICK);
    }
}

/// When the dead man's switch was told last, and of which backup.
#[derive(Default)]
struct Pings {
    can: bool,
    sent: Option<Instant>,
    told: Option<Look>,
    busy: Arc<()>,
    wrong: Option<String>,
}

impl Pings {
    fn after(&mut self, look: &Look, engine: &Engine, control: &Control) {
        let is_new = self.told.as_ref() != Some(look);
        let is_due = is_new || self.sent.is_none_or(|at| at.elapsed() + LOOK / 2 >= PING);
        let is_free = Arc::strong_count(&self.busy) == 1;
        if !self.can || !look.in_time || !is_due || !is_free || !engine.may_ping() {
            return;
        }
        let sent = engine.ping(Wait { cancelled: &|| control.is_cancelled(), busy: Arc::clone(&self.busy) });
        if sent.is_ok() {
            (self.sent, self.told) = (Some(Instant::now()), Some(look.clone()));
        }
        tell(Kind::Ping, &sent, &mut self.wrong);
    }
}

/// Sends what waits for a channel, one after the other.
fn send(engine: &Engine, kind: Kind, control: &Control) {
    let (busy, mut wrong) = (Arc::new(()), None);
    while !control.is_cancelled() {
        // One that hangs is waited for: two would make it no better.
        let next = if Arc::strong_count(&busy) == 1 { engine.next_notice(kind) } else { None };
        match next {
            Some(message) => {
                let wait = Wait { cancelled: &|| control.is_cancelled(), busy: Arc::clone(&busy) };
                tell(kind, &engine.send_notice(kind, &message, wait), &mut wrong);
            }
            None => std::thread::sleep(TICK),
        }
    }
}

/// A standing trouble is said once.
fn tell(kind: Kind, sent: &Result<(), Unsent>, wrong: &mut Option<String>) {
    match sent {
        Ok(()) if wrong.take().is_some() => tracing::info!(%kind, "notices go again"),
        Ok(()) => tracing::debug!(%kind, "a notice went"),
        Err(unsent) => {
            let text = unsent.failure.to_string();
            if wrong.as_ref() != Some(&text) {
                tracing::warn!(code = unsent.failure.code, %kind, "a notice could not be sent: {text}");
                *wrong = Some(text);
            }
        }
    }
}
