//! Writing into a folder, here or mounted here: private, durable, and never the folder itself made anew, for one that
//! isn't mounted looks as if it were empty.

use std::io::{self, Write};
use std::path::Path;

use super::error::Error;
use crate::disk::{self, Context, Partial};

/// Whether the folder itself is there.
pub(super) fn stand(root: &Path) -> Result<(), Error> {
    match std::fs::metadata(root) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Error::Refused(format!("{} is no folder; set the URL to one", root.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Unreachable(format!(
            "the folder {} is not there; mount what it lies on, or make it once by hand: it is never made here, for what is not \
             mounted looks empty",
            root.display()
        ))),
        Err(error) => Err::<(), _>(error).to("look at", root).map_err(of_disk),
    }
}

/// A file under its key, begun.
pub(super) fn begin(root: &Path, key: &str) -> Result<Partial, Error> {
    stand(root)?;
    let target = root.join(key);
    let begun = disk::make_dirs(disk::parent(&target)).and_then(|()| {
        disk::remove(&disk::partial_path(&target))?;
        Partial::create(&target)
    });
    begun.map_err(of_disk)
}

/// Writes more of it.
pub(super) fn write(partial: &Partial, bytes: &[u8]) -> Result<(), Error> {
    let mut file = partial.file();
    file.write_all(bytes).to("write", partial.path()).map_err(of_disk)
}

/// Makes it durable under its key, in place of what was there.
pub(super) fn publish(partial: Partial) -> Result<(), Error> {
    let folder = disk::parent(partial.target()).to_owned();
    let published = partial.sync().and_then(|()| partial.publish_over()).and_then(|()| disk::sync_dir(&folder));
    published.map_err(of_disk)
}

/// Removes it, and its own folder if nothing else is in it.
pub(super) fn remove(root: &Path, key: &str) -> Result<(), Error> {
    stand(root)?;
    let target = root.join(key);
    disk::remove(&target).map_err(of_disk)?;
    if is_within_another(key) {
        disk::remove_empty_dir(disk::parent(&target));
    }
    Ok(())
}

/// Whether the folder that it lies in is itself in one: those at the top stay.
fn is_within_another(key: &str) -> bool {
    key.matches('/').count() > 1
}

fn of_disk(error: disk::Error) -> Error {
    if error.is_full() {
        Error::Full(format!("{error}; make room, or keep fewer backups there"))
    } else if error.is_denied() {
        Error::Refused(error.to_string())
    } else {
        Error::Unreachable(format!("{error}; it is tried again later"))
    }
}
