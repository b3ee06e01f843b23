//! `doctor`: looks at everything around the backups that tends to be wrong, one fix a finding. Changes nothing.

mod user;

use std::path::Path;

use serde::Serialize;

use super::create::OVERHEAD;
use super::{Engine, bytes};
use crate::backup::settings::Settings;
use crate::disk::{self, Context};
use crate::sqlite::{self, Source, identify, peek_mode, situation};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Works, but not for ever or not for everyone.
    Warning,
    /// Backups fail, or are in danger.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub about: String,
    /// What was found.
    pub found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// File systems on which SQLite's locks or WAL are not to be trusted between hosts (statfs(2), sqlite.org/wal.html).
const NETWORK: [(i64, &str); 6] = [
    (0x6969, "nfs"),
    (0x517B, "smb"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
];

impl Engine {
    /// What of it can harm the app: another user, a single file as a mount. Looked at whenever `serve` starts.
    pub fn hazards(&self) -> Vec<Finding> {
        let alone = |source: &Source| mounted_alone(&format!("database `{}`", source.name), &source.path);
        let mounts = self.sources().iter().filter_map(alone).collect::<Vec<_>>();
        std::iter::once(self.user()).chain(mounts).filter(|finding| finding.severity != Severity::Ok).collect()
    }

    /// Looks at uid, time zone, SQLite, keys, the live databases, the backup directory, space and the catalog.
    pub fn doctor(&self) -> Vec<Finding> {
        let mut findings = vec![self.user(), self.zone(), library(), self.access()];
        for source in self.sources() {
            self.database(&source, &mut findings);
        }
        self.directory(&mut findings);
        findings.push(self.space());
        findings.extend(self.encryption());
        match self.status() {
            Ok(status) => findings.extend(status.warnings.into_iter().map(|it| warning(it.code, it.detail, None))),
            Err(error) => findings.push(problem("backups", error.to_string(), None)),
        }
        findings
    }

    fn access(&self) -> Finding {
        let access = &self.config.access;
        if access.key.is_none() {
            let fix = "set BACKUP_JWT_SECRET_FILE to the app's secret, or BACKUP_JWT_PUBLIC_KEY_FILE and BACKUP_JWT_ALGORITHM";
            return warning(
                "access",
                "no key for tokens is set, so `serve` doesn't start".to_owned(),
                Some(fix.to_owned()),
            );
        }
        if access.admits_all_tokens() {
            let found = "any token without an audience that the app's secret signs is taken, whatever it was meant for";
            let fix =
                "set BACKUP_JWT_AUDIENCE, and let the app put that `aud` into the tokens that are for this service";
            return warning("access", found.to_owned(), Some(fix.to_owned()));
        }
        ok("access", "only tokens by the configured key are taken".to_owned())
    }

    fn zone(&self) -> Finding {
        let zone = self.settings_in_force().schedule.timezone;
        let saved = self.saved().is_ok_and(|saved| saved.schedule.timezone.is_some());
        let local = self.clock.now().with_timezone(&zone).format("%Y-%m-%d %H:%M");
        if super::status::clock_is_implausible(self.clock.now()) {
            return problem("time", format!("the clock says {local}"), Some("set the machine's clock".to_owned()));
        }
        match self.config.origins.get("schedule.timezone") {
            Some(crate::config::Origin::Default) if !saved => warning(
                "time",
                format!("no time zone is set, so days are counted in UTC, where it is {local}"),
                Some("set BACKUP_TIMEZONE, for example to Europe/Berlin (UTC is fine too, but say so)".to_owned()),
            ),
            _ => ok("time", format!("{zone}, where it is {local}")),
        }
    }

    /// Saved ones that can't be read are told by the status.
    fn settings_in_force(&self) -> Settings {
        self.settings().unwrap_or(self.config.settings)
    }

    fn database(&self, source: &Source, findings: &mut Vec<Finding>) {
        let about = format!("database `{}`", source.name);
        if let Err(error) = identify(source) {
            return findings.push(problem(&about, error.to_string(), None));
        }
        findings.extend(mounted_alone(&about, &source.path));
        findings.extend(network(&about, &source.path));
        let asked = peek_mode(&source.path);
        findings.push(match asked.map_err(|error| situation(&source.name, error)) {
            Ok("wal") => ok(&about, format!("{}, WAL mode: backups keep nobody waiting", source.path.display())),
            Ok(mode) => warning(
                &about,
                format!("{}, journal mode {mode}: the app's writers wait while it is copied", source.path.display()),
                Some("let the app run PRAGMA journal_mode=WAL once".to_owned()),
            ),
            // The look leaves the WAL out, so a checkpoint that is under way, or was cut short, looks like damage. It
            // never touches what makes a file a database, so that one stays a problem.
            Err(sqlite::Error::Corrupt { .. }) => warning(
                &about,
                format!("{} can't be looked at from outside just now", source.path.display()),
                Some("`create` checks it properly".to_owned()),
            ),
            Err(error) => problem(&about, error.to_string(), None),
        });
    }

    fn directory(&self, findings: &mut Vec<Finding>) {
        use std::os::unix::fs::MetadataExt;
        let about = "backup directory";
        let root = self.store.root();
        let Ok(meta) = root.metadata() else { return findings.push(not_yet(about, root)) };
        let writable = rustix::fs::access(root, rustix::fs::Access::WRITE_OK).to("write in", root);
        findings.push(match writable {
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
        findings.extend(network(about, root));
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

    /// That no identity is at hand is told by the status.
    fn encryption(&self) -> Vec<Finding> {
        let (about, codec) = ("encryption", &self.config.codec);
        let mut findings = Vec::new();
        if codec.encrypts {
            let found =
                format!("copies are encrypted to {} recipients ({})", codec.recipients.len(), codec.form().ending());
            findings.push(ok(about, found));
        } else if !codec.recipients.is_empty() {
            let found = "recipients are set, but copies lie unencrypted".to_owned();
            findings.push(warning(about, found, Some("set BACKUP_ENCRYPT_LOCAL=true".to_owned())));
        }
        let Some(path) = &self.config.identity_file else { return findings };
        findings.extend(self.identity(path));
        findings
    }

    /// The identity is as precious as all backups together.
    fn identity(&self, path: &Path) -> Vec<Finding> {
        use std::os::unix::fs::MetadataExt;
        let (about, shown) = ("identity", path.display());
        let mut findings = Vec::new();
        if let Ok(mode) = path.metadata().map(|meta| meta.mode() & 0o777)
            && mode & 0o077 != 0
        {
            let found = format!("{shown} can be read by others (mode {mode:o})");
            findings.push(warning(about, found, Some(format!("chmod 600 {shown}"))));
        }
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if real(path).starts_with(real(self.store.root())) {
            let found =
                format!("{shown} lies beside the backups: who has them can decrypt them, and it goes when they go");
            let fix = "move it to another disk, and keep a printed copy elsewhere".to_owned();
            findings.push(warning(about, found, Some(fix)));
        }
        if findings.is_empty() {
            findings.push(ok(about, format!("{shown}, for its owner only")));
        }
        findings
    }

    fn space(&self) -> Finding {
        let root = self.store.root();
        let there = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let live: u64 = self.sources().iter().filter_map(|source| identify(source).ok()).map(|live| live.size).sum();
        let (kept, needed) = (self.settings_in_force().retention, self.room_for_backup());
        let full = u64::from(kept.daily + kept.weekly + kept.monthly + kept.manual + kept.pre_restore) * live;
        match disk::free_space(there) {
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
        }
    }
}

/// The folder in which it is to be made may be somebody else's.
fn not_yet(about: &str, root: &Path) -> Finding {
    let found = format!("{} isn't there yet", root.display());
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(there, rustix::fs::Access::WRITE_OK).to("write in", there) {
        Ok(()) => warning(about, found, Some("the first backup makes it".to_owned())),
        Err(error) => problem(
            about,
            format!("{found}, and {error}"),
            Some(format!("make it, and chown it to the user of the service: {}", root.display())),
        ),
    }
}

fn library() -> Finding {
    let found = format!("SQLite {}", rusqlite::version());
    match sqlite::assert_version() {
        Ok(()) => ok("library", found + "; let the app's own be 3.51.3 or newer too (WAL-reset bug)"),
        Err(error) => problem("library", error, None),
    }
}

/// A single file as a mount hides the `-wal` of the app from us: commits are lost, and nothing says so.
fn mounted_alone(about: &str, path: &Path) -> Option<Finding> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let point = path.to_string_lossy().replace(' ', "\\040");
    let alone = mounts.lines().any(|line| line.split(' ').nth(4) == Some(point.as_str()));
    alone.then(|| {
        problem(
            about,
            "the file itself is a mount, so the app's -wal beside it isn't seen and commits get lost".to_owned(),
            Some("mount the folder that holds the database, not the file".to_owned()),
        )
    })
}

fn network(about: &str, path: &Path) -> Option<Finding> {
    let kind = rustix::fs::statfs(path).ok()?.f_type as i64;
    let (_, name) = NETWORK.iter().find(|(magic, _)| *magic == kind)?;
    Some(warning(
        about,
        format!("{} lies on {name}, where locks and WAL only work within one host", path.display()),
        Some("use a local disk".to_owned()),
    ))
}

fn ok(about: &str, found: String) -> Finding {
    Finding { severity: Severity::Ok, about: about.to_owned(), found, fix: None }
}

fn warning(about: &str, found: String, fix: Option<String>) -> Finding {
    Finding { severity: Severity::Warning, about: about.to_owned(), found, fix }
}

fn problem(about: &str, found: String, fix: Option<String>) -> Finding {
    Finding { severity: Severity::Problem, about: about.to_owned(), found, fix }
}
