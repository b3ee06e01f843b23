//! Whether days are counted where people live, and whether the clock can be right.

use chrono::{DateTime, Utc};

use super::{Finding, ok, problem, warning};
use crate::backup::timestamp;
use crate::config::Origin;
use crate::engine::Engine;
use crate::engine::status::{CLOCKS_DIFFER, clock_is_implausible};

const ABOUT: &str = "time";

impl Engine {
    pub(super) fn times(&self) -> Vec<Finding> {
        let now = self.clock.now();
        let zone = self.settings_in_force().schedule.timezone;
        let saved = self.saved().is_ok_and(|saved| saved.schedule.timezone.is_some());
        let local = now.with_timezone(&zone).format("%Y-%m-%d %H:%M");
        if clock_is_implausible(now) {
            let fix = "set the machine's clock, and let NTP keep it";
            return vec![problem(ABOUT, format!("the clock says {local}"), Some(fix.to_owned()))];
        }
        let mut findings = vec![match self.config.origins.get("schedule.timezone") {
            Some(Origin::Default) if !saved => warning(
                ABOUT,
                format!("no time zone is set, so days are counted in UTC, where it is {local}"),
                Some("set BACKUP_TIMEZONE, for example to Europe/Berlin (UTC is fine too, but say so)".to_owned()),
            ),
            _ => ok(ABOUT, format!("{zone}, where it is {local}")),
        }];
        if let Some(latest) = self.latest().filter(|latest| *latest > now + CLOCKS_DIFFER) {
            let found = format!("the audit log was written at {}, which is yet to come", timestamp::text(latest));
            let fix = "look whether the clock is wrong now, or was wrong then, and let NTP keep it";
            findings.push(warning("clock", found, Some(fix.to_owned())));
        }
        findings
    }

    /// When anything was last recorded.
    fn latest(&self) -> Option<DateTime<Utc>> {
        let mut latest = None;
        let read = self.audit.newest_first(|line| {
            latest = Some(line.at);
            true
        });
        read.ok().and(latest)
    }
}
