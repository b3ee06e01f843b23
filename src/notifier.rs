//! Tells people what they would otherwise have to look for: a thread that looks, one for each channel that sends, and the ping of the
//! dead man's switch. None is in any backup's way: what hangs, hangs alone, and what fails is tried again.

use std::time::{Duration, Instant};

use crate::engine::{Engine, Look};
use crate::notify::{Kind, Sending, Unsent};
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
    let _lifeline = control.lifeline();
    let mut pings = Pings { can: engine.notice_channels().contains(&Kind::Ping), ..Pings::default() };
    let (mut looked, mut seen): (Option<Instant>, _) = (None, None);
    while !control.is_cancelled() {
        let stamp = engine.last_done();
        let pause = if seen == Some(stamp) { LOOK } else { PAUSE };
        if looked.is_none_or(|at| at.elapsed() >= pause) {
            let found = engine.look_for_notices();
            (looked, seen) = (Some(Instant::now()), Some(stamp));
            pings.after(&found, engine);
        }
        pings.settle();
        std::thread::sleep(TICK);
    }
}

/// When the dead man's switch was told last, and of which backup.
#[derive(Default)]
struct Pings {
    can: bool,
    sent: Option<Instant>,
    told: Option<Look>,
    /// One on its way, and of what it tells. Nobody waits for it.
    going: Option<(Sending, Look)>,
    wrong: Option<String>,
}

impl Pings {
    fn after(&mut self, look: &Look, engine: &Engine) {
        let is_new = self.told.as_ref() != Some(look);
        let is_due = is_new || self.sent.is_none_or(|at| at.elapsed() + LOOK / 2 >= PING);
        if !self.can || !look.in_time || !is_due || self.going.is_some() || !engine.may_ping() {
            return;
        }
        match engine.ping() {
            Ok(sending) => self.going = Some((sending, look.clone())),
            Err(unsent) => tell(Kind::Ping, &Err(unsent), &mut self.wrong),
        }
    }

    fn settle(&mut self) {
        let Some(sent) = self.going.as_ref().and_then(|(sending, _)| sending.wait(Duration::ZERO, &|| true)) else {
            return;
        };
        let look = self.going.take().map(|(_, look)| look);
        if sent.is_ok() {
            (self.sent, self.told) = (Some(Instant::now()), look);
        }
        tell(Kind::Ping, &sent, &mut self.wrong);
    }
}

/// Sends what waits for a channel, one after the other. One that hangs is waited for: two would make it no better, and what is
/// sent again while it may arrive yet arrives twice.
fn send(engine: &Engine, kind: Kind, control: &Control) {
    let _lifeline = control.lifeline();
    let (cancelled, mut wrong) = (|| control.is_cancelled(), None);
    while !cancelled() {
        let Some(message) = engine.next_notice(kind) else {
            std::thread::sleep(TICK);
            continue;
        };
        let sent = engine.send_notice(kind, &message).map(|sending| {
            loop {
                match sending.wait(engine.notice_limit(kind), &cancelled) {
                    Some(sent) => return Some(sent),
                    // What was given up because the service stops is no failure.
                    None if cancelled() => return None,
                    None => tell(kind, &Err(engine.notice_is_late(kind)), &mut wrong),
                }
            }
        });
        match sent {
            Ok(Some(sent)) => tell(kind, &sent, &mut wrong),
            Ok(None) => return,
            Err(unsent) => tell(kind, &Err(unsent), &mut wrong),
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
