//! What is changed at run time: `settings.json` over the configuration.

use std::io::Read;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{Call, Engine, Error, Unrecorded};
use crate::audit::{Entry, Kind};
use crate::backup::retention::{self, Plan, Retention};
use crate::backup::settings::{Saved, SavedRetention, Settings};
use crate::catalog;
use crate::disk::{self, Context};

/// File name of the saved settings.
const FILE: &str = "settings.json";
/// What an audit line of a change calls the values that are saved by it.
const AFTER: &str = "after";
/// What a change is called in the audit log.
const SETTINGS: &str = "settings";
/// Audit lines among which the last change is looked for.
const LINES: usize = 1000;

/// What is to be saved.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// The values that change.
    pub set: Saved,
    /// Everything saved before goes; the configuration counts again.
    pub reset: bool,
    /// Nothing is changed; only what would happen is told.
    pub dry_run: bool,
    /// Only if the settings are still those that were looked at ([`ConfigView::version`]).
    pub expected: Option<String>,
}

/// What a change of settings did, or would do.
#[derive(Clone, PartialEq, Debug)]
pub struct Changed {
    /// The settings in force after it.
    pub settings: Settings,
    /// What the new retention drops and promotes at once.
    pub rotation: Plan,
}

impl Engine {
    /// What counts where nothing was saved: the configuration. But a command keeps what the last `serve` was configured to keep, too: who
    /// restores at night may have given it none of its variables. A catalog that is damaged says nothing of that, and is told by whoever
    /// needs it; of one that can't be read just now it isn't known.
    pub(super) fn base(&self) -> Result<Settings, Error> {
        let configured = self.config.settings;
        if self.is_serve() {
            return Ok(configured);
        }
        let kept = match self.read_catalog() {
            Err(error @ (Error::Disk(_) | Error::Catalog(catalog::Error::Disk(_)))) => return Err(error),
            read => read.ok().flatten().and_then(|catalog| catalog.retention),
        };
        Ok(kept.map_or(configured, |kept| configured.keeping(&kept)))
    }

    /// What a directory that begins with the backups of another keeps of them: no fewer than that one did. What was saved here before stays
    /// as it was said.
    pub(super) fn keep_no_fewer(&self, kept: &Retention) -> Result<Option<SavedRetention>, Error> {
        let (saved, configured) = (self.saved()?, self.config.settings);
        let all = configured.keeping(kept).retention;
        let more = |all: u32, configured: u32| (all > configured).then_some(all);
        let more = SavedRetention {
            daily: more(all.daily, configured.retention.daily),
            weekly: more(all.weekly, configured.retention.weekly),
            monthly: more(all.monthly, configured.retention.monthly),
            manual: more(all.manual, configured.retention.manual),
            pre_restore: more(all.pre_restore, configured.retention.pre_restore),
        };
        let wanted = Saved { retention: more, ..Saved::default() }.with(&saved);
        if wanted == saved {
            return Ok(None);
        }
        self.save_settings(&wanted)?;
        Ok(Some(more))
    }

    fn save_settings(&self, saved: &Saved) -> Result<(), Error> {
        let mut text = serde_json::to_vec_pretty(saved).unwrap_or_default();
        text.push(b'\n');
        Ok(disk::write_durable(&self.settings_path(), &text)?)
    }

    /// The settings in force.
    pub fn settings(&self) -> Result<Settings, Error> {
        let settings = self.saved()?.over(&self.base()?);
        let valid = settings.validate();
        valid.map_err(|(name, problem)| self.unreadable(format!("{name}: {problem}")))?;
        Ok(settings)
    }

    /// The same for whoever only tells of something else, and drops nothing by them: that saved ones can't be read is told by the status.
    pub(super) fn settings_in_force(&self) -> Settings {
        self.settings().or_else(|_| self.base()).unwrap_or(self.config.settings)
    }

    /// What was changed at run time.
    pub fn saved(&self) -> Result<Saved, Error> {
        let path = self.settings_path();
        let file = match disk::open_regular(&path) {
            Err(error) if error.is_missing() => return Ok(Saved::default()),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes).to("read", &path)?;
        serde_json::from_slice(&bytes).map_err(|error| self.unreadable(error.to_string()))
    }

    /// Saves a change; a new retention acts at once.
    pub fn change_settings(&self, change: &Change, call: &Call) -> Result<Changed, Error> {
        if change.dry_run {
            self.assert_unchanged(change)?;
            let catalog = self.standing_catalog()?;
            let backups = self.as_they_lie(catalog.as_ref().map_or(&[][..], |catalog| &catalog.backups), None);
            let settings = self.changed(change)?.over(&self.base()?);
            let rotation = retention::plan(&backups, &settings.retention, self.freeze()?.as_deref());
            return Ok(Changed { settings, rotation });
        }
        let mut session = self.begin(SETTINGS, call)?;
        let saved = match self.assert_unchanged(change).and_then(|()| self.changed(change)) {
            Ok(saved) => saved,
            Err(error) => {
                self.refused(SETTINGS, call, None, &error);
                return Err(error);
            }
        };
        let json = |value: &Saved| serde_json::to_value(value).unwrap_or(Value::Null);
        let planned = Map::from_iter([(AFTER.to_owned(), json(&saved))]);
        session.audited(None, Unrecorded::IsRefused, planned, |session| {
            let before = self.saved().unwrap_or_default();
            let settings = saved.over(&self.base()?);
            self.save_settings(&saved)?;
            let rotation = session
                .rotate_after(|session| session.rotate_now(&settings.retention, session.engine.freeze()?.as_deref()));
            let details = Map::from_iter([
                ("before".to_owned(), json(&before)),
                (AFTER.to_owned(), json(&saved)),
                ("rotation".to_owned(), serde_json::to_value(&rotation.steps).unwrap_or(Value::Null)),
            ]);
            Ok((Changed { settings, rotation }, details))
        })
    }

    /// Whether the change that `intent` announces was saved.
    pub(super) fn is_saved(&self, intent: &Entry) -> bool {
        let saved = self.saved().ok().and_then(|saved| serde_json::to_value(saved).ok());
        saved.is_some_and(|saved| intent.details.get(AFTER) == Some(&saved))
    }

    /// Who has last changed them, and when, if the newest lines of the audit log tell.
    pub fn last_change(&self) -> Result<Option<(String, DateTime<Utc>)>, Error> {
        let (mut found, mut looked) = (None, 0);
        self.audit.newest_first(|line| {
            let entry = &line.entry;
            looked += 1;
            if entry.operation == SETTINGS && entry.kind == Kind::Outcome && entry.ok == Some(true) {
                found = Some((entry.by.clone(), line.at));
            }
            found.is_some() || looked >= LINES
        })?;
        Ok(found)
    }

    fn assert_unchanged(&self, change: &Change) -> Result<(), Error> {
        match &change.expected {
            Some(expected) if *expected != self.config_view()?.version() => Err(Error::Stale),
            _ => Ok(()),
        }
    }

    fn changed(&self, change: &Change) -> Result<Saved, Error> {
        let base = if change.reset { Saved::default() } else { self.saved()? };
        let saved = base.with(&change.set);
        let valid = saved.over(&self.base()?).validate();
        valid.map_err(|(name, problem)| Error::Setting { name, problem })?;
        Ok(saved)
    }

    fn settings_path(&self) -> PathBuf {
        self.store.root().join(FILE)
    }

    fn unreadable(&self, reason: String) -> Error {
        Error::SavedSettings { path: self.settings_path(), reason }
    }
}
