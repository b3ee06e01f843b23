//! The fields of the form, each with what is allowed and where its value comes from.

use std::collections::BTreeMap;

use chrono_tz::{TZ_VARIANTS, Tz};
use maud::{Markup, html};

use super::Stand;
use crate::backup::settings::{Settings, bounds};
use crate::config::{Origin, VARIABLES};
use crate::http::typed::allowed;

/// What can be changed, by its key.
pub const VALUES: [(&str, &str); 9] = [
    ("enabled", "Scheduled backups"),
    ("schedule.hour", "Hour"),
    ("schedule.minute", "Minute"),
    ("schedule.timezone", "Time zone"),
    ("retention.daily", "Daily"),
    ("retention.weekly", "Weekly"),
    ("retention.monthly", "Monthly"),
    ("retention.manual", "Manual"),
    ("retention.preRestore", "Pre-restore"),
];

/// A value as text.
pub fn value(settings: &Settings, key: &str) -> String {
    match key {
        "enabled" => if settings.enabled { "on" } else { "off" }.to_owned(),
        "schedule.timezone" => settings.schedule.timezone.name().to_owned(),
        key => settings.number(key).map_or_else(String::new, |number| number.to_string()),
    }
}

/// All of them. `base` is what the configuration says.
pub fn fields(stand: &Stand, base: &Settings) -> Markup {
    let first = first_wrong(stand);
    html! {
        fieldset.schedule {
            legend { "Schedule" }
            (enabled(stand, base))
            div.pair { (time(stand, base, first)) (zone(stand, base, first)) }
        }
        fieldset.retention {
            legend { "How many backups are kept" }
            div.counts {
                @for (name, text) in stand.typed.counts() { (count(stand, base, name, text, first)) }
            }
        }
    }
}

/// The keys of each field, in the order of the form.
const FIELDS: [&[&str]; 7] = [
    &["schedule.hour", "schedule.minute"],
    &["schedule.timezone"],
    &["retention.daily"],
    &["retention.weekly"],
    &["retention.monthly"],
    &["retention.manual"],
    &["retention.preRestore"],
];

/// The first field that isn't right: it gets the focus.
fn first_wrong(stand: &Stand) -> Option<&'static str> {
    FIELDS.iter().find(|keys| stand.wrong(keys).is_some()).map(|keys| keys[0])
}

fn enabled(stand: &Stand, base: &Settings) -> Markup {
    html! {
        div.field {
            label.check {
                input #enabled type="checkbox" name="enabled" value="true" checked[stand.typed.enabled.is_some()] aria-describedby="enabled-help";
                span { "Take backups by the schedule" }
            }
            p.help #enabled-help { "Backups by hand work either way. " (source(stand, base, "enabled")) }
        }
    }
}

/// The label, the field, what helps, what is wrong.
fn field(stand: &Stand, keys: &[&str], id: &str, label: &str, input: &Markup, help: &Markup) -> Markup {
    html! {
        div.field {
            label for=(id) { (label) }
            (input)
            @if let Some(wrong) = stand.wrong(keys) { p.error id={ (id) "-error" } { (crate::http::views::words::text(&sentence(&wrong.detail))) } }
            p.help id={ (id) "-help" } { (help) }
        }
    }
}

fn described(stand: &Stand, keys: &[&str], id: &str) -> (Option<&'static str>, String) {
    match stand.wrong(keys) {
        Some(_) => (Some("true"), format!("{id}-error {id}-help")),
        None => (None, format!("{id}-help")),
    }
}

fn time(stand: &Stand, base: &Settings, first: Option<&str>) -> Markup {
    let keys = ["schedule.hour", "schedule.minute"];
    let (invalid, described) = described(stand, &keys, "time");
    let input = html! {
        input #time type="time" name="time" value=(stand.typed.time) required aria-invalid=[invalid] aria-describedby=(described)
            autofocus[first == Some(keys[0])];
    };
    let [hour, minute] = keys.map(|key| stand.view.sources.get(key));
    let help = html! {
        "Local time in the time zone below. "
        @if hour == minute && hour != Some(&Origin::Env) && hour != Some(&Origin::Saved) {
            (source(stand, base, keys[0]))
        } @else {
            "Hour: " (source(stand, base, keys[0])) " Minute: " (source(stand, base, keys[1]))
        }
    };
    field(stand, &keys, "time", "Time of day", &input, &help)
}

fn zone(stand: &Stand, base: &Settings, first: Option<&str>) -> Markup {
    let key = "schedule.timezone";
    let (invalid, described) = described(stand, &[key], "timezone");
    let typed = stand.typed.timezone.as_str();
    let is_known = typed.parse::<Tz>().is_ok();
    let option = |zone: &str, label: &str| {
        html! { option value=(zone) selected[zone == typed] { (label) } }
    };
    let input = html! {
        select #timezone name="timezone" aria-invalid=[invalid] aria-describedby=(described) autofocus[first == Some(key)] {
            @if !is_known { (option(typed, typed)) }
            (option("UTC", "UTC"))
            @for (region, zones) in regions() {
                optgroup label=(region) { @for (zone, label) in zones { (option(zone, &label)) } }
            }
        }
    };
    field(
        stand,
        &[key],
        "timezone",
        "Time zone",
        &input,
        &html! { "Also what days, weeks and months are counted by. " (source(stand, base, key)) },
    )
}

/// All time zones, by region: their names, and what is left of these within the region.
fn regions() -> BTreeMap<&'static str, Vec<(&'static str, String)>> {
    let mut regions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for zone in TZ_VARIANTS.iter().map(|zone| zone.name()).filter(|zone| *zone != "UTC") {
        let (region, place) = zone.split_once('/').unwrap_or(("Other names", zone));
        regions.entry(region).or_default().push((zone, place.replace('_', " ")));
    }
    regions
}

fn count(stand: &Stand, base: &Settings, name: &str, text: &str, first: Option<&str>) -> Markup {
    let key = format!("retention.{name}");
    let keys = [key.as_str()];
    let (invalid, described) = described(stand, &keys, name);
    let (least, most) = bounds(&key).unwrap_or_default();
    let label = VALUES.iter().find(|(other, _)| *other == key).map_or(name, |(_, label)| label);
    let input = html! {
        input id=(name) type="number" name=(name) value=(text) min=(least) max=(most) step="1" required inputmode="numeric"
            aria-invalid=[invalid] aria-describedby=(described) autofocus[first == Some(&key)];
    };
    let help = html! { (capital(allowed(&key))) ". " @if let Some(text) = meaning(name) { (text) " " } (source(stand, base, &key)) };
    field(stand, &keys, name, label, &input, &help)
}

/// What isn't plain from the name.
fn meaning(name: &str) -> Option<&'static str> {
    match name {
        "weekly" => Some("With 0, dailies go straight into months."),
        "manual" => Some("Those taken by hand."),
        "preRestore" => Some("What a restore replaced, for its undo."),
        _ => None,
    }
}

/// Where a value comes from.
pub fn source(stand: &Stand, base: &Settings, key: &str) -> Markup {
    let origin = stand.view.sources.get(key).copied().unwrap_or(Origin::Default);
    html! {
        span.source {
            @match origin {
                Origin::Saved => { "Saved here; the configuration says " (value(base, key)) "." }
                origin => (from(origin, key)),
            }
        }
    }
}

/// The same of what the configuration alone says.
pub fn from(origin: Origin, key: &str) -> Markup {
    let variable = VARIABLES.iter().find(|variable| variable.json_key() == key).map_or("", |variable| variable.env);
    html! {
        @match origin {
            Origin::Default => "The default.",
            Origin::File => "From the configuration file.",
            Origin::Env => { "From " code { (variable) } }
            Origin::Saved => "Saved here.",
            Origin::Serve => "As the service keeps it.",
        }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    first + chars.as_str()
}

/// A text that goes on where it stands alone.
fn sentence(detail: &str) -> String {
    format!("{}.", capital(detail))
}
