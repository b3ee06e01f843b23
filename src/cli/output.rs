//! What commands print: tables and sentences for people, JSON for scripts.

mod notices;
mod preview;
mod replica;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::backup::retention::{Plan, Step};
use crate::backup::{Backup, BackupId, DatabaseCopy, Form};
use crate::codec::Recipient;
use crate::config::{Origin, VARIABLES};
use crate::engine::doctor::{Finding, Severity};
use crate::engine::status::Status;
use crate::engine::{
    Changed, Created, Download, Drilled, Engine, First, JournalRehearsal, Rebuilt, Restored, Verification, bytes,
};
use crate::sqlite::Control;

/// Where a command's answer goes.
pub struct Output {
    json: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    pub fn error(&self, error: &anyhow::Error) {
        // Nobody may listen; the exit code says it too.
        let _ = writeln!(std::io::stderr(), "attendance-backup: {}", inert(&whole(error)));
    }

    /// What someone at a terminal answers. Nothing has begun yet, so a signal ends the process at once.
    pub fn ask(&self, question: &str) -> std::io::Result<String> {
        let mut screen = std::io::stderr();
        screen.write_all(question.as_bytes())?;
        screen.flush()?;
        let waits = Arc::new(AtomicBool::new(true));
        for signal in [SIGINT, SIGTERM] {
            // As a shell tells who was ended by a signal.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&waits))?;
        }
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        waits.store(false, Ordering::SeqCst);
        Ok(answer.trim().to_owned())
    }

    /// A bar on a terminal, fed by the control that is returned.
    pub fn progress(&self, control: &Control) -> (ProgressBar, Control) {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix:>12} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let told = bar.clone();
        let control = control.also(move |progress| {
            told.set_length(progress.total);
            told.set_prefix(progress.database.to_string());
            told.set_position(progress.done);
        });
        (bar, control)
    }

    fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        Ok(self.line(&serde_json::to_string_pretty(value)?)?)
    }

    /// A reader that went away (`list | head -1`) has what it wanted.
    fn line(&self, text: &str) -> std::io::Result<()> {
        match writeln!(std::io::stdout(), "{}", inert(text)) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    pub fn done(&self, text: &str, value: &serde_json::Value) -> anyhow::Result<()> {
        if self.json { self.json(value) } else { Ok(self.line(text)?) }
    }

    pub fn backup(&self, what: &str, backup: &Backup) -> anyhow::Result<()> {
        if self.json { self.json(backup) } else { Ok(self.line(&format!("{what} {}", backup.id))?) }
    }

    /// A backup of the databases that are there, if any is.
    pub fn first(&self, first: &First) -> anyhow::Result<()> {
        let awaited = first.awaited.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let Some(created) = &first.created else {
            let text = format!("nothing to back up yet: {awaited} aren't there, and no backup here has ever held them");
            return self.done(&text, &json!({ "awaited": first.awaited }));
        };
        self.created(created)?;
        if awaited.is_empty() || self.json {
            return Ok(());
        }
        Ok(self.line(&format!("  note: without {awaited}, which isn't there yet and was never in a backup here"))?)
    }

    fn created(&self, created: &Created) -> anyhow::Result<()> {
        if self.json {
            return self.json(&created.backup);
        }
        let backup = &created.backup;
        let parts: Vec<_> = backup.databases.iter().map(|(name, copy)| format!("{name} {}", copied(copy))).collect();
        let held = created.barrier.as_secs_f64() * 1000.0;
        self.line(&format!(
            "{}: {}; checked and read back, writers held for {held:.1} ms",
            backup.id,
            parts.join(", ")
        ))?;
        if backup.verified.ciphertext_only {
            self.line(&format!("  note: {CIPHERTEXT_ONLY}"))?;
        }
        for finding in &backup.findings {
            self.line(&format!("  note: {finding}"))?;
        }
        self.plan(&created.rotation)
    }

    pub fn restored(&self, restored: &Restored) -> anyhow::Result<()> {
        if self.json {
            return self.json(restored);
        }
        self.line(&match restored.pre_restore {
            Some(before) => format!("restored {}; what was there before is {before}", restored.subject),
            None => format!("restored {}; nothing was there before that could be kept as a backup", restored.subject),
        })?;
        for (name, database) in &restored.databases {
            let proof = match database.read_back {
                true => "each was read back and compared",
                false => {
                    "the app has written more to it already, or its page size is another now, so its structure was checked \
                     instead of each page"
                }
            };
            self.line(&format!("  {name}: {} of {} pages written; {proof}", database.written, database.pages))?;
        }
        for note in &restored.notes {
            self.line(&format!("  note: {note}"))?;
        }
        if restored.held_millis > 0 {
            self.line(&format!("  the app's writers were held for {} ms", restored.held_millis))?;
        }
        if restored.pre_restore.is_some() {
            self.line("`attendance-backup undo` takes it back")?;
        }
        Ok(())
    }

    fn plan(&self, plan: &Plan) -> anyhow::Result<()> {
        for step in &plan.steps {
            self.line(&match step {
                Step::Promote { from, to, why } => format!("  {from} becomes {to}: {why}"),
                Step::Drop { id, why } => format!("  {id} goes: {why}"),
            })?;
        }
        if let Some(frozen) = &plan.frozen {
            self.line(&format!("  rotation stands still: {frozen}"))?;
        }
        Ok(())
    }

    pub fn list(&self, engine: &Engine, backups: Vec<Backup>) -> anyhow::Result<()> {
        if self.json {
            return self.json(&json!({ "backups": backups }));
        }
        if backups.is_empty() {
            let directory = engine.config().directory.display();
            return Ok(self.line(&format!("no backups in {directory} yet; `create` takes one"))?);
        }
        let (fates, zone) = (engine.fates()?, engine.settings()?.schedule.timezone);
        let rows = backups.iter().map(|backup| {
            let fate = fates.get(&backup.id).map(ToString::to_string).unwrap_or_default();
            [backup.id.to_string(), local(backup.timestamp, zone), bytes(backup.stored_size()), state(backup), fate]
        });
        self.table(["ID", "TAKEN", "SIZE", "STATE", "KEPT"], rows.collect())
    }

    fn table<const N: usize>(&self, head: [&str; N], rows: Vec<[String; N]>) -> anyhow::Result<()> {
        let head = head.map(str::to_owned);
        let mut widths = [0; N];
        for row in std::iter::once(&head).chain(&rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in std::iter::once(&head).chain(&rows) {
            let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            self.line(cells.join("  ").trim_end())?;
        }
        Ok(())
    }

    pub fn verified(&self, results: &[(BackupId, Verification)], all: bool) -> anyhow::Result<()> {
        if self.json {
            return match results {
                [(_, result)] if !all => self.json(result),
                _ => self.json(
                    &results
                        .iter()
                        .map(|(id, result)| (id.to_string(), json!(result)))
                        .collect::<serde_json::Map<_, _>>(),
                ),
            };
        }
        for (id, result) in results {
            let found = match result.ok {
                true => "every byte is as recorded",
                false if result.is_damaged() => "DAMAGED",
                false => "can't be read just now; look at the disk and try again",
            };
            self.line(&format!("{id}: {found}"))?;
            if result.is_ciphertext_only() {
                self.line(&format!("  note: {CIPHERTEXT_ONLY}"))?;
            }
            for (name, verdict) in result.databases.iter().filter(|(_, verdict)| !verdict.ok) {
                self.line(&format!("  {name}: {}", verdict.reason.as_deref().unwrap_or("damaged")))?;
            }
        }
        Ok(())
    }

    pub fn drilled(&self, drilled: &Drilled) -> anyhow::Result<()> {
        if self.json {
            return self.json(drilled);
        }
        for backup in &drilled.backups {
            let found = if backup.ok { "restored, checked, and as recorded" } else { "FAILED" };
            self.line(&format!("{}: {found}, {:.1} s", backup.id, backup.seconds))?;
            for (name, database) in &backup.databases {
                let rows = || format!("{} rows", database.rows.unwrap_or_default());
                self.line(&format!("  {name}: {}", database.reason.clone().unwrap_or_else(rows)))?;
            }
        }
        drilled.journal.iter().try_for_each(|journal| self.journal(journal))
    }

    fn journal(&self, journal: &JournalRehearsal) -> anyhow::Result<()> {
        let at = journal.at.map(|at| format!(" at {at}")).unwrap_or_default();
        let found = match (journal.ok, journal.at) {
            (false, _) => "FAILED",
            (true, None) => "holds no instant yet",
            (true, Some(_)) if journal.is_compared() => "rebuilt, checked, and as the databases are",
            (true, Some(_)) if journal.written => "rebuilt and checked, but compared with nothing",
            (true, Some(_)) => "rebuilt and checked; nobody writes it now, so it is compared with nothing",
        };
        self.line(&format!("the journal{at}: {found}, {:.1} s", journal.seconds))?;
        journal.reason.iter().try_for_each(|reason| self.line(&format!("  {reason}")))?;
        for (name, database) in &journal.databases {
            let pages = |pages: u64| format!("{pages} pages are the same");
            let compared = || database.compared.map_or("not compared".to_owned(), pages);
            self.line(&format!("  {name}: {}", database.reason.clone().unwrap_or_else(compared)))?;
        }
        Ok(())
    }

    /// The recipient is for everyone, and the identity for nobody else.
    pub fn generated(&self, path: &Path, recipient: &Recipient) -> anyhow::Result<()> {
        let (shown, recipient) = (path.display().to_string(), recipient.to_string());
        let text = format!(
            "{recipient}\n\
             \n\
             The identity that opens what is encrypted to this recipient is in {shown}, for you alone to read.\n\
             Keep it where the backups are not, and print a copy: without it the backups are lost, and whoever has it can read them.\n\
             \n\
             Encrypt from now on:       BACKUP_ENCRYPTION_RECIPIENTS={recipient}  and  BACKUP_ENCRYPT_LOCAL=true\n\
             Where it is to be opened:  BACKUP_ENCRYPTION_IDENTITY_FILE={shown}"
        );
        self.done(&text, &json!({ "recipient": recipient, "identityFile": shown }))
    }

    pub fn downloaded(&self, download: &Download, size: u64) -> anyhow::Result<()> {
        let path = download.target.display().to_string();
        let text = format!("{} is in {path}: {}, compared with its checksum", download.id, bytes(size));
        self.done(&text, &json!({ "id": download.id, "path": path, "size": size }))
    }

    pub fn status(&self, engine: &Engine, status: &Status) -> anyhow::Result<()> {
        if self.json {
            return self.json(status);
        }
        let zone = status.schedule.timezone;
        match &status.last_backup {
            Some(last) => {
                let taken = local(last.timestamp, zone);
                self.line(&format!("last backup   {} at {taken}, {}", last.id, ago(last.age_seconds)))?;
            }
            None => self.line("last backup   none")?,
        }
        let next = status.schedule.next_run.map_or("never, scheduled backups are off".to_owned(), |at| local(at, zone));
        self.line(&format!("next backup   {next} ({zone})"))?;
        let counts = status.counts;
        let retention = engine.settings()?.retention;
        self.line(&format!(
            "backups       {} of {} daily, {} of {} weekly, {} of {} monthly, {} manual, {} pre-restore",
            counts.daily,
            retention.daily,
            counts.weekly,
            retention.weekly,
            counts.monthly,
            retention.monthly,
            counts.manual,
            counts.pre_restore
        ))?;
        self.line(&format!(
            "storage       {} in {}",
            bytes(status.storage.total),
            engine.config().directory.display()
        ))?;
        if let Some(operation) = &status.operation {
            let progress = operation.progress.map(|share| format!(", {:.0} %", share * 100.0)).unwrap_or_default();
            self.line(&format!(
                "under way     {} since {}{progress}",
                operation.kind,
                local(operation.started_at, zone)
            ))?;
        }
        if let Some(drill) = &status.last_drill {
            let (ended, how) = (local(drill.at, zone), if drill.ok { "went well" } else { "FAILED" });
            self.line(&format!("last drill    {ended}, {how} in {:.1} s", drill.seconds))?;
        }
        self.notices(&status.notices)?;
        for replica in &status.replicas {
            let success = replica
                .last_success
                .map_or("never complete".to_owned(), |at| format!("complete at {}", local(at, zone)));
            let pending = if replica.pending > 0 { format!(", {} to send", replica.pending) } else { String::new() };
            let (name, held) = (replica.name.as_str(), replica.held);
            let journal = replica.journal.as_ref().map(|journal| match journal.until {
                Some(until) => format!("; any second until {}", replica::exact(until, zone)),
                None => "; nothing of the journal yet".to_owned(),
            });
            let journal = journal.unwrap_or_default();
            self.line(&format!("replica       {name}: {held} backups, {success}{pending}{journal}"))?;
        }
        // A failed backup and a failed drill stand among the warnings.
        let told = ["create", "drill"];
        if let Some(failure) = status.last_failure.as_ref().filter(|it| !told.contains(&it.operation.as_str())) {
            self.line(&format!(
                "last failure  {} at {}: {}",
                failure.operation,
                local(failure.at, zone),
                failure.reason
            ))?;
        }
        for warning in &status.warnings {
            self.line(&format!("! {}: {}", warning.code, warning.detail))?;
        }
        if status.warnings.is_empty() {
            self.line("all is well")?;
        }
        Ok(())
    }

    pub fn doctor(&self, findings: &[Finding]) -> anyhow::Result<()> {
        if self.json {
            return self.json(&json!({ "findings": findings }));
        }
        for finding in findings {
            let mark = match finding.severity {
                Severity::Ok => "ok     ",
                Severity::Warning => "warning",
                Severity::Problem => "PROBLEM",
            };
            self.line(&format!("{mark}  {}: {}", finding.about, finding.found))?;
            if let Some(fix) = &finding.fix {
                self.line(&format!("         -> {fix}"))?;
            }
        }
        Ok(())
    }

    pub fn config(&self, engine: &Engine) -> anyhow::Result<()> {
        let view = engine.config_view()?;
        if self.json {
            return self.json(&view);
        }
        let in_force = serde_json::to_value(view.settings)?;
        let rows = VARIABLES.iter().map(|variable| {
            let origin = view.sources.get(&variable.json_key()).copied().unwrap_or(Origin::Default);
            let pointer = format!("/{}", variable.json_key().replace('.', "/"));
            let text = engine.config().texts.get(variable.key).cloned().unwrap_or_default();
            // What was saved at run time, and a zone that came from TZ, show as they count.
            let value = match in_force.pointer(&pointer) {
                Some(value) if matches!(origin, Origin::Saved | Origin::Serve) || text.is_empty() => {
                    value.to_string().trim_matches('"').to_owned()
                }
                _ => text,
            };
            [variable.env.to_owned(), value, format!("{origin:?}").to_lowercase()]
        });
        let assertions = engine.config().drill.sql.values().map(|it| {
            let line = it.text.split_whitespace().collect::<Vec<_>>().join(" ");
            [it.variable.clone(), line, format!("{:?}", it.origin).to_lowercase()]
        });
        let replicas = engine.config().replica_values.iter();
        let replicas =
            replicas.map(|it| [it.variable.clone(), it.text.clone(), format!("{:?}", it.origin).to_lowercase()]);
        self.table(["VARIABLE", "VALUE", "FROM"], rows.chain(assertions).chain(replicas).collect())
    }

    pub fn changed(&self, engine: &Engine, changed: &Changed, dry_run: bool) -> anyhow::Result<()> {
        if self.json {
            return self
                .json(&json!({ "settings": changed.settings, "rotation": changed.rotation.steps, "dryRun": dry_run }));
        }
        self.line(if dry_run { "nothing was changed; this would happen:" } else { "saved" })?;
        self.plan(&changed.rotation)?;
        if dry_run { Ok(()) } else { self.config(engine) }
    }

    pub fn rebuilt(&self, rebuilt: &Rebuilt) -> anyhow::Result<()> {
        if self.json {
            return self.json(rebuilt);
        }
        self.line(&format!("the catalog is made anew: {} backups, each read and checked", rebuilt.backups.len()))?;
        for backup in &rebuilt.backups {
            self.line(&format!("  {}", backup.id))?;
        }
        for left in &rebuilt.left_out {
            self.line(&format!("  left out: {left}"))?;
        }
        if let Some(kept) = &rebuilt.kept {
            self.line(&format!("  the catalog that couldn't be read is kept as {kept}"))?;
        }
        Ok(())
    }
}

/// An error and its causes, each said once: ours tell their cause themselves.
fn whole(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}

/// Some of what is printed comes from databases and replicas: no letter of it is a command to a terminal. JSON says the same in
/// these words.
fn inert(text: &str) -> String {
    let is_command = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let shown = |c: char| if is_command(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    if text.contains(is_command) { text.chars().map(shown).collect() } else { text.to_owned() }
}

/// Said wherever an identity would have let us look further.
const CIPHERTEXT_ONLY: &str = "encrypted, and compared as ciphertext only: no identity is at hand to decrypt it (BACKUP_ENCRYPTION_IDENTITY_FILE)";

/// The database, and what is left of it where it lies in another form.
fn copied(copy: &DatabaseCopy) -> String {
    match copy.form {
        Form::Plain => bytes(copy.size),
        form => format!("{} ({} as {})", bytes(copy.size), bytes(copy.stored_size), form.ending()),
    }
}

fn state(backup: &Backup) -> String {
    let verified = if backup.verified.ciphertext_only { "verified (ciphertext)" } else { "verified" };
    let mut words = vec![if backup.verified.ok { verified } else { "DAMAGED" }.to_owned()];
    words.extend(backup.flags.iter().map(ToString::to_string));
    if backup.pinned {
        words.push("pinned".to_owned());
    }
    words.join(", ")
}

fn ago(seconds: i64) -> String {
    match seconds {
        ..0 => "in the future".to_owned(),
        0..60 => "just now".to_owned(),
        _ => {
            let minutes = Duration::from_secs(seconds.unsigned_abs() / 60 * 60);
            format!("{} ago", humantime::format_duration(minutes))
        }
    }
}

fn local(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string()
}
