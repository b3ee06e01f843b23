//! `doctor`: looks at everything around the backups that tends to be wrong, one fix a finding. Changes nothing, and reads no more
//! of a live database than its header.

mod access;
mod place;
mod time;
mod user;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Engine, bytes};
use crate::backup::ReplicaName;
use crate::backup::replica::ChainsThere;
use crate::sqlite::{self, Source, identify, peek, situation};

use place::Mounts;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, ToSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub about: String,
    /// What was found.
    pub found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub fix: Option<String>,
}

/// Segments that make up a database in a replica: where runs of remnants are merged there are fewer.
const LONG: usize = 200;

impl Engine {
    /// All that is checked, and what the status warns of.
    pub fn doctor(&self) -> Vec<Finding> {
        let mut findings = self.checks();
        match self.status() {
            Ok(status) => {
                findings.extend(status.warnings.into_iter().map(|it| warning(it.code, it.detail, None)));
                findings.extend(status.replicas.iter().filter_map(|it| long(&it.name, it.chains?)));
            }
            Err(error) => findings.push(problem("backups", error.to_string(), None)),
        }
        findings
    }

    /// Looks at uid, gid and capabilities, time zone and clock, SQLite, keys, secrets and proxies, the live databases, the backup
    /// directory, mounts and space.
    pub fn checks(&self) -> Vec<Finding> {
        let mounts = Mounts::of(&proc("mountinfo"));
        let mut findings = self.user(&proc("status"));
        findings.extend(self.times());
        findings.push(library());
        findings.extend(self.access());
        for source in self.sources() {
            self.database(&source, &mounts, &mut findings);
        }
        self.directory(&mounts, &mut findings);
        findings.extend(self.space());
        findings.extend(self.encryption());
        findings
    }

    fn database(&self, source: &Source, mounts: &Mounts, findings: &mut Vec<Finding>) {
        let about = format!("database `{}`", source.name);
        match identify(source) {
            Err(sqlite::Error::Disk(error)) if error.is_read_only() => {
                let mut found = mounts.of_database(&about, &source.path);
                if !found.iter().any(|finding| finding.severity == Severity::Problem) {
                    found.push(problem(&about, error.to_string(), None));
                }
                return findings.extend(found);
            }
            Err(error) => return findings.push(problem(&about, error.to_string(), None)),
            Ok(_) => {}
        }
        findings.extend(mounts.of_database(&about, &source.path));
        let (asked, path) = (peek(&source.path), self.led_to(source));
        findings.push(match asked.map_err(|error| situation(&source.name, error)) {
            Ok(header) if header.is_wal => {
                let found =
                    format!("{path}, WAL mode, pages of {} bytes: backups keep nobody waiting", header.page_size);
                ok(&about, found)
            }
            Ok(header) => warning(
                &about,
                format!(
                    "{path}, journal mode rollback, pages of {} bytes: the app's writers wait while it is copied",
                    header.page_size
                ),
                Some("let the app run PRAGMA journal_mode=WAL once".to_owned()),
            ),
            // The look leaves the WAL out, so a checkpoint that is under way, or was cut short, looks like damage. It
            // never touches what makes a file a database, so that one stays a problem.
            Err(sqlite::Error::Corrupt { .. }) => warning(
                &about,
                format!("{path} can't be looked at from outside just now"),
                Some("`create` checks it properly".to_owned()),
            ),
            Err(error) => problem(&about, error.to_string(), None),
        });
    }

    /// Where it lies, and by which link it is named.
    fn led_to(&self, source: &Source) -> String {
        match self.config.databases.get(&source.name) {
            Some(named) if *named != source.path => format!("{} (by {})", source.path.display(), named.display()),
            _ => source.path.display().to_string(),
        }
    }
}

/// As long as it is, each segment is one more that may be lost, and one more to be read before anything is back.
fn long(name: &ReplicaName, ChainsThere { longest, remnants, bytes: size }: ChainsThere) -> Option<Finding> {
    let found = format!(
        "up to {longest} segments make up a database there, and {} of dropped backups are kept for it in {remnants} remnants",
        bytes(size)
    );
    let fix = "let an identity be at hand (BACKUP_ENCRYPTION_IDENTITY_FILE), so that they can be merged where a backup isn't here any more; \
               or keep no more there than here; a new chain begins after 400";
    (longest > LONG).then(|| warning(&format!("replica `{name}`"), found, Some(fix.to_owned())))
}

fn library() -> Finding {
    let found = format!("SQLite {}", rusqlite::version());
    match sqlite::assert_version() {
        Ok(()) => ok("library", found + "; let the app's own be 3.51.3 or newer too (WAL-reset bug)"),
        Err(error) => problem("library", error, None),
    }
}

/// What the kernel says of this process; nothing where it says nothing.
fn proc(file: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default()
}

fn ok(about: &str, found: impl Into<String>) -> Finding {
    Finding { severity: Severity::Ok, about: about.to_owned(), found: found.into(), fix: None }
}

fn warning(about: &str, found: String, fix: Option<String>) -> Finding {
    Finding { severity: Severity::Warning, about: about.to_owned(), found, fix }
}

fn problem(about: &str, found: String, fix: Option<String>) -> Finding {
    Finding { severity: Severity::Problem, about: about.to_owned(), found, fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_chain_wants_a_look() {
        let of = |longest| long(&"offsite".parse().unwrap(), ChainsThere { longest, remnants: 180, bytes: 3_000_000 });
        assert_eq!(of(LONG), None);
        let finding = of(LONG + 1).unwrap();
        assert!(finding.severity == Severity::Warning && finding.about.contains("offsite"), "{finding:?}");
        assert!(["201", "180", "3.00 MB"].iter().all(|it| finding.found.contains(it)), "{finding:?}");
    }
}
