//! What lies in a folder and below it, as OpenDAL lists it, and what of that has to be asked about again.

use futures_util::TryStreamExt;
use opendal::Operator;

use super::wire::{Call, Verdict};
use super::{Contents, Listed};

/// A listing that is longer says nothing of use.
pub(super) const MOST_LISTED: usize = 1_000_000;

/// A listing, and what of it has to be asked about again.
#[derive(Default)]
pub(super) struct Found {
    pub(super) contents: Contents,
    /// Folders that were taken for empty since they weren't there, by that answer.
    pub(super) absent: Vec<(String, Verdict)>,
}

/// What a store lists by itself.
pub(super) async fn swept(operator: &Operator, call: &Call, folder: String) -> opendal::Result<Option<Found>> {
    call.note(None);
    let mut lister = operator.lister_with(&folder).recursive(true).await?;
    let mut found = Found::default();
    let Contents { objects, folders } = &mut found.contents;
    while let Some(entry) = lister.try_next().await? {
        if entry.metadata().is_file() {
            objects.push(Listed { key: entry.path().to_owned(), size: entry.metadata().content_length() });
        } else if entry.metadata().is_dir() && entry.path() != folder {
            folders.push(entry.path().to_owned());
        }
        if objects.len() + folders.len() > MOST_LISTED {
            return Ok(None);
        }
    }
    if objects.is_empty() {
        found.absent.extend(call.verdict().map(|verdict| (folder, verdict)));
    }
    Ok(Some(found))
}

/// Folder by folder: Dropbox's entries come with their last names only, and of WebDAV OpenDAL's own walk forgets a folder whose
/// listing broke off, without a word.
pub(super) async fn walked(operator: &Operator, call: &Call, folder: String) -> opendal::Result<Option<Found>> {
    let (mut left, mut found) = (vec![folder], Found::default());
    while let Some(folder) = left.pop() {
        let mut inside = listed_in(operator, call, &folder).await?;
        if inside.is_some() && call.verdict().is_some() {
            // Once more: what stands between may say 404 for a moment.
            inside = listed_in(operator, call, &folder).await?;
        }
        let Some(Contents { objects, folders }) = inside else { return Ok(None) };
        left.extend(folders.iter().cloned());
        found.contents.objects.extend(objects);
        found.contents.folders.extend(folders);
        if found.contents.objects.len() + found.contents.folders.len() > MOST_LISTED {
            return Ok(None);
        }
        found.absent.extend(call.verdict().map(|verdict| (folder, verdict)));
    }
    Ok(Some(found))
}

/// What lies in one folder; nothing if that is too much. The call's verdict says whether the folder was there.
async fn listed_in(operator: &Operator, call: &Call, folder: &str) -> opendal::Result<Option<Contents>> {
    call.note(None);
    let mut lister = operator.lister(folder).await?;
    let mut inside = Contents::default();
    while let Some(entry) = lister.try_next().await? {
        let name = entry.path().trim_start_matches(folder).trim_start_matches('/');
        if entry.metadata().is_dir() && !name.is_empty() {
            inside.folders.push(format!("{folder}{name}"));
        } else if entry.metadata().is_file() {
            inside.objects.push(Listed { key: format!("{folder}{name}"), size: entry.metadata().content_length() });
        }
        if inside.objects.len() + inside.folders.len() > MOST_LISTED {
            return Ok(None);
        }
    }
    Ok(Some(inside))
}

/// By an answer that is about this very folder: OpenDAL takes a 404, whoever says it, for a folder in which nothing is.
pub(super) async fn is_surely_empty(
    operator: &Operator,
    call: &Call,
    folder: &str,
    is_named: bool,
) -> opendal::Result<bool> {
    call.note(None);
    let mut lister = operator.lister(folder).await?;
    let mut is_there = !is_named;
    while let Some(entry) = lister.try_next().await? {
        if entry.path() != folder {
            return Ok(false);
        }
        is_there = true;
    }
    Ok(is_there && call.verdict().is_none())
}
