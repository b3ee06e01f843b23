//! Sending the newest seconds. A round:
//!
//! 1. `alive` is read, and then what is the newest state of each database: all up to the first is in the second.
//! 2. Is there anything to send, or is what the replica says of `until` old? Else nothing is asked of it.
//! 3. The newest catalog there is the one that this directory wrote; else nothing is sent, and the next replication says why.
//! 4. Of each database the files that gathered, as one pack or several, each noted here before, and read back to its last byte.
//! 5. When all that 1. saw can be rebuilt from what is there, that is written beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::listing::{Listing, keys_of};
use super::state::{JournalThere, Remembered};
use crate::backup::replica::{CATALOGS, MAX_PARTS, Nonce, Object, catalog_key, parse_catalog_key};
use crate::backup::{DatabaseName, Form, ReplicaName};
use crate::codec::Codec;
use crate::disk::{self, Context};
use crate::engine::replica::Elsewhere;
use crate::engine::replica::report::LastError;
use crate::engine::replica::send::{Sum, Summed, broken};
use crate::engine::replica::site::Link;
use crate::engine::replica::state::State;
use crate::engine::{Actor, Call, Engine, Error, locked};
use crate::journal::pack::{Key, Span, folder_of};
use crate::journal::packs::Pack;
use crate::journal::timeline::{Gap, Timeline};
use crate::journal::until::Until;
use crate::journal::{self, Journal, LtxFile, Txid, tarball};
use crate::remote::Remote;
use crate::sqlite::{self, Control};

/// While nothing changes, what the replica says of `until` is at most this old.
const QUIET: Duration = Duration::from_secs(60);
/// Packs of one database in a round, so that `until` follows also where much is lacking.
const MOST_PACKS: usize = 8;
/// Bytes that are read and encoded at once.
const PIECE: usize = 256 << 10;

/// What this process knows of the journal in one replica. Clones are the same.
#[derive(Clone)]
pub struct Shipping {
    pub(super) name: ReplicaName,
    shared: Arc<Shared>,
}

struct Shared {
    there: Mutex<Option<There>>,
    remembered: Mutex<Remembered>,
    /// Keys that this process sends just now.
    busy: Mutex<BTreeSet<String>>,
    /// When `until` was written last.
    written: Mutex<Option<Instant>>,
    /// Its connections, and its access token where there is one.
    remote: Mutex<Option<Remote>>,
}

/// What lies there, as it was listed and as it was changed since.
pub(super) struct There {
    pub(super) lineage: Nonce,
    pub(super) listing: Listing,
    pub(super) listed: Instant,
}

impl Shipping {
    pub(super) fn there(&self) -> MutexGuard<'_, Option<There>> {
        locked(&self.shared.there)
    }

    pub(super) fn remembered(&self) -> MutexGuard<'_, Remembered> {
        locked(&self.shared.remembered)
    }

    /// What lies there has to be looked at anew.
    fn forget(&self) {
        *self.there() = None;
    }
}

/// The journals that are written here, and what is to be sent of them where.
pub(super) struct Ready {
    pub(super) lineage: Nonce,
    pub(super) journals: BTreeMap<DatabaseName, Journal>,
    /// Keys of packs that were found damaged there.
    pub(super) damaged: BTreeSet<String>,
}

impl Engine {
    /// For sending the journal to a replica; nothing where none is kept.
    pub fn shipping(&self, name: &ReplicaName) -> Result<Option<Shipping>, Error> {
        let Some(replica) = self.config.replicas.get(name).filter(|_| self.config.pitr.enabled) else {
            return Ok(None);
        };
        let remembered = Remembered::load(self.store.root(), name, &replica.place.identity())?;
        let shared = Shared {
            there: Mutex::default(),
            remembered: Mutex::new(remembered),
            busy: Mutex::default(),
            written: Mutex::default(),
            remote: Mutex::default(),
        };
        Ok(Some(Shipping { name: name.clone(), shared: Arc::new(shared) }))
    }

    /// How the journal stands in a replica; nothing where none is kept.
    pub(in crate::engine::replica) fn journal_there(&self, name: &ReplicaName) -> Result<Option<JournalThere>, Error> {
        let Some(replica) = self.config.replicas.get(name).filter(|_| self.config.pitr.enabled) else {
            return Ok(None);
        };
        Ok(Some(Remembered::load(self.store.root(), name, &replica.place.identity())?.into()))
    }

    /// One round. Says whether more is to be sent at once.
    pub fn ship_journal(&self, shipping: &Shipping, control: &Control) -> Result<bool, Error> {
        let shipped = self.round(shipping, control);
        self.note_outcome(shipping, shipped.as_ref().err(), |remembered| &mut remembered.last_error);
        shipped
    }

    /// Remembers what went wrong, or that nothing does any more.
    pub(super) fn note_outcome(
        &self,
        shipping: &Shipping,
        error: Option<&Error>,
        of: impl Fn(&mut Remembered) -> &mut Option<LastError>,
    ) {
        let (mut remembered, now) = (shipping.remembered(), self.clock.now());
        let before = of(&mut remembered).clone();
        let last = match error {
            None => None,
            // That it was to stop is no failure of the replica.
            Some(Error::Sqlite(sqlite::Error::Cancelled)) => before.clone(),
            Some(error) => Some(LastError {
                at: now,
                since: before.as_ref().map_or(now, |before| before.since),
                code: error.code().to_owned(),
                detail: error.to_string(),
            }),
        };
        if last != before {
            *of(&mut remembered) = last;
            if let Err(error) = remembered.save(self.store.root(), &shipping.name) {
                tracing::warn!(%error, replica = %shipping.name, "how its journal stands is not remembered");
            }
        }
        drop(remembered);
        if error.is_some() {
            shipping.forget();
        }
    }

    /// What there is to be sent; nothing as long as not all journals are written, or the replica's catalog doesn't name them.
    pub(super) fn ready(&self, shipping: &Shipping) -> Result<Option<Ready>, Error> {
        self.assert_expected()?;
        let Some(replica) = self.config.replicas.get(&shipping.name) else { return Ok(None) };
        let state = State::load(self.store.root(), &shipping.name, &replica.place.identity())?;
        let Some(lineage) = self.lineage_here(&state)? else { return Ok(None) };
        let journals = locked(&self.journals).clone();
        let damaged = state.damaged_packs;
        Ok(self.config.databases.keys().eq(journals.keys()).then_some(Ready { lineage, journals, damaged }))
    }

    fn round(&self, shipping: &Shipping, control: &Control) -> Result<bool, Error> {
        let Some(ready) = self.ready(shipping)? else { return Ok(false) };
        let Timeline { alive: Some(alive), gaps } = Timeline::read(self.store.root())? else { return Ok(false) };
        let newest: BTreeMap<_, _> = ready
            .journals
            .iter()
            .filter_map(|(name, journal)| Some((name.clone(), journal.index().last()?.txid)))
            .collect();
        let is_old = locked(&shipping.shared.written).is_none_or(|written| written.elapsed() >= QUIET);
        if !is_old && ready.damaged.is_empty() && !self.lacks(shipping, &ready) {
            return Ok(false);
        }
        let Some(link) = self.link_to_own(shipping, ready.lineage, control)? else { return Ok(false) };
        if !self.look(shipping, &ready, &link, control)? {
            return Ok(false);
        }
        self.mend(shipping, &ready, &link, control)?;
        let (mut sent, mut more) = (false, false);
        for (name, journal) in &ready.journals {
            for n in 0..=MOST_PACKS {
                let Some(files) = lacking(shipping, &ready, name, journal) else { break };
                if n == MOST_PACKS {
                    more = true;
                    break;
                }
                sent |= self.send_pack(shipping, &ready, &link, (name, journal), &files, control)?;
            }
        }
        if sent || is_old {
            self.write_until(shipping, &ready, &link, (alive, gaps), &newest)?;
        }
        Ok(more)
    }

    /// As far as it is known without asking.
    fn lacks(&self, shipping: &Shipping, ready: &Ready) -> bool {
        let is_known = shipping.there().as_ref().is_some_and(|there| there.lineage == ready.lineage);
        !is_known || ready.journals.iter().any(|(name, journal)| lacking(shipping, ready, name, journal).is_some())
    }

    /// The way there, if the newest catalog there is still the one that this directory wrote, and names the lineage.
    pub(super) fn link_to_own(
        &self,
        shipping: &Shipping,
        lineage: Nonce,
        control: &Control,
    ) -> Result<Option<Link>, Error> {
        let target = self.target(&Elsewhere::Name(shipping.name.clone()))?;
        let remote = match &mut *locked(&shipping.shared.remote) {
            Some(remote) => remote.clone(),
            new => new.insert(target.remote(&Control::default())?).clone(),
        };
        let link = Link::over(&target, remote, control);
        let listed = link.at(link.remote.list(CATALOGS))?;
        let newest = listed.iter().filter_map(|it| Some((parse_catalog_key(&it.key)?.0, &it.key))).max();
        // A replication may be writing one just now: what it is about to write is noted before.
        let state = State::load(self.store.root(), &shipping.name, &target.place.identity())?;
        let own = [&state.written, &state.writing].into_iter().flatten();
        let is_own = own
            .map(|mark| catalog_key(mark.generation, &mark.checksum))
            .any(|key| newest.is_some_and(|it| *it.1 == key));
        Ok((is_own && self.lineage_here(&state)? == Some(lineage)).then_some(link))
    }

    /// Lists what lies there, unless that is known, and removes what was never read back. `false` if it isn't this journal's: the next
    /// replication begins another one.
    fn look(&self, shipping: &Shipping, ready: &Ready, link: &Link, control: &Control) -> Result<bool, Error> {
        // Whoever changes what is there waits.
        let mut there = shipping.there();
        if there.as_ref().is_some_and(|there| there.lineage == ready.lineage) {
            return Ok(true);
        }
        let listed = link.at(link.remote.list(&folder_of(ready.lineage)))?;
        let mut listing = Listing::of(ready.lineage, &listed);
        let busy = locked(&shipping.shared.busy).clone();
        let begun: Vec<String> = shipping.remembered().sending.difference(&busy).cloned().collect();
        for key in &begun {
            if let Some((Key::Pack { lineage, database, span, .. }, 0)) = Key::parse_part(key) {
                let pack = listing.packs.get(&database).and_then(|packs| packs.all().iter().find(|it| it.span == span));
                if let Some(pack) = pack.copied().filter(|_| lineage == ready.lineage) {
                    delete(link, keys_of(lineage, &database, &pack), control)?;
                    listing.packs.entry(database).or_default().remove(&span);
                }
            }
        }
        let is_idle = |key: &&String| !busy.iter().any(|busy| is_becoming(key, busy));
        let unfinished: Vec<String> = listing.unfinished.iter().filter(is_idle).cloned().collect();
        delete(link, unfinished, control)?;
        {
            let mut remembered = shipping.remembered();
            remembered.is_of(ready.lineage);
            remembered.sending.retain(|key| !begun.contains(key));
            remembered.save(self.store.root(), &shipping.name)?;
        }
        let is_own = |(name, journal): (&DatabaseName, &Journal)| {
            listing.packs.get(name).is_none_or(|packs| packs.is_of(&journal.index()))
        };
        if !ready.journals.iter().all(is_own) {
            tracing::warn!(replica = %shipping.name, "its journal has states that this directory never had; another one is begun beside it");
            let call = Call { control: control.clone(), ..Call::new(Actor::scheduler()) };
            self.leave_lineage(&shipping.name, ready.lineage, &call)?;
            return Ok(false);
        }
        *there = Some(There { lineage: ready.lineage, listing, listed: Instant::now() });
        Ok(true)
    }

    /// Step 4, of one pack. `false` if one of its files has gone meanwhile.
    pub(super) fn send_pack(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        (name, journal): (&DatabaseName, &Journal),
        files: &[LtxFile],
        control: &Control,
    ) -> Result<bool, Error> {
        let encrypted = !self.config.codec.recipients.is_empty();
        let (Some(first), Some(last)) = (files.first(), files.last()) else { return Ok(false) };
        let (level, min, max) = (first.name.level, first.name.min, last.name.max);
        let span = Span { level, min, max, first: first.millis, last: last.millis };
        let timeless = || link.damaged("the journal here is of a time that no pack can have; is the clock wrong?");
        let named = Key::pack(ready.lineage, name, span, encrypted).ok_or_else(timeless)?;
        let key = named.to_string();
        self.note_sending(shipping, &key, true)?;
        let sent = self.send_files(link, &named, (name, journal), files, control);
        locked(&shipping.shared.busy).remove(&key);
        let object = match sent {
            // Retention took a file away meanwhile: the next round has others.
            Err(Error::Journal(journal::Error::Gone { .. })) => return Ok(false),
            sent => sent?,
        };
        self.note_sending(shipping, &key, false)?;
        let pack = Pack { span, size: object.size, parts: object.parts, encrypted };
        if let Some(there) = shipping.there().as_mut().filter(|there| there.lineage == ready.lineage) {
            there.listing.packs.entry(name.clone()).or_default().insert(pack);
        }
        tracing::debug!(replica = %shipping.name, key, bytes = object.size, "sent and read back");
        Ok(true)
    }

    /// Remembers that it is sent now, or that it was read back.
    fn note_sending(&self, shipping: &Shipping, key: &str, begins: bool) -> Result<(), Error> {
        let mut remembered = shipping.remembered();
        match begins {
            true => {
                locked(&shipping.shared.busy).insert(key.to_owned());
                remembered.sending.insert(key.to_owned())
            }
            false => remembered.sending.remove(key),
        };
        remembered.save(self.store.root(), &shipping.name)
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
        let out = Summed { out: link.at(link.remote.upload(&key))?, sum: Sum::default() };
        let mut encoder = codec.encode(out, tarball::size(files)).map_err(|error| broken(link, error))?;
        let mut write = |bytes: &[u8]| encoder.write_all(bytes).map_err(|error| broken(link, error));
        for file in files {
            write(&tarball::head(name, file))?;
            copy(&file.name.path(journal.folder()), file.size, control, &mut write)?;
            write(tarball::padding(file.size))?;
        }
        write(&tarball::END)?;
        let Summed { out, sum } = encoder.finish().map_err(|error| broken(link, error))?;
        let written = link.at(out.finish())?;
        if written.parts > MAX_PARTS {
            return Err(link.damaged(format!("{key} would take more than {MAX_PARTS} parts")));
        }
        let object = Object { size: sum.size, checksum: sum.checksum(), parts: written.parts };
        let mut tick = || Ok(control.check()?);
        match self.read_there(link, &key, form, &object, None, &mut tick)? {
            None => Ok(object),
            Some(reason) => Err(link.damaged(format!("{reason}, though it was sent well; it is sent again"))),
        }
    }

    /// Step 5.
    fn write_until(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        (alive, gaps): (DateTime<Utc>, Vec<Gap>),
        newest: &BTreeMap<DatabaseName, Txid>,
    ) -> Result<(), Error> {
        let reaches: BTreeMap<_, _> = match shipping.there().as_ref() {
            Some(there) => {
                there.listing.packs.iter().filter_map(|(name, packs)| Some((name.clone(), packs.reach()?))).collect()
            }
            None => return Ok(()),
        };
        let is_there = |(name, txid): (&DatabaseName, &Txid)| reaches.get(name).is_some_and(|it| it.to.txid >= *txid);
        let from = newest.keys().filter_map(|name| reaches.get(name)?.from.at()).max();
        let (true, Some(from)) = (newest.iter().all(is_there), from) else { return Ok(()) };
        let gaps = gaps.into_iter().filter(|gap| gap.to > from).collect();
        let bytes = self.sealed(&Until::new(alive, gaps, newest.keys().cloned().collect()).to_bytes());
        let bytes = bytes.map_err(|error| broken(link, error))?;
        let mut digits = [0; 8];
        digits.copy_from_slice(&Sha256::digest(&bytes)[..8]);
        let millis = u64::try_from(alive.timestamp_millis()).unwrap_or_default();
        let encrypted = !self.config.codec.recipients.is_empty();
        let key = Key::Until { lineage: ready.lineage, millis, digits, encrypted }.to_string();
        link.at(link.remote.put(&key, &bytes))?;
        if link.at(link.remote.get(&key, Until::MAX_BYTES))?.as_ref() != Some(&bytes) {
            return Err(link.damaged(format!("{key} is not there as it was sent; it is sent again")));
        }
        let older = match shipping.there().as_mut() {
            Some(there) => {
                let untils = &mut there.listing.untils;
                untils.push((millis, key, bytes.len() as u64));
                untils.sort();
                // One before it stays, for whoever reads it just now.
                untils.drain(..untils.len().saturating_sub(2)).map(|(_, key, _)| key).collect()
            }
            None => Vec::new(),
        };
        *locked(&shipping.shared.written) = Some(Instant::now());
        let mut remembered = shipping.remembered();
        (remembered.from, remembered.until) = (Some(from), Some(alive));
        remembered.save(self.store.root(), &shipping.name)?;
        drop(remembered);
        older.iter().try_for_each(|key: &String| link.at(link.remote.delete(key)))
    }

    /// A small object as it is to lie there.
    fn sealed(&self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let codec = Codec { level: None, ..self.codec_there(Form::Plain) };
        let mut encoder = codec.encode(Vec::new(), bytes.len() as u64)?;
        encoder.write_all(bytes)?;
        encoder.finish()
    }
}

/// What of a database is to be sent next.
fn lacking(shipping: &Shipping, ready: &Ready, name: &DatabaseName, journal: &Journal) -> Option<Vec<LtxFile>> {
    let there = shipping.there();
    let there = there.as_ref().filter(|there| there.lineage == ready.lineage)?;
    match there.listing.packs.get(name) {
        Some(packs) => packs.lacks(&journal.index()),
        None => journal::packs::Packs::default().lacks(&journal.index()),
    }
}

/// Whether it is a part of that object, or what becomes one in a folder.
fn is_becoming(key: &str, object: &str) -> bool {
    let file = |key: &str| key.rsplit_once('/').map(|(folder, file)| (folder.to_owned(), file.to_owned()));
    let (Some((folder, name)), Some((of, object))) = (file(key), file(object)) else { return false };
    folder == of && name.trim_start_matches('.').starts_with(&object)
}

pub(super) fn delete(link: &Link, keys: Vec<String>, control: &Control) -> Result<(), Error> {
    for key in keys {
        control.check()?;
        link.at(link.remote.delete(&key))?;
    }
    Ok(())
}

/// Reads a file of the journal, which is as long as the index says.
fn copy(
    path: &Path,
    size: u64,
    control: &Control,
    write: &mut impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let opened = match disk::open_regular(path) {
        Err(error) if error.is_missing() => return Err(journal::Error::Gone { path: path.to_owned() }.into()),
        opened => opened?,
    };
    let (mut file, mut left) = (BufReader::with_capacity(PIECE, opened).take(size), size);
    let mut piece = vec![0; PIECE.min(size as usize + 1)];
    loop {
        control.check()?;
        let length = file.read(&mut piece).to("read", path)?;
        if length == 0 {
            break;
        }
        write(&piece[..length])?;
        left -= length as u64;
    }
    match left {
        0 => Ok(()),
        _ => Err(journal::Error::Damaged { path: path.to_owned(), reason: "it is shorter than it was" }.into()),
    }
}
