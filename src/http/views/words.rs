//! Times, sizes and texts for people.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use maud::{Markup, html};

use super::Site;
use crate::backup::{BackupId, Moment, Subject, Tier, timestamp};

/// Bytes: `4.1 MB`.
pub use crate::engine::bytes;

/// Text that others wrote. What would turn it around or can't be seen is shown by its number, and what is around it keeps
/// its direction (UAX #9, Unicode TR #36).
pub fn text(text: &str) -> Markup {
    html! { bdi { (visible(text)) } }
}

/// What the program itself says: as a sentence, with what belongs into code as code. It writes that between backticks.
pub fn prose(text: &str) -> Markup {
    let text = sentence(text);
    html! {
        bdi {
            @for (at, part) in text.split('`').enumerate() {
                @if at % 2 == 1 { code { (visible(part)) } } @else { (visible(part)) }
            }
        }
    }
}

/// With a capital, unless it begins with a name.
fn sentence(text: &str) -> String {
    let word = text.split([' ', ';', ',']).next().unwrap_or_default();
    match text.split_at_checked(1) {
        Some((first, rest)) if word.bytes().all(|byte| byte.is_ascii_lowercase()) => first.to_uppercase() + rest,
        _ => text.to_owned(),
    }
}

/// The same as [`text`], for where no markup can be.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            shown.push_str(&format!("[U+{:04X}]", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A tier, as its badge has it.
pub fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Daily => "Daily",
        Tier::Weekly => "Weekly",
        Tier::Monthly => "Monthly",
        Tier::Manual => "Manual",
        Tier::PreRestore => "Pre-restore",
    }
}

/// An id; it never breaks within.
pub fn id(id: &BackupId) -> Markup {
    html! { code.id { (id) } }
}

/// How long ago, or in how long: `3 hours ago`, `in 20 minutes`.
pub fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - at).num_seconds();
    let span = match seconds.unsigned_abs() {
        0..45 => return if seconds < 0 { "in a moment".to_owned() } else { "just now".to_owned() },
        seconds @ 45..5400 => count((seconds + 30) / 60, "minute"),
        seconds @ 5400..129_600 => count((seconds + 1800) / 3600, "hour"),
        seconds => count((seconds + 43_200) / 86_400, "day"),
    };
    if seconds < 0 { format!("in {span}") } else { format!("{span} ago") }
}

/// `1 hour`, `2 hours`.
pub fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration of an operation: `0.4 s`, `2 min 5 s`.
pub fn seconds(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    format!("{} min {} s", whole / 60, whole % 60)
}

/// `26 Nov 2026`.
pub fn date(date: NaiveDate) -> String {
    date.format("%-d %b %Y").to_string()
}

impl Site {
    /// `Thu 26 Nov 2026, 02:00`, where the schedule lives.
    pub fn exact(&self, at: DateTime<Utc>) -> Markup {
        let local = at.with_timezone(&self.zone);
        html! { time datetime=(timestamp::text(at)) { (local.format("%a %-d %b %Y, %H:%M")) } }
    }

    /// `2026-11-26 09:14:05`, where the schedule lives, as it can be typed; with its offset where the clocks showed that twice.
    pub fn typed(&self, moment: Moment) -> String {
        let local = moment.at().with_timezone(&self.zone);
        let millis = if moment.millis().is_multiple_of(1000) { "" } else { "%.3f" };
        let text = local.format(&format!("%Y-%m-%d %H:%M:%S{millis}")).to_string();
        if Moment::typed(&text, self.zone) == Ok(moment) {
            return text;
        }
        local.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }

    /// A backup by its id, an instant as it can be typed; it never breaks within.
    pub fn subject(&self, subject: Subject) -> Markup {
        match subject {
            Subject::Backup(backup) => id(&backup),
            Subject::Point(moment) => html! { code.id { (self.typed(moment)) } },
        }
    }

    /// Relative first, exact below it.
    pub fn moment(&self, at: DateTime<Utc>) -> Markup {
        html! { span.ago { (relative(at, self.now)) } " " span.exact { (self.exact(at)) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_the_unit_that_says_most() {
        let now: DateTime<Utc> = "2026-01-08T12:00:00Z".parse().unwrap();
        let told = |seconds: i64| relative(now - chrono::Duration::seconds(seconds), now);
        assert_eq!(told(0), "just now");
        assert_eq!(told(44), "just now");
        assert_eq!(told(60), "1 minute ago");
        assert_eq!(told(5399), "90 minutes ago");
        assert_eq!(told(5400), "2 hours ago");
        assert_eq!(told(86_400), "24 hours ago");
        assert_eq!(told(36 * 3600), "2 days ago");
        assert_eq!(told(-1200), "in 20 minutes");
        assert_eq!(told(-10), "in a moment");
    }

    #[test]
    fn what_turns_text_around_or_hides_is_shown_by_its_number() {
        assert_eq!(visible("a\u{202e}b"), "a[U+202E]b");
        assert_eq!(visible("\u{200b}\n\u{feff}"), "[U+200B][U+000A][U+FEFF]");
        assert_eq!(visible("Prüfung – 試験 😀"), "Prüfung – 試験 😀");
        assert_eq!(text("<b>&\"").into_string(), "<bdi>&lt;b&gt;&amp;&quot;</bdi>");
    }

    #[test]
    fn prose_begins_with_a_capital_unless_it_begins_with_a_name() {
        let told = |text: &str| prose(text).into_string();
        assert_eq!(told("the disk is full; make `room`"), "<bdi>The disk is full; make <code>room</code></bdi>");
        assert_eq!(told("daily-2026-01-08 is damaged"), "<bdi>daily-2026-01-08 is damaged</bdi>");
        assert_eq!(told("`auth` is not there"), "<bdi><code>auth</code> is not there</bdi>");
        assert_eq!(told("über"), "<bdi>über</bdi>");
        assert_eq!(told(""), "<bdi></bdi>");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
