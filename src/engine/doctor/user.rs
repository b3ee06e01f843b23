//! Whether this runs as the app's user. What another one leaves beside a database, the app can't write.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Finding, ok, problem, warning};
use crate::backup::DatabaseName;
use crate::disk;
use crate::engine::Engine;
use crate::sqlite::Source;

/// Bits of `CapEff` (capabilities(7)): to give files away, and to pass over modes.
const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const ABOUT: &str = "user";
/// The folder's group is that of all files in it.
const SETGID: u32 = 0o2000;

/// As whom a process runs.
struct Who {
    uid: u32,
    gid: u32,
    /// Root may do everything, if nobody has taken that from it.
    is_mighty: bool,
}

impl Engine {
    /// `status` is that of /proc/self.
    pub(super) fn user(&self, status: &str) -> Vec<Finding> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let who = Who { uid, gid, is_mighty: has_both(status) };
        let sources = self.sources();
        let files = || sources.iter().filter_map(|source| Some((source, source.path.metadata().ok()?)));
        let is_hidden = |source: &&Source| matches!(source.path.metadata(), Err(error) if error.kind() == ErrorKind::PermissionDenied);
        if let Some(source) = sources.iter().find(is_hidden) {
            return vec![shut_out(uid, &source.name, &source.path)];
        }
        let wrong = files().find_map(|(source, file)| who.is_another(&source.name, &file));
        let grouped = || {
            files().find_map(|(source, file)| {
                let folder = disk::parent(&source.path).metadata().ok()?;
                who.is_of_another_group(&source.name, &file, &folder)
            })
        };
        match wrong.or_else(grouped) {
            Some(finding) => vec![finding],
            None if files().next().is_none() => vec![ok(ABOUT, format!("uid {uid}, gid {gid}"))],
            None => vec![ok(ABOUT, format!("uid {uid}, gid {gid}, the owner of the live databases"))],
        }
    }
}

/// Whether it has both capabilities; where nobody says so, it has.
fn has_both(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(u64::MAX);
    [CAP_CHOWN, CAP_DAC_OVERRIDE].into_iter().all(|bit| effective >> bit & 1 == 1)
}

/// The line that mends it.
fn compose(file: &Metadata) -> String {
    format!("run the service as the app's user, in compose: user: \"{}:{}\"", file.uid(), file.gid())
}

/// The folder in the way is most likely the app's.
fn shut_out(uid: u32, name: &DatabaseName, path: &Path) -> Finding {
    let folder = path.ancestors().skip(1).find_map(|folder| Some((folder, folder.metadata().ok()?)));
    let found = format!("this runs as uid {uid}, which may not even look at `{name}`");
    let fix = folder.map(|(folder, meta)| format!("{}, who owns {}", compose(&meta), folder.display()));
    problem(ABOUT, found, fix)
}

impl Who {
    fn is_another(&self, name: &DatabaseName, file: &Metadata) -> Option<Finding> {
        if file.uid() == self.uid {
            return None;
        }
        let found = format!("this runs as uid {}, and `{name}` belongs to uid {}", self.uid, file.uid());
        let fix = format!("{}; another uid makes -wal and -shm files that the app can't write", compose(file));
        Some(match (self.uid, self.is_mighty) {
            // Root with its capabilities hands the files to the database's owner; SQLite does that itself.
            (0, true) => warning(ABOUT, found, Some(fix)),
            (0, false) => {
                let found =
                    format!("{found}; without CAP_CHOWN and CAP_DAC_OVERRIDE (cap_drop) root can't hand files to it");
                problem(ABOUT, found, Some(fix))
            }
            _ => problem(ABOUT, found, Some(fix)),
        })
    }

    /// Only who comes in by the group feels it.
    fn is_of_another_group(&self, name: &DatabaseName, file: &Metadata, folder: &Metadata) -> Option<Finding> {
        let by_group = file.mode() & 0o060 != 0;
        if self.uid == 0 || !by_group || file.gid() == self.gid || folder.mode() & SETGID != 0 {
            return None;
        }
        let found = format!(
            "this runs with gid {}, and `{name}` belongs to gid {}: whoever comes to it by that group can't use -wal and -shm",
            self.gid,
            file.gid()
        );
        Some(warning(ABOUT, found, Some(compose(file))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert!(has_both("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(has_both("CapEff:\t0000000000000003") && has_both(""));
        for without in ["0", "1", "2", "000001fffffffffc"] {
            assert!(!has_both(&format!("CapEff:\t{without}")), "{without}");
        }
    }
}
