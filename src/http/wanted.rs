//! Which part of the activity is wanted, as the form of the page sends it: what is left empty is not asked for.

use serde::Deserialize;

use super::problem::{self, Problem};
use crate::engine::{Activity, End};

/// What was chosen and typed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// An operation.
    pub operation: String,
    /// One of [`KINDS`].
    pub kind: String,
    /// The id of a backup.
    pub id: String,
    /// The number of a line.
    pub before: String,
}

/// How it went: as the address has it.
pub const KINDS: [(&str, End); 4] =
    [("outcome", End::Ended), ("failed", End::Failed), ("refused", End::Refused), ("intent", End::Begun)];

impl Wanted {
    /// Which lines that are.
    pub fn parse(&self) -> Result<Activity, Problem> {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let end = given(&self.kind).map(|kind| {
            let found = KINDS.iter().find(|(name, _)| *name == kind).map(|(_, end)| *end);
            found.ok_or_else(|| Problem::new(problem::BAD_PARAMETER, "kind is outcome, failed, refused or intent"))
        });
        let before = given(&self.before).map(|text| {
            text.parse().map_err(|_| Problem::new(problem::BAD_PARAMETER, "before is the number of a line"))
        });
        let id = given(&self.id).map(|text| {
            let text = text.parse();
            text.map_err(|_| {
                let allowed = "that is no backup's id; one looks like daily-2026-01-08";
                Problem::field(problem::BAD_PARAMETER, "/id", allowed.to_owned())
            })
        });
        Ok(Activity {
            operation: given(&self.operation),
            end: end.transpose()?,
            before: before.transpose()?,
            id: id.transpose()?,
        })
    }

    /// The same from another line on, as a query.
    pub fn query(&self, before: Option<u64>) -> String {
        let before = before.map(|seq| seq.to_string()).unwrap_or_default();
        let parts = [("operation", &self.operation), ("kind", &self.kind), ("id", &self.id), ("before", &before)];
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parts.iter().filter(|(_, text)| !text.is_empty()));
        Some(query.finish()).filter(|query| !query.is_empty()).map(|query| format!("?{query}")).unwrap_or_default()
    }
}
