//! Sending a database as a segment: the pages in which it differs from that of a base, found by reading both files here side by
//! side, page by page [P11]. Both have to be what the catalog here recorded, to the last byte, or nothing is stored there.
//!
//! - A base is the newest older backup that lies there as sound segments, for those who are to read what is sent, and is whole here. Without one every page is sent.
//! - The blocks of a segment hold pages as they are: zstd finds more in them than in what LZ4 has left.
//! - What is encrypted here and couldn't be so there is never taken apart: it goes as it lies (`send`).
//! - What others stand on goes as a segment whatever the mode, or not at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::passing::{Summed, Tick};
use super::send::{Leaving, broken};
use super::squeeze::Squeeze;
use super::writable::Writable;
use crate::backup::replica::{Chains, Held, HeldDatabase, Mode, Origin, Readers, Segment, is_sendable};
use crate::backup::{Backup, BackupId, DatabaseCopy, DatabaseName, Form};
use crate::codec::{Codec, Decoder, Recipient};
use crate::disk::block::{BlockReader, Direct};
use crate::engine::decode::{Fault, locked, undecodable};
use crate::engine::read::{OpenFile, Opened, other_bytes};
use crate::engine::{Call, Engine, Error};
use crate::journal::Txid;
use crate::journal::ltx::{self, Header};
use crate::sqlite::pages::Hasher;
use crate::sqlite::{Control, Progress};

/// Nothing is stood on a chain that is longer: a database begins anew.
const LONGEST: usize = 400;
/// More bases aren't tried.
const BASES: usize = 8;
/// Between two looks at whether it is to stop.
const PAGES: u32 = 64;

/// A backup here on which another is sent.
pub(super) struct Base {
    pub(super) origin: Origin,
    pub(super) id: BackupId,
    files: BTreeMap<DatabaseName, OpenFile>,
}

/// One database that leaves as a segment.
pub(super) struct Change<'a> {
    header: Header,
    new: Side<'a>,
    old: Option<Side<'a>>,
}

/// A file here, whose pages are compared.
struct Side<'a> {
    id: BackupId,
    copy: &'a DatabaseCopy,
    file: &'a File,
    path: &'a Path,
}

impl Base {
    pub(super) fn of(Opened { backup, files }: Opened) -> Self {
        let files = files.into_iter().filter(|it| it.file.is_ok());
        let files = files.map(|it| (it.name.clone(), it)).collect();
        Self { origin: Origin::of(&backup), id: backup.id, files }
    }
}

impl Writable<'_> {
    /// It is sent what has changed.
    pub(super) fn is_incremental(&self) -> bool {
        self.engine.config.replicas.get(&self.name).is_some_and(|replica| replica.mode == Mode::Incremental)
    }

    /// What a backup can be sent on, held open.
    pub(super) fn base_of(&self, origin: Origin) -> Result<Option<Base>, Error> {
        for (base, id) in self.bases(origin, &self.engine.list()?) {
            // By another name by now, or none: an older one will do.
            if let Some(opened) = self.opened_as(base, &id)? {
                return Ok(Some(Base::of(opened)));
            }
        }
        Ok(None)
    }

    /// All that it can be sent on, the newest first, as they are called here.
    pub(super) fn bases(&self, origin: Origin, here: &[Backup]) -> Vec<(Origin, BackupId)> {
        let is_base = |backup: &&Backup, base: Origin| {
            Origin::of(backup) == base && is_sendable(backup) && !self.doubted.contains(&backup.id)
        };
        let named = |base: Origin| here.iter().find(|backup| is_base(backup, base)).map(|backup| (base, backup.id));
        self.bases_there(origin).into_iter().filter_map(named).take(BASES).collect()
    }

    /// The same wherever they are kept.
    pub(super) fn bases_there(&self, origin: Origin) -> Vec<Origin> {
        if !self.is_incremental() {
            return Vec::new();
        }
        // What was found there counts already, also where it is deep below.
        let (mut there, left) = (self.marked(&[]), self.remnants());
        let unsound = Chains::of(&there, &left).unsound();
        let chains = self.site.chains();
        there.sort_by_key(|held| std::cmp::Reverse(held.origin));
        let is_older = |base: Origin| base < origin && base.sequence < origin.sequence;
        let readers = Readers::of(&self.recipients());
        // Of what lies there whole nothing is asked: nothing stands on it.
        let is_readable = |held: &Held| {
            let mut segments = held.databases.iter().filter(|(_, it)| it.ltx.is_some());
            segments.all(|(name, _)| chains.is_for(readers, held.origin, name))
        };
        let can_be = |held: &&Held| {
            held.has_segments() && is_older(held.origin) && !unsound.contains(&held.origin) && is_readable(held)
        };
        there.iter().filter(can_be).map(|held| held.origin).collect()
    }

    /// To whom what is sent is encrypted.
    pub(super) fn recipients(&self) -> Vec<String> {
        self.engine.config.codec.recipients.iter().map(Recipient::to_string).collect()
    }

    /// How a database leaves as a segment; nothing if it goes as it lies.
    pub(super) fn change<'a>(
        &self,
        backup: &Backup,
        name: &DatabaseName,
        (copy, file, path): (&'a DatabaseCopy, &'a File, &'a Path),
        base: Option<&'a Base>,
    ) -> Result<Option<Change<'a>>, Error> {
        let pages = copy.size.checked_div(copy.page_size.into()).and_then(|pages| u32::try_from(pages).ok());
        let is_whole = |pages: &u32| *pages > 0 && u64::from(*pages) * u64::from(copy.page_size) == copy.size;
        let txid = Txid::new(backup.sequence);
        let is_secret = copy.form.is_encrypted() && self.engine.config.codec.recipients.is_empty();
        let (Some(pages), Some(max)) = (pages.filter(is_whole), txid) else { return Ok(None) };
        // What others stand on stays a segment, or they would be lost.
        let is_stood_on = self.site.chains().is_stood_on(Origin::of(backup), name);
        match (is_secret, is_stood_on) {
            (true, true) => return Err(stood_on(backup.id, name)),
            (true, false) => return Ok(None),
            (false, false) if !self.is_incremental() => return Ok(None),
            (false, _) => {}
        }
        if !self.engine.opens(copy) {
            return Err(locked(backup.id, name, &copy.recipients));
        }
        let old = base.and_then(|base| self.side_of(base, name, copy));
        let before = base.filter(|_| old.is_some()).and_then(|base| Txid::new(base.origin.sequence));
        // A file with every page begins with the first state.
        let min = before.map_or(Txid::FIRST, Txid::next);
        let millis = backup.timestamp.timestamp_millis().unsigned_abs();
        let header = Header { page_size: copy.page_size, pages, min, max, millis };
        Ok(Some(Change { header, new: Side { id: backup.id, copy, file, path }, old }))
    }

    fn side_of<'a>(&self, base: &'a Base, name: &DatabaseName, new: &DatabaseCopy) -> Option<Side<'a>> {
        let OpenFile { copy, path, file, .. } = base.files.get(name)?;
        let steps = self.site.chains().steps(base.origin, name)?.len();
        let fits = steps < LONGEST && copy.page_size == new.page_size && self.engine.opens(copy);
        fits.then_some(Side { id: base.id, copy, file: file.as_ref().ok()?, path })
    }

    /// Sends it, and reads back what was sent.
    pub(super) fn send_segment(
        &mut self,
        leaving: &Leaving<'_>,
        change: &Change<'_>,
        base: Option<Origin>,
        control: &Control,
    ) -> Result<(HeldDatabase, Vec<String>), Error> {
        let Leaving { folder, backup, name, copy, before } = *leaving;
        let codec = self.engine.codec_of_segments();
        let form = Form::of(true, codec.encrypts);
        let to: Vec<String> = codec.recipients.iter().map(Recipient::to_string).collect();
        let key = folder.database(name, form, true);
        let link = self.site.link.clone();
        let out = Summed::new(link.at(link.remote.upload(&key))?);
        let encoder = Squeeze::new(&codec, out);
        let engine = self.engine;
        let mut tick = |done| {
            control.check()?;
            control.tell(Progress { database: name, done: before + done, total: backup.size() });
            self.hold(false)
        };
        let encoder = change.write(engine, encoder, &mut tick)?.map_err(|error| broken(&link, error))?;
        let object = encoder.finish().map_err(|error| broken(&link, error))?.finish(&link, &key)?;
        let segment = Segment { base: base.filter(|_| change.old.is_some()), size: copy.size };
        let held = HeldDatabase {
            form,
            ltx: Some(segment),
            readers: Readers::of(&to),
            damaged: false,
            object,
            extra: serde_json::Map::new(),
        };
        let mut tick = || {
            control.check()?;
            self.hold(false)
        };
        let opens = engine.config.codec.opens(form, &to);
        let reason = match opens {
            true => engine.proven_there(&link, &key, &held, change.header, &mut tick)?,
            false => engine.read_there(&link, &key, form, &held.object, None, &mut tick)?,
        };
        match reason {
            None => Ok((held, to)),
            Some(reason) => Err(link.damaged(format!("{reason}, though it was sent well; it is sent again"))),
        }
    }

    /// Bytes that a backup would take as segments on that base; nothing if they are more than `most`.
    pub(super) fn measure(
        &mut self,
        Opened { backup, files }: &Opened,
        base: Option<&Base>,
        most: u64,
        call: &Call,
    ) -> Result<Option<u64>, Error> {
        let (engine, mut size) = (self.engine, 0);
        for OpenFile { name, copy, path, file } in files {
            let Ok(file) = file else { return Ok(None) };
            let Some(change) = self.change(backup, name, (copy, file, path), base)? else { return Ok(None) };
            let codec = Codec { encrypts: false, ..engine.codec_of_segments() };
            let encoder = Squeeze::new(&codec, Scale { size, most });
            let mut tick = |_| {
                call.control.check()?;
                self.hold(false)
            };
            let written = change.write(engine, encoder, &mut tick)?.and_then(|encoder| encoder.finish());
            let Ok(scale) = written else { return Ok(None) };
            size = scale.size;
        }
        Ok(Some(size))
    }
}

/// Weighs what is written to it, until it is too much.
struct Scale {
    size: u64,
    most: u64,
}

impl Write for Scale {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.size += bytes.len() as u64;
        if self.size > self.most {
            return Err(io::Error::other("it is too much"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Engine {
    fn codec_of_segments(&self) -> Codec {
        let Codec { recipients, identities, .. } = self.config.codec.clone();
        let encrypts = !recipients.is_empty();
        Codec { level: Some(self.config.compression_level), encrypts, recipients, identities }
    }
}

impl Change<'_> {
    /// Writes the segment. What is wrong with the files here is told apart from what is wrong with `out`.
    fn write<W: Write>(
        &self,
        engine: &Engine,
        out: W,
        tick: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<io::Result<W>, Error> {
        let (mut new, mut old) =
            (self.new.pages(engine)?, self.old.as_ref().map(|side| side.pages(engine)).transpose()?);
        let mut out = match ltx::Encoder::stored(out, self.header).map_err(in_io) {
            Ok(out) => out,
            Err(error) => return Ok(Err(error)),
        };
        for number in 1..=self.header.pages {
            if number % PAGES == 1 {
                tick(u64::from(number - 1) * u64::from(self.header.page_size))?;
            }
            new.read()?;
            let is_same = match &mut old {
                Some(old) => old.read()? && old.page == new.page,
                None => false,
            };
            if is_same || number == self.header.lock_page() {
                continue;
            }
            if let Err(error) = out.page(number, &new.page).map_err(in_io) {
                return Ok(Err(error));
            }
        }
        let mut tick = || tick(u64::from(self.header.pages) * u64::from(self.header.page_size));
        new.finish(&mut tick)?;
        old.map_or(Ok(()), |old| old.finish(&mut tick))?;
        Ok(out.finish().map_err(in_io))
    }
}

/// Said before anything of it is sent.
fn stood_on(id: BackupId, name: &DatabaseName) -> Error {
    let reason = format!(
        "the copy of {name} in {id} is encrypted here, later backups there stand on its pages, and no recipient is set to whom they \
         could be encrypted there: set BACKUP_ENCRYPTION_RECIPIENTS"
    );
    Error::NotSent { reason }
}

fn in_io(error: ltx::Error) -> io::Error {
    match error {
        ltx::Error::Io(error) => error,
        ltx::Error::Malformed(reason) => io::Error::other(reason),
    }
}

impl<'a> Side<'a> {
    fn pages(&self, engine: &Engine) -> Result<Pages<'a>, Error> {
        let Side { id, copy, file, path } = *self;
        let input = BlockReader::new(Direct::new(file));
        let from = engine.config.codec.decode(input, copy.form, Some(copy.size));
        let from = from.map_err(|error| fault(Fault::of(error, path), id, copy))?;
        let page = vec![0; copy.page_size as usize];
        Ok(Pages { from, page, left: copy.size, hasher: Hasher::default(), id, copy, path })
    }
}

fn fault(fault: Fault, id: BackupId, copy: &DatabaseCopy) -> Error {
    let reason = match fault {
        Fault::Locked => format!("{}: its header was changed", copy.file),
        Fault::Damaged(reason) => undecodable(&copy.file, &reason),
        Fault::Unread(error) => return Error::NotSent { reason: error.to_string() },
    };
    Error::Damaged { subject: id.into(), reason }
}

/// The plain pages of a file, one after the other.
struct Pages<'a> {
    from: Decoder<'a>,
    page: Vec<u8>,
    left: u64,
    hasher: Hasher,
    id: BackupId,
    copy: &'a DatabaseCopy,
    path: &'a Path,
}

impl Pages<'_> {
    /// The next one; `false` after the last.
    fn read(&mut self) -> Result<bool, Error> {
        if self.left < self.page.len() as u64 {
            return Ok(false);
        }
        self.from.read_exact(&mut self.page).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::Damaged { subject: self.id.into(), reason: other_bytes(&self.copy.file) }
            }
            _ => fault(Fault::of(crate::codec::Error::of(error), self.path), self.id, self.copy),
        })?;
        self.left -= self.page.len() as u64;
        self.hasher.add(&self.page);
        Ok(true)
    }

    /// Reads the rest. All of it is what the catalog recorded.
    fn finish(mut self, tick: Tick<'_>) -> Result<(), Error> {
        let mut pages = 0;
        while self.read()? {
            pages += 1;
            if pages % PAGES == 0 {
                tick()?;
            }
        }
        match self.hasher.content().checksum == self.copy.checksum {
            true => Ok(()),
            false => Err(Error::Damaged { subject: self.id.into(), reason: other_bytes(&self.copy.file) }),
        }
    }
}
