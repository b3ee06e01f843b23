//! Sending the newest seconds. A round:
//!
//! 1. `alive` is read, and then what is the newest state of each database: all up to the first is in the second.
//! 2. Is there anything to send, or is what the replica says of `until` old? Else nothing is asked of it.
//! 3. The newest catalog there is the one that this directory wrote; else nothing is sent, and the next replication says why.
//! 4. Of each database the files that gathered, as one pack or several, each noted here before, and read back to its last byte. What is
//!    damaged here isn't sent (`here`).
//! 5. Until when what 1. saw can be rebuilt from what is there is written beside it (`until`).
//! 6. What was found damaged there is sent again (`mend`).
//!
//! What is wrong with one database, or one object, stops no other.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use super::here::hand_on;
use super::mend::wants_mending;
use super::shipping::{Ready, Shipping};
use super::tend::spans;
use super::until::Seen;
use crate::backup::replica::Object;
use crate::backup::{DatabaseName, Form};
use crate::engine::replica::passing::Summed;
use crate::engine::replica::send::broken;
use crate::engine::replica::site::Link;
use crate::engine::{Engine, Error, locked};
use crate::journal::pack::{Key, Span};
use crate::journal::packs::{Pack, Packs};
use crate::journal::timeline::Timeline;
use crate::journal::{self, Journal, LtxFile, Point, states, tarball};
use crate::sqlite::{self, Control};

/// While nothing changes, what the replica says of `until` is at most this old.
const QUIET: Duration = Duration::from_secs(60);
/// Packs of one database in a round, so that `until` follows also where much is lacking.
const MOST_PACKS: usize = 8;

/// What came of a pack that was to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// It is there, and was read back.
    Whole,
    /// One of its files has gone meanwhile.
    Gone,
    /// One of its files is damaged here, and nothing is there of it.
    Damaged,
}

impl Engine {
    /// One round. Says whether more is to be sent at once.
    pub fn ship_journal(&self, shipping: &Shipping, control: &Control) -> Result<bool, Error> {
        let shipped = self.round(shipping, control);
        self.note_outcome(shipping, shipped.as_ref().err(), |remembered| &mut remembered.last_error);
        shipped
    }

    fn round(&self, shipping: &Shipping, control: &Control) -> Result<bool, Error> {
        let Some(ready) = self.ready(shipping)? else { return Ok(false) };
        // Before the gaps: those that end before it may be forgotten.
        let oldest = ready.journals.values().filter_map(|journal| journal.index().oldest()?.at()).min();
        let Some(oldest) = oldest else { return Ok(false) };
        // What was found wrong waits for the new beginning.
        let root = self.store.root();
        let timeline = Timeline::read(root)?.of(root, ready.journals.keys())?;
        let Timeline { alive: Some(alive), gaps, wrong_since: None } = timeline else { return Ok(false) };
        let newest: BTreeMap<_, _> = ready
            .journals
            .iter()
            .filter_map(|(name, journal)| Some((name.clone(), journal.index().last()?.txid)))
            .collect();
        let is_old = locked(&shipping.shared.written).is_none_or(|written| written.elapsed() >= QUIET);
        if !is_old && !wants_mending(shipping, &ready) && !self.lacks(shipping, &ready) {
            return Ok(false);
        }
        let Some(link) = self.link_to_own(shipping, ready.lineage, control)? else { return Ok(false) };
        if !self.look(shipping, &ready, &link, control)? {
            return Ok(false);
        }
        let (mut sent, mut more, mut first) = (false, false, Ok(()));
        for (name, journal) in &ready.journals {
            match self.send_lacking(shipping, &ready, &link, (name, journal), &mut sent, control) {
                Ok(left) => more |= left,
                Err(error) if stops_all(&error) => return Err(error),
                Err(error) => first = first.and(Err(error)),
            }
        }
        if sent || is_old {
            self.write_until(shipping, &ready, &link, Seen { oldest, alive, gaps, newest })?;
        }
        self.mend(shipping, &ready, &link, control)?;
        first.map(|()| more)
    }

    /// Step 4, of one database. Says whether more is to be sent at once.
    fn send_lacking(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        (name, journal): (&DatabaseName, &Journal),
        sent: &mut bool,
        control: &Control,
    ) -> Result<bool, Error> {
        for _ in 0..MOST_PACKS {
            let Some(files) = lacking(shipping, ready, name, journal) else { return Ok(false) };
            match self.send_pack(shipping, ready, link, (name, journal), &files, control)? {
                Sent::Whole => *sent = true,
                // What is whole of it is chosen next.
                Sent::Damaged => {}
                Sent::Gone => return Ok(false),
            }
        }
        Ok(lacking(shipping, ready, name, journal).is_some())
    }

    /// As far as it is known without asking.
    fn lacks(&self, shipping: &Shipping, ready: &Ready) -> bool {
        let is_known = shipping.there().as_ref().is_some_and(|there| there.lineage == ready.lineage);
        !is_known || ready.journals.iter().any(|(name, journal)| lacking(shipping, ready, name, journal).is_some())
    }

    /// Step 4, of one pack.
    pub(super) fn send_pack(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        (name, journal): (&DatabaseName, &Journal),
        files: &[LtxFile],
        control: &Control,
    ) -> Result<Sent, Error> {
        let encrypted = !self.config.codec.recipients.is_empty();
        let (Some(first), Some(last)) = (files.first(), files.last()) else { return Ok(Sent::Gone) };
        let (level, min, max) = (first.name.level, first.name.min, last.name.max);
        let span = Span { level, min, max, first: first.millis, last: last.millis };
        let timeless = || link.damaged("the journal here is of a time that no pack can have; is the clock wrong?");
        let named = Key::pack(ready.lineage, name, span, encrypted).ok_or_else(timeless)?;
        let key = named.to_string();
        self.note_sending(shipping, &key)?;
        let sent = self.send_files(link, &named, (name, journal), files, control);
        // First it is read back, and then not under way any more: between the two it would be a leftover.
        let noted = match &sent {
            Ok(_) => self.note_sent(shipping, &key),
            // What was given up has left nothing, unless parts of it were there already.
            Err(Error::Journal(_)) if link.remote.undoes(tarball::size(files)) => self.note_given_up(shipping, &key),
            Err(_) => Ok(()),
        };
        locked(&shipping.shared.busy).remove(&key);
        noted?;
        let object = match sent {
            // Retention took a file away meanwhile: the next round has others.
            Err(Error::Journal(journal::Error::Gone { .. })) => return Ok(Sent::Gone),
            Err(Error::Journal(error @ journal::Error::Damaged { .. })) => {
                self.is_damaged_here((name, journal), files, &error);
                return Ok(Sent::Damaged);
            }
            sent => sent?,
        };
        let pack = Pack { span, size: object.size, parts: object.parts, encrypted };
        if let Some(there) = shipping.there().as_mut().filter(|there| there.lineage == ready.lineage) {
            there.listing.packs.entry(name.clone()).or_default().insert(pack);
        }
        tracing::debug!(replica = %shipping.name, key, bytes = object.size, "sent and read back");
        Ok(Sent::Whole)
    }

    fn send_files(
        &self,
        link: &Link,
        key: &Key,
        (name, journal): (&DatabaseName, &Journal),
        files: &[LtxFile],
        control: &Control,
    ) -> Result<Object, Error> {
        let (codec, form, key) = (self.codec_there(Form::Plain), key.form(), key.to_string());
        let out = Summed::new(link.at(link.remote.upload(&key))?);
        let mut encoder = codec.encode(out, tarball::size(files)).map_err(|error| broken(link, error))?;
        let mut write = |bytes: &[u8]| encoder.write_all(bytes).map_err(|error| broken(link, error));
        let points: Vec<_> = files.iter().map(Point::from).collect();
        for (file, whole) in files.iter().zip(states::find_all(journal.folder(), &points)) {
            write(&tarball::head(name, file, whole))?;
            hand_on(&file.name.path(journal.folder()), file, control, &mut write)?;
            write(tarball::padding(file.size))?;
        }
        write(&tarball::END)?;
        let object = encoder.finish().map_err(|error| broken(link, error))?.finish(link, &key)?;
        let mut tick = || Ok(control.check()?);
        match self.read_there(link, &key, form, &object, None, &mut tick)? {
            None => Ok(object),
            Some(reason) => Err(link.damaged(format!("{reason}, though it was sent well; it is sent again"))),
        }
    }
}

/// It is no word of one database or one object: there is no way there, or it was to stop.
pub(super) fn stops_all(error: &Error) -> bool {
    match error {
        Error::Sqlite(sqlite::Error::Cancelled) => true,
        Error::Replica { error, .. } => error.is_temporary(),
        _ => false,
    }
}

/// What of a database is to be sent next. What is to go doesn't count any more: what is whole of it here is there before it goes.
fn lacking(shipping: &Shipping, ready: &Ready, name: &DatabaseName, journal: &Journal) -> Option<Vec<LtxFile>> {
    let there = shipping.there();
    let there = there.as_ref().filter(|there| there.lineage == ready.lineage)?;
    let going = spans(locked(&shipping.shared.going).keys(), ready.lineage, name);
    match there.listing.packs.get(name) {
        Some(packs) => packs.without(&going).lacks(&journal.index()),
        None => Packs::default().lacks(&journal.index()),
    }
}
