//! What a browser complains of: errors of scripts, breaches of the content policy, answers that are errors.

use std::fmt;

/// An entry of the console.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Entry {
    /// `SEVERE`, `WARNING`, `INFO` or `DEBUG`.
    pub level: String,
    /// `security`, `network`, `javascript`, `console-api` and others.
    pub source: String,
    pub message: String,
}

impl Entry {
    fn is_complaint(&self) -> bool {
        matches!(self.level.as_str(), "SEVERE" | "WARNING")
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} {}: {}", self.level, self.source, self.message)
    }
}

/// What a test wants to see in the console, once.
enum Expected {
    Status(u16),
    Message(String),
}

impl Expected {
    fn is(&self, entry: &Entry) -> bool {
        match self {
            Self::Status(status) => {
                let words = format!("Failed to load resource: the server responded with a status of {status} ");
                entry.source == "network" && entry.message.contains(&words)
            }
            Self::Message(words) => entry.message.contains(words),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(to, "an answer of status {status}"),
            Self::Message(words) => write!(to, "a message with {words:?}"),
        }
    }
}

/// What was heard and not yet judged, and what is expected.
#[derive(Default)]
pub struct Console {
    heard: Vec<Entry>,
    expected: Vec<Expected>,
}

impl Console {
    pub fn hear(&mut self, entries: Vec<Entry>) {
        self.heard.extend(entries);
    }

    pub fn expect_status(&mut self, status: u16) {
        self.expected.push(Expected::Status(status));
    }

    pub fn expect_message(&mut self, words: &str) {
        self.expected.push(Expected::Message(words.to_owned()));
    }

    /// Each expectation takes one entry away; says what is still awaited.
    pub fn still_awaited(&mut self) -> Option<String> {
        let heard = &mut self.heard;
        self.expected.retain(|expected| match heard.iter().position(|entry| expected.is(entry)) {
            Some(at) => {
                heard.remove(at);
                false
            }
            None => true,
        });
        let left: Vec<_> = self.expected.iter().map(Expected::to_string).collect();
        (!left.is_empty()).then(|| left.join(", "))
    }

    /// Every complaint that was heard, one a line.
    pub fn complaints(&self) -> String {
        let complaints = self.heard.iter().filter(|entry| entry.is_complaint());
        complaints.map(|entry| format!("{entry}\n")).collect()
    }
}
