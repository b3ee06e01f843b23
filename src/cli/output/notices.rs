//! What is printed of notices.

use super::Output;
use crate::engine::{NoticesStatus, NoticesTested};

impl Output {
    /// A line for each channel.
    pub fn notices_tested(&self, tested: &NoticesTested) -> anyhow::Result<()> {
        if self.json {
            return self.json(tested);
        }
        for channel in &tested.channels {
            let word = if channel.ok { "ok" } else { "failed" };
            self.line(&format!("{:<8} {word:<7} {}", channel.kind, channel.detail))?;
        }
        Ok(())
    }

    /// One line of the status.
    pub(super) fn notices(&self, notices: &NoticesStatus) -> anyhow::Result<()> {
        let kinds: Vec<_> = notices.channels.iter().map(|channel| channel.kind.to_string()).collect();
        if kinds.is_empty() {
            return Ok(self.line("notices       none: nobody is told when backups fail (docs/notices.md)")?);
        }
        let waiting = if notices.queued > 0 { format!("; {} wait to be sent", notices.queued) } else { String::new() };
        Ok(self.line(&format!("notices       by {}{waiting}", kinds.join(", ")))?)
    }
}
