//! What lies in a replica of the journal of one database, by the keys of its packs, and pure rules over it: which instants can be had,
//! which packs lead to one, what is lacking.
//!
//! Only level 0 and snapshots say which states there are: where neither goes on after the other, states are missing that nobody knows
//! of, and that is a hole. Larger steps lead over it to an older state than that of the instant, so they only save time.

use std::collections::BTreeSet;

use super::chain::{self, Expired, Horizon};
use super::index::{Index, LtxFile, Point};
use super::name::{FileName, Level, Txid};
use super::pack::Span;
use super::timeline::Gap;
use super::until::Lasted;

/// Bytes and files that one pack has at most, unless a single file has more.
const MOST_BYTES: u64 = 8 << 20;
const MOST_FILES: usize = 256;

/// The small packs of an hour that is over become one, so that there are not too many; it has so many files at most.
const JOINED: u64 = 3_600_000;
const MOST_JOINED: usize = 4096;

/// An object with files of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pack {
    /// Which.
    pub span: Span,
    /// Bytes, as it lies there.
    pub size: u64,
    /// In how many parts; 0 is one object under the key itself.
    pub parts: u32,
    /// Only an identity opens it.
    pub encrypted: bool,
}

/// The packs of one database.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Packs {
    /// By level, first and last state.
    packs: Vec<Pack>,
}

/// From when to when its states can be rebuilt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reach {
    /// The first state.
    pub from: Point,
    /// The last one that the others lead to.
    pub to: Point,
    /// Where states are missing between these two.
    pub holes: Vec<Hole>,
}

/// States that are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole {
    /// The last one before them.
    pub after: Point,
    /// The first one after them.
    pub before: Point,
}

impl Hole {
    /// The time in it of which nobody knows: the state before it was the newest at least as long as is said of it.
    pub fn gap(&self, lasted: &[Lasted]) -> Option<Gap> {
        let (after, before) = (self.after.at()?, self.before.at()?);
        let known = lasted.iter().filter(|it| it.state == self.after.txid.get()).map(|it| it.until).max();
        Some(Gap::new(known.map_or(after, |known| known.clamp(after, before.max(after))), before))
    }
}

impl Reach {
    /// Its holes.
    pub fn gaps<'a>(&'a self, lasted: &'a [Lasted]) -> impl Iterator<Item = Gap> + 'a {
        self.holes.iter().filter_map(|hole| hole.gap(lasted))
    }
}

impl Packs {
    /// All of them: by level, then by name.
    pub fn all(&self) -> &[Pack] {
        &self.packs
    }

    /// Those of a level, by name.
    pub fn level(&self, level: Level) -> &[Pack] {
        let from = self.packs.partition_point(|pack| pack.span.level < level);
        let to = self.packs.partition_point(|pack| pack.span.level <= level);
        self.packs.get(from..to).unwrap_or_default()
    }

    /// The one with that very file, or these.
    fn find(&self, name: FileName) -> Option<&Pack> {
        let key = |pack: &Pack| (pack.span.level, pack.span.min, pack.span.max);
        let at = self.packs.partition_point(|pack| key(pack) < (name.level, name.min, name.max));
        self.packs.get(at).filter(|pack| pack.span.name() == name)
    }

    /// Adds one, in place of what was there.
    pub fn insert(&mut self, pack: Pack) {
        match self.packs.binary_search_by_key(&pack.span, |other| other.span) {
            Ok(at) => self.packs[at] = pack,
            Err(at) => self.packs.insert(at, pack),
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, span: &Span) {
        self.packs.retain(|pack| pack.span != *span);
    }

    /// As files of the journal that lead as far.
    pub fn index(&self) -> Index {
        self.packs
            .iter()
            .map(|pack| LtxFile { name: pack.span.name(), millis: pack.span.last, size: pack.size })
            .collect()
    }

    /// What can be rebuilt; nothing without a snapshot.
    pub fn reach(&self) -> Option<Reach> {
        let (captured, snapshots) = (self.level(Level::CAPTURED), self.level(Level::SNAPSHOT));
        let point = |span: &Span| Point { txid: span.max, millis: span.last };
        let from = point(&snapshots.first()?.span);
        let (mut to, mut holes, mut next) = (from, Vec::new(), 0);
        loop {
            while let Some(Pack { span, .. }) = captured.get(next).filter(|pack| pack.span.min <= to.txid.next()) {
                if span.max > to.txid {
                    to = point(span);
                }
                next += 1;
            }
            let Some(Pack { span, .. }) = snapshots.iter().find(|pack| pack.span.max > to.txid) else { break };
            if span.max > to.txid.next() {
                holes.push(Hole { after: to, before: point(span) });
            }
            to = point(span);
        }
        Some(Reach { from, to, holes })
    }

    /// The packs that lead to the state at an instant, the snapshot first, without those that are known to be damaged. Nothing where a
    /// state between is missing.
    pub fn choose(&self, at_millis: u64, damaged: &BTreeSet<Span>) -> Option<Vec<Pack>> {
        let usable = self.without(damaged);
        let chain = chain::lead(&usable.index(), at_millis)?;
        let found = |file: &LtxFile| usable.find(file.name).filter(|pack| pack.span.last == file.millis).copied();
        let mut chosen: Vec<Pack> = chain.iter().map(found).collect::<Option<_>>()?;
        let mut end = chosen.last()?.span.max;
        // A pack that begins before the instant and ends after it has the state in its midst.
        for pack in usable.level(Level::CAPTURED).iter().filter(|pack| pack.span.first <= at_millis) {
            if pack.span.min <= end.next() && pack.span.max > end {
                chosen.push(*pack);
                end = pack.span.max;
            }
        }
        let needed = self.packs.iter().filter(|pack| pack.span.first <= at_millis);
        let needed = needed.map(|Pack { span, .. }| if span.last <= at_millis { span.max } else { span.min }).max()?;
        (needed <= end).then_some(chosen)
    }

    /// The files of level 0 that are to be sent next: the newest seconds first, then what is missing before them. A new lineage begins
    /// with the newest snapshot, and so does what comes after a time that lies here no more.
    pub fn lacks(&self, here: &Index) -> Option<Vec<LtxFile>> {
        let from = self.tail(here)?;
        self.run_after(here, from).or_else(|| self.run_after(here, self.begin(here)?))
    }

    /// Where the states begin that were ever to be here: with a snapshot, also where that one is missing. Where all went that led from it,
    /// with the newest that still lies here.
    fn begin(&self, here: &Index) -> Option<Txid> {
        let snapshot = self.level(Level::SNAPSHOT).first().map(|pack| pack.span.max);
        let captured = self.level(Level::CAPTURED).first().and_then(|pack| Txid::new(pack.span.min.get() - 1));
        let begin = snapshot.into_iter().chain(captured).min()?;
        let before = |file: &&LtxFile| file.name.max <= begin && !here.is_damaged(file);
        let base = || here.level(Level::SNAPSHOT).iter().rfind(before).map(|file| file.name.max);
        Some(base().filter(|_| snapshot != Some(begin)).unwrap_or(begin))
    }

    /// After which state the newest ones follow.
    fn tail(&self, here: &Index) -> Option<Txid> {
        let newest = || here.level(Level::SNAPSHOT).last().map(|file| file.name.max);
        let last = self.level(Level::CAPTURED).iter().map(|pack| pack.span.max).max();
        let Some(last) = last.or_else(|| self.begin(here)) else { return newest() };
        let files = here.level(Level::CAPTURED);
        let at = files.partition_point(|file| file.name.min <= last);
        let follows = files.get(at).is_some_and(|file| file.name.min == last.next() && !here.is_damaged(file));
        let is_all = here.last().is_none_or(|point| point.txid <= last);
        // A snapshot may be the next state itself, where the journal began anew.
        let begins = here.level(Level::SNAPSHOT).iter().find(|file| file.name.max == last.next());
        match begins {
            Some(begins) if !follows => Some(begins.name.max),
            _ if follows || is_all => Some(last),
            _ => newest().map(|newest| newest.max(last)),
        }
    }

    /// The first files after `from` that follow each other and are in no pack, without those that are damaged.
    fn run_after(&self, here: &Index, from: Txid) -> Option<Vec<LtxFile>> {
        let files = here.level(Level::CAPTURED);
        let (mut at, mut covered) = (files.partition_point(|file| file.name.min <= from), from);
        let mut packs = self.level(Level::CAPTURED).iter().filter(|pack| pack.span.max > from).peekable();
        loop {
            let first = files.get(at)?;
            while let Some(pack) = packs.next_if(|pack| pack.span.min <= first.name.min) {
                covered = covered.max(pack.span.max);
            }
            if covered >= first.name.min {
                at = files.partition_point(|file| file.name.min <= covered);
            } else if here.is_damaged(first) {
                at += 1;
            } else {
                let until = packs.peek().map(|pack| pack.span.min);
                return Some(run(here, &files[at..], until));
            }
        }
    }

    /// The other files that are to be sent: snapshots, the newest first, then levels 2 and 3. Level 1 is made of few files.
    pub fn lacks_larger(&self, here: &Index) -> Option<LtxFile> {
        let snapshots = here.level(Level::SNAPSHOT);
        let Some(begin) = self.begin(here) else {
            return snapshots.last().filter(|file| !here.is_damaged(file)).copied();
        };
        let is_missing = |file: &&LtxFile| self.find(file.name).is_none() && !here.is_damaged(file);
        let missing = snapshots.iter().rev().filter(|file| file.name.max >= begin).find(is_missing);
        let larger =
            || Level::PACKED.into_iter().flat_map(|level| here.level(level)).filter(|file| file.name.min > begin);
        missing.or_else(|| larger().find(is_missing)).copied()
    }

    /// Packs of one past hour that can be one, and the files of that; nothing while they are few and full.
    pub fn joinable(&self, here: &Index, now_millis: u64) -> Option<(Vec<LtxFile>, Vec<Pack>)> {
        let hour = |pack: &Pack| pack.span.last / JOINED;
        let follows = |a: &Pack, b: &Pack| a.span.max.next() == b.span.min && hour(a) == hour(b);
        let captured = self.level(Level::CAPTURED);
        let runs = captured.chunk_by(follows).filter(|run| run.len() > 1 && hour(&run[0]) < now_millis / JOINED);
        for run in runs {
            let (mut files, mut joined): (Vec<LtxFile>, Vec<Pack>) = (Vec::new(), Vec::new());
            for pack in run {
                let more = made_of(&pack.span, here);
                let bytes = files.iter().chain(more.iter().flatten()).map(|file| file.size).sum::<u64>();
                match more {
                    Some(more) if bytes <= MOST_BYTES && files.len() + more.len() <= MOST_JOINED => {
                        files.extend(more);
                        joined.push(*pack);
                    }
                    _ if joined.len() > 1 => break,
                    more => {
                        (files, joined) = (more.clone().unwrap_or_default(), more.map(|_| *pack).into_iter().collect())
                    }
                }
            }
            if joined.len() > 1 {
                return Some((files, joined));
            }
        }
        None
    }

    /// Whether what lies there was sent from here: it has no state that isn't here, and none that is of another time here.
    pub fn is_of(&self, here: &Index) -> bool {
        let last = here.last().map(|point| point.txid);
        let ends =
            [Level::CAPTURED, Level::SNAPSHOT].map(|level| self.level(level).iter().max_by_key(|pack| pack.span.max));
        self.packs.iter().all(|pack| Some(pack.span.max) <= last)
            && ends.into_iter().flatten().all(|Pack { span, .. }| {
                let files = here.level(span.level);
                match files.iter().rfind(|file| file.name.max == span.max) {
                    Some(file) => file.millis == span.last,
                    // It went by its age, or it never was here.
                    None => here.oldest().is_some_and(|oldest| span.max <= oldest.txid),
                }
            })
    }

    /// What goes when states since then are to be kept: snapshots, the oldest first, and then what leads nowhere without them.
    /// What stays begins with none that is known to be damaged, as long as there is an older one.
    pub fn expired(&self, horizon: Horizon, damaged: &BTreeSet<Span>) -> Vec<Pack> {
        let expired = self.expiry(horizon, damaged);
        let gone = expired.iter().flat_map(|expired| expired.snapshots.iter().chain(&expired.others));
        gone.filter_map(|file| self.find(file.name).copied()).collect()
    }

    /// The state that what stays begins with then.
    pub fn base(&self, horizon: Horizon, damaged: &BTreeSet<Span>) -> Option<Txid> {
        self.expiry(horizon, damaged).map(|expired| expired.base.name.max)
    }

    fn expiry(&self, horizon: Horizon, damaged: &BTreeSet<Span>) -> Option<Expired> {
        let of = |packs: &Self| chain::expired(&packs.index(), horizon);
        of(self).into_iter().chain(of(&self.without(damaged))).min_by_key(|expired| expired.base.name.max)
    }

    /// All but these.
    pub fn without(&self, damaged: &BTreeSet<Span>) -> Self {
        Self { packs: self.packs.iter().filter(|pack| !damaged.contains(&pack.span)).copied().collect() }
    }
}

/// The files of which a pack was made, as long as all of them are here and whole.
pub fn made_of(span: &Span, here: &Index) -> Option<Vec<LtxFile>> {
    let files = here.level(span.level);
    let from = files.partition_point(|file| file.name.min < span.min);
    let files: Vec<LtxFile> = match span.level {
        Level::CAPTURED => files[from..].iter().take_while(|file| file.name.max <= span.max).copied().collect(),
        _ => files.iter().filter(|file| file.name == span.name()).copied().collect(),
    };
    let (first, last) = (files.first()?, files.last()?);
    let is_all = span.level != Level::CAPTURED || files.len() as u64 == span.max.get() - span.min.get() + 1;
    let is_same =
        (first.name.min, last.name.max, first.millis, last.millis) == (span.min, span.max, span.first, span.last);
    let is_whole = !files.iter().any(|file| here.is_damaged(file));
    (is_all && is_same && is_whole).then_some(files)
}

/// Whether files of it that lie here are damaged.
pub fn is_damaged_here(span: &Span, here: &Index) -> bool {
    let is_in = |file: &&LtxFile| match span.level {
        Level::CAPTURED => span.min <= file.name.min && file.name.max <= span.max,
        _ => file.name == span.name(),
    };
    here.level(span.level).iter().filter(is_in).any(|file| here.is_damaged(file))
}

/// The files at the front that follow each other, before the state `until`.
fn run(here: &Index, files: &[LtxFile], until: Option<Txid>) -> Vec<LtxFile> {
    let (mut run, mut bytes): (Vec<LtxFile>, u64) = (Vec::new(), 0);
    for file in files {
        let follows = run.last().is_none_or(|last| last.name.max.next() == file.name.min);
        let fits = run.is_empty() || run.len() < MOST_FILES && bytes + file.size <= MOST_BYTES;
        if !follows || !fits || here.is_damaged(file) || until.is_some_and(|until| file.name.min >= until) {
            break;
        }
        bytes += file.size;
        run.push(*file);
    }
    run
}

#[cfg(test)]
mod tests;
