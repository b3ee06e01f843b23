//! Where databases and backups lie: on what kind of file system, mounted how, and whether there is room.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags};

use super::{Finding, ok, problem, warning};
use crate::disk::{self, Context};
use crate::engine::create::OVERHEAD;
use crate::engine::{Engine, bytes};
use crate::sqlite::identify;

/// Shares of other hosts, or of the host of a virtual machine, where SQLite's locks or its WAL are not to be trusted
/// (sqlite.org/wal.html); `fuse` may be anything.
const SHARES: [&str; 16] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "virtiofs",
    "vboxsf",
    "fakeowner",
    "ceph",
    "afs",
    "lustre",
    "gpfs",
    "ocfs2",
    "prl_fs",
    "fuse",
];
/// What is gone after the next start of the machine.
const FLEETING: [&str; 2] = ["tmpfs", "ramfs"];
/// What is gone with the container.
const LAYERS: [&str; 2] = ["overlay", "aufs"];

/// What is mounted.
pub(super) struct Mounts(Vec<Mount>);

struct Mount {
    point: PathBuf,
    kind: String,
}

impl Mounts {
    /// As `/proc/self/mountinfo` has it (proc(5)).
    pub(super) fn of(text: &str) -> Self {
        let mount = |line: &str| {
            let (fields, source) = line.split_once(" - ")?;
            let point = unescaped(fields.split(' ').nth(4)?).into();
            Some(Mount { point, kind: source.split(' ').next()?.to_owned() })
        };
        Self(text.lines().filter_map(mount).collect())
    }

    /// The kind of file system that a path lies on. Of mounts on one point the last one counts.
    fn kind(&self, path: &Path) -> Option<&str> {
        let above = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        above.max_by_key(|mount| mount.point.components().count()).map(|mount| mount.kind.as_str())
    }

    pub(super) fn of_database(&self, about: &str, path: &Path) -> Vec<Finding> {
        let folder = disk::parent(path);
        let mut findings: Vec<_> = self.alone(about, path).into_iter().collect();
        findings.extend(self.share(about, path));
        if is_read_only(path) || is_read_only(folder) {
            let found = format!(
                "{} is mounted read-only, and SQLite has to write -wal and -shm beside a database",
                folder.display()
            );
            findings.push(problem(about, found, Some("mount the folder without `:ro`".to_owned())));
        } else if let Err(error) = rustix::fs::access(folder, Access::WRITE_OK).to("write in", folder) {
            let fix = "run the service as the user who owns it: SQLite needs -wal and -shm beside a database";
            findings.push(problem(about, error.to_string(), Some(fix.to_owned())));
        }
        if self.kind(path).is_some_and(|kind| FLEETING.contains(&kind)) {
            let found = format!("{} lies in memory, and is gone after the next start", path.display());
            findings.push(warning(about, found, Some("let the app keep it on a disk".to_owned())));
        }
        findings
    }

    /// A single file as a mount hides the `-wal` of the app from us, and commits are lost. Since Linux 5.8 `identify` refuses it before.
    fn alone(&self, about: &str, path: &Path) -> Option<Finding> {
        self.0.iter().any(|mount| mount.point == path).then(|| {
            let found = "the file itself is a mount, so the app's -wal beside it isn't seen and commits get lost";
            let fix = "mount the folder that holds the database, not the file";
            problem(about, found.to_owned(), Some(fix.to_owned()))
        })
    }

    fn share(&self, about: &str, path: &Path) -> Option<Finding> {
        let kind = self.kind(path)?;
        let is_share = SHARES.contains(&kind) || kind.starts_with("fuse.");
        is_share.then(|| {
            let found = format!("{} lies on {kind}, where locks and WAL only work within one host", path.display());
            warning(about, found, Some("use a local disk, and run the app and this on one host".to_owned()))
        })
    }
}

/// Blanks and the like stand there as octal numbers.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(code.map_or('\\', char::from));
        plain.push_str(if code.is_some() { &part[3..] } else { part });
    }
    plain
}

/// The folder in which it is to be made may be somebody else's.
fn not_yet(about: &str, root: &Path) -> Finding {
    let found = format!("{} isn't there yet", root.display());
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(there, Access::WRITE_OK).to("write in", there) {
        Ok(()) => warning(about, found, Some("the first backup makes it".to_owned())),
        Err(error) => problem(
            about,
            format!("{found}, and {error}"),
            Some(format!("make it, and chown it to the user of the service: {}", root.display())),
        ),
    }
}

fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

impl Engine {
    pub(super) fn directory(&self, mounts: &Mounts, findings: &mut Vec<Finding>) {
        let about = "backup directory";
        let root = self.store.root();
        let Ok(meta) = root.metadata() else { return findings.push(not_yet(about, root)) };
        let writable = rustix::fs::access(root, Access::WRITE_OK).to("write in", root);
        findings.push(match writable {
            _ if is_read_only(root) => problem(
                about,
                format!("{} is mounted read-only", root.display()),
                Some("mount it without `:ro`".to_owned()),
            ),
            Err(error) => problem(
                about,
                error.to_string(),
                Some(format!("chown it to the user of the service: {}", root.display())),
            ),
            Ok(()) if meta.mode() & 0o077 != 0 => warning(
                about,
                format!("{} can be entered by others (mode {:o})", root.display(), meta.mode() & 0o777),
                Some(format!("chmod 700 {}", root.display())),
            ),
            Ok(()) => ok(about, root.display().to_string()),
        });
        findings.extend(mounts.share(about, root));
        findings.extend(lost_with(about, mounts.kind(root)));
        let same =
            self.sources().into_iter().any(|source| source.path.metadata().is_ok_and(|live| live.dev() == meta.dev()));
        if same {
            findings.push(warning(
                about,
                "it lies on the disk of the live databases, and goes with it".to_owned(),
                Some("put BACKUP_DIRECTORY on another disk, or keep copies elsewhere".to_owned()),
            ));
        }
    }

    pub(super) fn space(&self) -> Vec<Finding> {
        let root = self.store.root();
        let there = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let live = self.live_bytes(Path::new("/"));
        let (kept, needed) = (self.settings_in_force().retention, self.room_for_backup());
        let full = u64::from(kept.daily + kept.weekly + kept.monthly + kept.manual + kept.pre_restore) * live;
        let mut findings = vec![match disk::free_space(there) {
            Err(error) => problem("space", error.to_string(), None),
            Ok(free) if free < (2 * live).max(needed) => {
                let severity = if free < needed { problem } else { warning };
                let found = format!("{} are free, and a backup takes {}", bytes(free), bytes(needed - OVERHEAD));
                severity("space", found, Some("make room".to_owned()))
            }
            Ok(free) => ok(
                "space",
                format!(
                    "{} free; a backup takes {}, all that are kept up to {}",
                    bytes(free),
                    bytes(live),
                    bytes(full)
                ),
            ),
        }];
        findings.extend(self.space_to_restore());
        findings
    }

    /// Bytes of the live databases below that folder.
    fn live_bytes(&self, folder: &Path) -> u64 {
        let sources = self.sources().into_iter().filter(|source| source.path.starts_with(folder));
        sources.filter_map(|source| identify(&source).ok()).map(|live| live.size).sum()
    }

    /// A restore writes up to all pages into the WAL of a database before they come into the file.
    fn space_to_restore(&self) -> Option<Finding> {
        let about = "space to restore";
        self.sources().iter().find_map(|source| {
            let folder = disk::parent(&source.path);
            let (needed, free) = (self.live_bytes(folder), disk::free_space(folder).ok()?);
            let found = || {
                format!("{} are free in {}, and a restore may take {}", bytes(free), folder.display(), bytes(needed))
            };
            (free < needed)
                .then(|| warning(about, found(), Some("make room on the disk of the live databases".to_owned())))
        })
    }
}

fn lost_with(about: &str, kind: Option<&str>) -> Option<Finding> {
    let kind = kind?;
    let what = if FLEETING.contains(&kind) {
        "it lies in memory (tmpfs), and backups are gone after the next start"
    } else if LAYERS.contains(&kind) {
        "it lies within the container, and backups are gone with it"
    } else {
        return None;
    };
    Some(warning(about, what.to_owned(), Some("put BACKUP_DIRECTORY on a volume that stays".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                          30 22 0:40 / /data rw,nosuid - virtiofs host rw\n\
                          31 30 8:2 / /data/my\\040disk rw - xfs /dev/sdb rw\n\
                          32 22 0:44 / /mnt/nas rw - fuse.sshfs nas: rw\n\
                          33 22 0:45 /a.db /srv/a.db rw - ext4 /dev/sda1 rw\n\
                          34 22 0:46 / /tmp rw - ext4 /dev/sda1 rw\n\
                          35 22 0:47 / /tmp rw - tmpfs tmpfs rw\n";

    #[test]
    fn a_path_lies_on_the_nearest_and_last_mount_above_it() {
        let mounts = Mounts::of(MOUNTS);
        for (path, kind) in [
            ("/srv/b.db", "ext4"),
            ("/data/a.db", "virtiofs"),
            ("/database/a.db", "ext4"),
            ("/data/my disk/a.db", "xfs"),
            ("/mnt/nas/backups", "fuse.sshfs"),
            ("/tmp/x", "tmpfs"),
        ] {
            assert_eq!(mounts.kind(Path::new(path)), Some(kind), "{path}");
        }
        let about = |path: &str| mounts.share("x", Path::new(path)).is_some();
        assert!(about("/data/a.db") && about("/mnt/nas/backups") && !about("/srv/b.db"));
        let alone = |path: &str| mounts.alone("x", Path::new(path)).is_some();
        assert!(alone("/srv/a.db") && !alone("/srv/b.db"));
    }

    #[test]
    fn octal_numbers_are_letters() {
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescaped("/plain\\9"), "/plain\\9");
    }
}
