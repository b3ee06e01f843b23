//! What a restore would change, as a table for people.

use super::{Output, local};
use crate::backup::Subject;
use crate::engine::{DatabasePreview, Engine, Preview, bytes};
use crate::sqlite::diff::{ColumnDifference, Difference, SchemaDifference, SchemaObject, TableDifference};

impl Output {
    pub fn preview(&self, engine: &Engine, preview: &Preview) -> anyhow::Result<()> {
        if self.json {
            return self.json(preview);
        }
        let zone = engine.settings()?.schedule.timezone;
        let subject = preview.subject;
        let when = match subject {
            Subject::Backup(_) => format!("it was taken at {}", local(preview.timestamp, zone)),
            Subject::Point(moment) => {
                format!("that is {}", moment.at().with_timezone(&zone).format("%Y-%m-%d %H:%M:%S%.3f"))
            }
        };
        self.line(&format!("what a restore of {subject} would change; {when} ({zone})"))?;
        for (name, database) in &preview.databases {
            self.line("")?;
            match database {
                DatabasePreview::NotCompared { reason } => self.line(&format!("{name}: {reason}"))?,
                DatabasePreview::Compared(difference) => {
                    self.line(&format!("{name}: {}", figures(difference)))?;
                    self.difference(difference)?;
                }
            }
        }
        self.line("")?;
        for warning in &preview.warnings {
            self.line(&format!("! {}: {}", warning.code, plain(&warning.detail)))?;
        }
        Ok(self.line("nothing was changed")?)
    }

    fn difference(&self, difference: &Difference) -> std::io::Result<()> {
        let differing = || difference.tables.iter().filter(|(_, table)| !table.is_same());
        let width = differing().map(|(name, _)| plain(name).chars().count()).max().unwrap_or(0);
        for (name, table) in differing() {
            self.line(&format!("  {:<width$}  {}", plain(name), rows(table)))?;
            if let Some(columns) = &table.columns {
                self.line(&format!("  {:<width$}  columns {}", "", sides(columns)))?;
            }
        }
        let same = difference.tables.len() - differing().count();
        if same > 0 {
            let other = if same < difference.tables.len() { "other " } else { "" };
            self.line(&format!("  {same} {other}table{} the same", if same == 1 { " is" } else { "s are" }))?;
        }
        for line in schema(&difference.schema) {
            self.line(&format!("  {line}"))?;
        }
        Ok(())
    }
}

fn figures(difference: &Difference) -> String {
    let (size, version) = (difference.size, difference.user_version);
    let versions = match version.now == version.then {
        true => String::new(),
        false => format!("; user_version {} now, {} then", version.now, version.then),
    };
    format!("{} now, {} then{versions}", bytes(size.now), bytes(size.then))
}

/// `48211 now, 48190 then: 30 only now, 9 only then, 4 changed`
fn rows(table: &TableDifference) -> String {
    let (now, then) = (table.now, table.then);
    if let Some(reason) = &table.not_comparable {
        let counts = if now + then == 0 { String::new() } else { format!("at least {now} now, {then} then, ") };
        return format!("{counts}not compared: {}", plain(reason));
    }
    let counts = [(table.only_now, "only now"), (table.only_then, "only then"), (table.changed, "changed")];
    let counts: Vec<_> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !table.complete && now + then == 0 {
        return "there was no time to look at it".to_owned();
    }
    let counts = if counts.is_empty() { "no row differs".to_owned() } else { counts.join(", ") };
    match table.complete {
        true => format!("{now} now, {then} then: {counts}"),
        false => format!("at least {now} now, {then} then: {counts} so far"),
    }
}

fn sides(columns: &ColumnDifference) -> String {
    let side = |names: &[String], when: &str| {
        let names: Vec<_> = names.iter().map(|name| plain(name)).collect();
        (!names.is_empty()).then(|| format!("{when}: {}", names.join(", ")))
    };
    let sides = [side(&columns.only_now, "only now"), side(&columns.only_then, "only then")];
    sides.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// A line for each kind of difference.
fn schema(schema: &SchemaDifference) -> Vec<String> {
    let line = |objects: &[SchemaObject], what: &str| {
        let names: Vec<_> = objects.iter().map(|object| format!("{} {}", object.kind, plain(&object.name))).collect();
        (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")))
    };
    let lines = [
        line(&schema.only_now, "only now"),
        line(&schema.only_then, "only then"),
        line(&schema.changed, "defined otherwise then"),
    ];
    lines.into_iter().flatten().collect()
}

/// Names come from a database: nothing in them steers a terminal.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
