//! `doctor`: whether this runs as the user who owns the live databases. Another one makes `-wal` and `-shm` files that the app
//! can't write, and then it is the app that fails.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Finding, ok, problem, warning};
use crate::backup::DatabaseName;
use crate::engine::Engine;

/// The first capability, by which root gives the files that SQLite makes to the database's owner.
const CAP_CHOWN: u64 = 1;

impl Engine {
    pub(super) fn user(&self) -> Finding {
        let uid = rustix::process::geteuid().as_raw();
        let mut seen = false;
        for source in self.sources() {
            match source.path.metadata() {
                Ok(meta) if meta.uid() != uid => return another(uid, &source.name, &meta),
                Ok(_) => seen = true,
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return shut_out(uid, &source.name, &source.path);
                }
                // What is missing is told of the database itself.
                Err(_) => {}
            }
        }
        let owner =
            if seen { "the owner of the live databases" } else { "and no live database is there to compare with" };
        ok("user", format!("uid {uid}, {owner}"))
    }
}

fn another(uid: u32, name: &DatabaseName, meta: &Metadata) -> Finding {
    let found = format!("this runs as uid {uid}, and `{name}` belongs to uid {}", meta.uid());
    let fix = format!("{}; another uid makes -wal and -shm files that the app can't write", run_as(meta));
    // Root with its capabilities hands the files to the database's owner; SQLite does that itself.
    if uid == 0 && gives_away() { warning("user", found, Some(fix)) } else { problem("user", found, Some(fix)) }
}

/// The folder in the way is most likely the app's.
fn shut_out(uid: u32, name: &DatabaseName, path: &Path) -> Finding {
    let folder = path.ancestors().skip(1).find_map(|folder| Some((folder, folder.metadata().ok()?)));
    let found = format!("this runs as uid {uid}, which may not even look at `{name}`");
    let fix = folder.map(|(folder, meta)| format!("{}, who owns {}", run_as(&meta), folder.display()));
    problem("user", found, fix)
}

fn run_as(meta: &Metadata) -> String {
    format!("run the service as the app's user, in compose: user: \"{}:{}\"", meta.uid(), meta.gid())
}

/// Whether root still has what makes it root; `cap_drop: [ALL]` takes it away.
fn gives_away() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set & CAP_CHOWN != 0)
}
