//! Names that come from elsewhere: ids, files, keys of objects. What is taken prints as it was written, and leads nowhere else [P9].

use attendance_backup::backup::replica::{is_ours, is_unfinished_catalog, parse_catalog_key};
use attendance_backup::backup::{BackupId, DatabaseName, Form, Moment, ReplicaName, Tier};
use attendance_backup::engine::{Elsewhere, Which};
use attendance_backup::journal::FileName;
use attendance_backup::journal::pack::Key;
use proptest::prelude::*;

use crate::fuzz::{cases, changed_text, lines};

/// Below the folder that it is put into, and nothing else.
fn stays_below(path: &str) -> bool {
    !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.contains('\0')
}

proptest! {
    #![proptest_config(cases(2000, "proptest-regressions/fuzz_names.txt"))]

    #[test]
    fn what_is_taken_prints_as_it_was_written(text in changed_text(lines("names"))) {
        if let Ok(id) = text.parse::<BackupId>() {
            prop_assert_eq!(id.to_string(), text.clone());
            prop_assert!(id.covers(id.first_date()));
            let name: DatabaseName = "auth".parse().unwrap();
            for form in Form::ALL {
                prop_assert!(stays_below(&id.file(&name, form)));
            }
            prop_assert_eq!(BackupId::from_stem(id.tier(), &id.stem()), Some(id));
            prop_assert!(id.next().to_string().starts_with(&text[..text.len().min(10)]));
        }
        if let Ok(name) = text.parse::<DatabaseName>() {
            prop_assert_eq!(name.to_string(), text.clone());
            prop_assert!(stays_below(&text) && !text.contains('/'));
        }
        if let Ok(name) = text.parse::<ReplicaName>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(stays_below(&text) && !text.contains('/'));
        }
        if let Ok(tier) = text.parse::<Tier>() {
            prop_assert_eq!(tier.name(), &text);
        }
        if let Ok(file) = text.parse::<FileName>() {
            prop_assert_eq!(file.to_string(), text.clone());
            prop_assert!(stays_below(&text));
        }
        if let Some(key) = Key::parse(&text) {
            prop_assert_eq!(key.to_string(), text.clone());
            prop_assert!(stays_below(&text));
        }
        let _ = (Key::parse_part(&text), Key::is_unfinished(&text), text.parse::<Elsewhere>(), text.parse::<Which>());
        if is_ours(&text) || is_unfinished_catalog(&text) || parse_catalog_key(&text).is_some() {
            prop_assert!(stays_below(&text), "{}", text);
        }
        for zone in [chrono_tz::UTC, chrono_tz::America::St_Johns] {
            if let Ok(moment) = Moment::typed(&text, zone) {
                let printed = moment.to_string();
                prop_assert_eq!(printed.parse::<Moment>(), Ok(moment), "{} of {}", printed, text);
            }
        }
    }
}
