//! A change of settings, value by value: each that isn't allowed is told with its place, not only the first.

use serde_json::{Map, Value, json};

use super::problem::{self, FieldError, Problem};
use crate::backup::settings::{Saved, Settings};

/// Some of the settings, as `PUT /api/backup/config` takes them.
pub type Partial = Map<String, Value>;

/// The change that `partial` asks for, on top of the settings `now`.
pub fn parse(partial: &Partial, now: &Settings) -> Result<Saved, Problem> {
    let (mut set, mut errors) = (Saved::default(), Vec::new());
    for (pointer, tree) in leaves(partial) {
        match leaf(tree, now) {
            Ok(one) => set = set.with(&one),
            Err(detail) => errors.push(FieldError { pointer, detail }),
        }
    }
    if errors.is_empty() { Ok(set) } else { Err(not_allowed(errors)) }
}

/// The problem of values that aren't allowed.
pub fn not_allowed(errors: Vec<FieldError>) -> Problem {
    let places: Vec<_> = errors.iter().map(|error| format!("{}: {}", error.pointer, error.detail)).collect();
    Problem::new(problem::BAD_SETTING, format!("nothing was changed. {}", places.join("; "))).errors(errors)
}

/// Each value with its pointer (RFC 6901), in a tree of its own.
fn leaves(partial: &Partial) -> Vec<(String, Value)> {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    let mut leaves = Vec::new();
    for (key, value) in partial {
        match value {
            Value::Object(inner) if !inner.is_empty() => leaves.extend(inner.iter().map(|(name, value)| {
                (format!("/{}/{}", escaped(key), escaped(name)), json!({ key: { name: value } }))
            })),
            value => leaves.push((format!("/{}", escaped(key)), json!({ key: value }))),
        }
    }
    leaves
}

fn leaf(tree: Value, now: &Settings) -> Result<Saved, String> {
    if tree.as_object().into_iter().flat_map(Map::values).any(|value| value.is_null() || has_null(value)) {
        return Err("null is not allowed; leave out what stays as it is".to_owned());
    }
    let saved: Saved = serde_json::from_value(tree).map_err(|error| error.to_string())?;
    saved.over(now).validate().map_err(|(_, problem)| problem)?;
    Ok(saved)
}

fn has_null(value: &Value) -> bool {
    value.as_object().is_some_and(|inner| inner.values().any(Value::is_null))
}
