//! The journal was found wrong, or a part of it is lost: it begins anew, and from the first instant on of which that may be so nothing
//! is offered. Whoever finds it leaves word for the recorder (`timeline`), which takes new bases and records the gap.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::recording::line;
use super::{Engine, Error};
use crate::audit::Entry;
use crate::backup::DatabaseName;
use crate::disk;
use crate::journal::folder::folder;
use crate::journal::rebuild::sums;
use crate::journal::sums::Sums;
use crate::journal::timeline::{self, Timeline};
use crate::journal::{self, Index, Point, chain, states};
use crate::sqlite::Control;

/// The newest state can't be rebuilt.
pub(super) struct Lost {
    pub(super) why: String,
    /// The last instant that needs nothing of what is lost, where that is known.
    since: Option<DateTime<Utc>>,
    /// Files are missing, as far as a listing tells: one that is made while others are published may lack some of these.
    is_missing: bool,
}

/// The pages of the newest state, by all that leads there; none where nothing was captured yet. What was captured after `alive` was
/// never offered, and is nothing that is lost: a copy that was made while `serve` went on may have more of it in one place than in another.
pub(super) fn read_newest(
    folder: &Path,
    index: &Index,
    alive: Option<DateTime<Utc>>,
    control: &Control,
) -> Result<Result<Option<Sums>, Lost>, journal::Error> {
    let Some(last) = index.last() else { return Ok(Ok(None)) };
    let missing = |why, since| Err(Lost { why, since: Some(since), is_missing: true });
    let Some(chain) = chain::plan(index, u64::MAX) else {
        let why = format!("files of the journal in {} that lead to its newest state are missing", folder.display());
        let since = index.newest().and_then(|newest| gone_since(folder, newest).or(newest.at()));
        return Ok(missing(why, since.unwrap_or_default()));
    };
    match sums(folder, &chain, control) {
        Ok(sums) => {
            // The last files are gone without a hole: what is there is whole.
            let since = gone_since(folder, last).filter(|since| alive.is_none_or(|alive| *since < alive));
            let why = || format!("the newest files of the journal in {} are gone", folder.display());
            Ok(since.map_or(Ok(Some(sums)), |since| missing(why(), since)))
        }
        Err(error @ (journal::Error::Damaged { .. } | journal::Error::Unlike { .. })) => {
            let since = error.right_before(folder, &chain);
            Ok(Err(Lost { why: error.to_string(), since, is_missing: false }))
        }
        Err(error) => Err(error),
    }
}

/// How often what is missing is looked for.
const LOOKS: usize = 5;

/// What is lacking, as `look` finds it at several looks while others may write. What is damaged stays so, whatever was published meanwhile.
/// What is missing counts when it is the same twice: what a listing lacked was there before the next one. Where it is another one each
/// time the last one counts.
fn found<T>(mut look: impl FnMut() -> Result<Result<T, Lost>, journal::Error>) -> Result<Option<Lost>, journal::Error> {
    let (mut before, mut looks) = (None, 1);
    loop {
        match look() {
            Ok(Ok(_)) => return Ok(None),
            Ok(Err(lost)) if !lost.is_missing || before == Some(lost.since) || looks == LOOKS => return Ok(Some(lost)),
            Ok(Err(lost)) => before = Some(lost.since),
            // A larger one may stand for it by now.
            Err(journal::Error::Gone { .. }) if looks < LOOKS => {}
            Err(error) => return Err(error),
        }
        looks += 1;
    }
}

/// The last instant before the first state after that one, if there was one. Of the very next one it may not have been noted when that was.
fn gone_since(folder: &Path, last: Point) -> Option<DateTime<Utc>> {
    let first = states::captured_after(folder, last)?;
    if first.txid == last.txid.next() { journal::just_before(first.millis) } else { last.at() }
}

/// The code of a line that says so.
pub(super) const JOURNAL_WRONG: &str = "journal-wrong";

impl Engine {
    /// Where that can't be written, an earlier time stands there.
    pub(super) fn note_right(&self, name: &DatabaseName, at: DateTime<Utc>) {
        if let Err(error) = timeline::note_right(self.store.root(), name, at) {
            tracing::warn!(%error, "that the journal is right could not be noted");
        }
    }

    /// What isn't known to have been right at any time wasn't at all.
    pub(super) fn begin_journal_anew<'a>(&self, names: impl IntoIterator<Item = &'a DatabaseName>, why: &str) {
        self.begin_journal_anew_since(names.into_iter().map(|name| self.right(name)).min().unwrap_or_default(), why);
    }

    /// The same where its files may be damaged, or missing: what they led to was right, and is lost all the same. So they are read.
    pub(super) fn begin_journal_anew_as_read<'a>(
        &self,
        names: impl IntoIterator<Item = &'a DatabaseName>,
        why: &str,
        control: &Control,
    ) {
        let names: Vec<_> = names.into_iter().collect();
        let of = |name: &&DatabaseName| Some(self.right_before(name, &self.lost(name, control).ok()??));
        let lost = names.iter().filter_map(of).min();
        let right = || names.iter().map(|name| self.right(name)).min().unwrap_or_default();
        self.begin_journal_anew_since(lost.unwrap_or_else(right), why);
    }

    /// The same only where something is lost: what is gone may have been let go.
    pub(super) fn begin_journal_anew_where_lost<'a>(
        &self,
        names: impl IntoIterator<Item = &'a DatabaseName>,
        control: &Control,
    ) -> Result<(), Error> {
        for name in names {
            if let Some(lost) = self.lost(name, control)? {
                self.begin_journal_anew_since(self.right_before(name, &lost), &lost.why);
            }
        }
        Ok(())
    }

    /// What the newest state of a database lacks, by what lies there, while others may write to it.
    fn lost(&self, name: &DatabaseName, control: &Control) -> Result<Option<Lost>, journal::Error> {
        let root = self.store.root();
        let folder = folder(root, name);
        found(|| {
            control.check()?;
            // First: what was captured until then is in the listing.
            let alive = Timeline::read(root)?.of(root, [name])?.alive;
            read_newest(&folder, &Index::scan(&folder)?, alive, control)
        })
    }

    fn right(&self, name: &DatabaseName) -> DateTime<Utc> {
        timeline::right(self.store.root(), name).unwrap_or_default()
    }

    pub(super) fn right_before(&self, name: &DatabaseName, lost: &Lost) -> DateTime<Utc> {
        lost.since.unwrap_or_else(|| self.right(name))
    }

    /// The same where it is known that all before that instant is right.
    pub(super) fn begin_journal_anew_since(&self, since: DateTime<Utc>, why: &str) {
        if let Err(error) = self.tell_wrong(since, why) {
            tracing::error!(%error, "whoever writes the journal can't be told that it is wrong");
        }
    }

    /// Where that was told, and isn't seen to yet, it is told once.
    pub(super) fn tell_wrong(&self, since: DateTime<Utc>, why: &str) -> Result<(), disk::Error> {
        if timeline::tell_wrong(self.store.root(), since)? {
            self.note_wrong(why);
        }
        Ok(())
    }

    fn note_wrong(&self, why: &str) {
        let reason = Some(format!("{why}; a new base follows"));
        self.note(Entry { ok: Some(false), code: Some(JOURNAL_WRONG.to_owned()), reason, ..line() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Look = Result<Result<(), Lost>, journal::Error>;

    fn lost(second: i64, is_missing: bool) -> Look {
        Ok(Err(Lost { why: String::new(), since: DateTime::from_timestamp(second, 0), is_missing }))
    }

    fn gone() -> Look {
        Err(journal::Error::Gone { path: "0/x.ltx".into() })
    }

    /// What these looks come to: since when something is lost, and how many there were.
    fn of(looks: Vec<Look>) -> (Option<i64>, usize) {
        let (all, mut looks) = (looks.len(), looks.into_iter());
        let lost = found(|| looks.next().unwrap()).unwrap();
        (lost.and_then(|lost| Some(lost.since?.timestamp())), all - looks.len())
    }

    #[test]
    fn what_is_damaged_counts_at_once_and_what_is_missing_when_it_is_so_twice() {
        assert_eq!(of(vec![Ok(Ok(())), lost(9, false)]), (None, 1));
        assert_eq!(of(vec![lost(9, false), Ok(Ok(()))]), (Some(9), 1));
        assert_eq!(of(vec![lost(9, true), Ok(Ok(()))]), (None, 2), "it only looked so");
        assert_eq!(of(vec![lost(9, true), lost(9, true), Ok(Ok(()))]), (Some(9), 2));
        assert_eq!(of(vec![lost(8, true), gone(), lost(9, true), lost(8, false)]), (Some(8), 4));
        assert_eq!(of(vec![gone(), gone(), lost(9, true), lost(9, true)]), (Some(9), 4));
    }

    /// As often as somebody publishes something.
    #[test]
    fn it_is_looked_for_no_more_than_a_few_times() {
        let (told, looks) = of((1..100).map(|second| lost(second, true)).collect());
        assert_eq!((told, looks), (Some(LOOKS as i64), LOOKS));
        let mut looks = 0;
        let error = found(|| {
            looks += 1;
            gone()
        });
        assert!(matches!(error, Err(journal::Error::Gone { .. })) && looks == LOOKS);
    }
}
