//! The folders of a backup directory and the names in them. Paths come from parsed ids and names alone [P9].

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::backup::{Backup, BackupId, DatabaseName, Form, Tier};
use crate::disk::{self, Context};

/// A backup directory.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A file below the backup directory, and what its name says.
#[derive(Clone, Debug)]
pub struct Found {
    /// Path below the backup directory.
    pub file: String,
    /// Bytes.
    pub size: u64,
    /// Device and inode.
    pub inode: (u64, u64),
    /// What the name means, when it is in our grammar.
    pub name: Option<(BackupId, DatabaseName, Form)>,
}

impl Found {
    /// A copy that failed its check, kept for a look.
    pub fn is_corrupt(&self) -> bool {
        is_corrupt(&self.file)
    }
}

impl Store {
    /// The store at `root`; nothing is touched.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The backup directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folders that are missing.
    pub fn make_dirs(&self) -> Result<(), disk::Error> {
        disk::make_dirs(&self.root)?;
        Tier::ALL.into_iter().try_for_each(|tier| disk::make_dir(&self.root.join(tier.name())))
    }

    /// Where a database of a backup lies.
    pub fn path(&self, id: &BackupId, name: &DatabaseName, form: Form) -> PathBuf {
        self.root.join(id.file(name, form))
    }

    /// Where each file of a backup lies.
    pub fn paths<'a>(&'a self, backup: &'a Backup) -> impl Iterator<Item = (&'a DatabaseName, PathBuf)> + 'a {
        backup.databases.iter().map(|(name, copy)| (name, self.path(&backup.id, name, copy.form)))
    }

    /// Whether all files of a backup are there, as long as they were: a look at names and sizes.
    pub fn is_there(&self, backup: &Backup) -> Result<bool, disk::Error> {
        for (name, path) in self.paths(backup) {
            let recorded = backup.databases.get(name).map(|copy| copy.stored_size);
            match path.symlink_metadata().to("look at", &path) {
                Ok(meta) if meta.is_file() && Some(meta.len()) == recorded => {}
                Err(error) if !error.is_missing() => return Err(error),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether a file of that id lies about, whatever the catalog says.
    pub fn has(&self, id: &BackupId, names: &[DatabaseName]) -> bool {
        names.iter().any(|name| self.form_of(id, name).is_some())
    }

    /// In which form a file of that name lies about.
    pub fn form_of(&self, id: &BackupId, name: &DatabaseName) -> Option<Form> {
        Form::ALL.into_iter().find(|form| self.path(id, name, *form).symlink_metadata().is_ok())
    }

    /// A free name for a copy of corrupt data that lies there under `plain`, in another form.
    pub fn corrupt_path(&self, plain: &str, form: Form) -> PathBuf {
        let layers = form.ending().trim_start_matches(Form::Plain.ending());
        let stem = plain.trim_end_matches(CORRUPT);
        let named = |number: u32| match number {
            1 => format!("{stem}{CORRUPT}{layers}"),
            _ => format!("{stem}.{number}{CORRUPT}{layers}"),
        };
        let free = (1..).map(|number| self.root.join(named(number))).find(|path| path.symlink_metadata().is_err());
        free.unwrap_or_else(|| self.root.join(named(1)))
    }

    /// Makes the folders of these tiers durable.
    pub fn sync(&self, tiers: impl IntoIterator<Item = Tier>) -> Result<(), disk::Error> {
        tiers.into_iter().try_for_each(|tier| disk::sync_dir(&self.root.join(tier.name())))
    }

    /// Every file in the tier folders, but for partials.
    pub fn scan(&self) -> Result<Vec<Found>, disk::Error> {
        let mut found = Vec::new();
        for tier in Tier::ALL {
            for (name, meta) in entries(&self.root.join(tier.name()))? {
                if is_partial(&name) {
                    continue;
                }
                found.push(Found {
                    name: parse(tier, &name).filter(|_| meta.is_file()),
                    file: format!("{tier}/{name}"),
                    size: meta.len(),
                    inode: inode(&meta),
                });
            }
        }
        Ok(found)
    }

    /// Removes partials of operations that ended without publishing them; only whoever holds `.lock` may call it.
    pub fn sweep(&self) -> Result<Vec<String>, disk::Error> {
        let mut swept = Vec::new();
        let tiers = Tier::ALL.into_iter().map(|tier| self.root.join(tier.name()));
        for dir in std::iter::once(self.root.clone()).chain(tiers) {
            for (name, meta) in entries(&dir)? {
                // One that can't be removed is in the way of its own name only.
                if is_partial(&name) && !meta.is_dir() && disk::remove(&dir.join(&name)).is_ok() {
                    swept.push(name);
                }
            }
        }
        Ok(swept)
    }
}

/// Device and inode of a file.
pub fn inode(meta: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

/// How the name of a copy ends that failed its check.
const CORRUPT: &str = ".corrupt";

/// The name of a copy that failed its check, in whatever form.
pub fn is_corrupt(file: &str) -> bool {
    file.trim_end_matches(".age").trim_end_matches(".zst").ends_with(CORRUPT)
}

fn is_partial(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".partial")
}

fn parse(tier: Tier, name: &str) -> Option<(BackupId, DatabaseName, Form)> {
    let ends = |form: Form| Some((name.strip_suffix(form.ending())?.strip_suffix('.')?, form));
    let (stem, form) = Form::ALL.into_iter().find_map(ends)?;
    let (database, stem) = stem.split_once('-')?;
    Some((BackupId::from_stem(tier, stem)?, DatabaseName::from_str(database).ok()?, form))
}

/// Names and kinds in a folder; a folder that isn't there is empty.
fn entries(dir: &Path) -> Result<Vec<(String, std::fs::Metadata)>, disk::Error> {
    let listing = match std::fs::read_dir(dir).to("list", dir) {
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.to("list", dir)?;
        // A file that rotation has just removed isn't there any more: not an error.
        if let Ok(meta) = entry.metadata() {
            found.push((entry.file_name().to_string_lossy().into_owned(), meta));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back_from_what_they_are_built_of() {
        let id: BackupId = "weekly-2026-W02".parse().unwrap();
        let name: DatabaseName = "a_b".parse().unwrap();
        assert_eq!(id.file(&name, Form::Plain), "weekly/a_b-2026-W02.db");
        assert_eq!(id.file(&name, Form::CompressedEncrypted), "weekly/a_b-2026-W02.db.zst.age");
        for form in Form::ALL {
            let file = id.file(&name, form);
            assert_eq!(parse(Tier::Weekly, &file["weekly/".len()..]), Some((id, name.clone(), form)));
        }
        for strange in ["a-b-2026-W02.db", "a_b-2026-W02.db.corrupt", "a_b-2026-01.db", "-2026-W02.db", "notes.txt"] {
            assert_eq!(parse(Tier::Weekly, strange), None, "{strange}");
        }
        for strange in ["a_b-2026-W02.zst", "a_b-2026-W02.db.age.zst", "a_b-2026-W02.db.gz", "a_b-2026-W02db"] {
            assert_eq!(parse(Tier::Weekly, strange), None, "{strange}");
        }
    }

    #[test]
    fn a_corrupt_copy_is_known_in_every_form_and_gets_a_free_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        for form in Form::ALL {
            let path = store.corrupt_path("daily/a-2026-01-08.db.corrupt", form);
            assert!(is_corrupt(path.to_str().unwrap()), "{path:?}");
        }
        std::fs::create_dir(dir.path().join("daily")).unwrap();
        std::fs::write(dir.path().join("daily/a-2026-01-08.db.corrupt.zst"), "").unwrap();
        let free = store.corrupt_path("daily/a-2026-01-08.db.corrupt", Form::Compressed);
        assert!(free.ends_with("daily/a-2026-01-08.db.2.corrupt.zst"), "{free:?}");
        assert!(!is_corrupt("daily/a-2026-01-08.db.zst.age"));
    }
}
