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
    let Some(chain) = chain::plan(index, u64::MAX) else {
        let why = format!("files of the journal in {} that lead to its newest state are missing", folder.display());
        let since = index.newest().and_then(|newest| gone_since(folder, newest).or(newest.at()));
        return Ok(Err(Lost { why, since: Some(since.unwrap_or_default()) }));
    };
    match sums(folder, &chain, control) {
        Ok(sums) => {
            // The last files are gone without a hole: what is there is whole.
            let since = gone_since(folder, last).filter(|since| alive.is_none_or(|alive| *since < alive));
            let why = || format!("the newest files of the journal in {} are gone", folder.display());
            Ok(since.map_or(Ok(Some(sums)), |since| Err(Lost { why: why(), since: Some(since) })))
        }
        Err(error @ (journal::Error::Damaged { .. } | journal::Error::Unlike { .. })) => {
            Ok(Err(Lost { since: error.right_before(folder, &chain), why: error.to_string() }))
        }
        Err(error) => Err(error),
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
        loop {
            let (index, alive) = (Index::scan(&folder)?, Timeline::read(root)?.alive);
            let read = read_newest(&folder, &index, alive, control);
            // It went on meanwhile, and may look as if something were missing.
            let is_same = Index::scan(&folder)?.last() == index.last();
            match read {
                Ok(Ok(_)) => return Ok(None),
                Ok(Err(lost)) if is_same => return Ok(Some(lost)),
                Ok(Err(_)) | Err(journal::Error::Gone { .. }) => control.check()?,
                Err(error) => return Err(error),
            }
        }
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
        let root = self.store.root();
        if timeline::wrong_since(root).is_none_or(|told| told > since) {
            timeline::tell_wrong(root, since)?;
            self.note_wrong(why);
        }
        Ok(())
    }

    fn note_wrong(&self, why: &str) {
        let reason = Some(format!("{why}; a new base follows"));
        self.note(Entry { ok: Some(false), code: Some(JOURNAL_WRONG.to_owned()), reason, ..line() });
    }
}
