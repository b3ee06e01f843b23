use super::*;

fn entry(operation: &str) -> Entry {
    Entry {
        kind: Kind::Outcome,
        operation: operation.to_owned(),
        by: "someone".to_owned(),
        from: "test".to_owned(),
        id: None,
        point: None,
        ok: Some(true),
        code: None,
        reason: None,
        details: Map::new(),
    }
}

fn log_of(lines: usize) -> (tempfile::TempDir, Audit) {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::at(dir.path());
    for number in 0..lines {
        audit.append(DateTime::UNIX_EPOCH, entry(&format!("op-{number}"))).unwrap();
    }
    (dir, audit)
}

fn edit(audit: &Audit, change: impl FnOnce(&mut Vec<String>)) {
    let text = std::fs::read_to_string(&audit.path).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    change(&mut lines);
    std::fs::write(&audit.path, lines.join("\n") + "\n").unwrap();
}

fn first_bad(audit: &Audit) -> u64 {
    match audit.verify(None) {
        Err(Error::Broken { seq, .. }) => seq,
        other => panic!("not found: {other:?}"),
    }
}

#[test]
fn a_whole_chain_verifies_and_each_kind_of_tampering_is_found() {
    let (_dir, audit) = log_of(9);
    assert_eq!(audit.verify(None).unwrap(), 9);
    edit(&audit, |lines| lines[3] = lines[3].replace("someone", "another"));
    assert_eq!(first_bad(&audit), 5);

    let (_dir, audit) = log_of(9);
    edit(&audit, |lines| drop(lines.remove(3)));
    assert_eq!(first_bad(&audit), 4);

    let (_dir, audit) = log_of(9);
    edit(&audit, |lines| lines.swap(3, 4));
    assert_eq!(first_bad(&audit), 4);

    let (_dir, audit) = log_of(9);
    edit(&audit, |lines| lines[8] = "{}".to_owned());
    assert_eq!(first_bad(&audit), 9);
}

#[test]
fn a_cut_end_shows_by_the_anchor() {
    let (_dir, audit) = log_of(9);
    let head = audit.head().unwrap();
    assert!(audit.verify(Some((head.seq, &head.hash))).is_ok());
    edit(&audit, |lines| lines.truncate(7));
    assert_eq!(audit.verify(None).unwrap(), 7);
    let error = audit.verify(Some((head.seq, &head.hash))).unwrap_err().to_string();
    assert!(error.contains("cut off"), "{error}");
}

#[test]
fn a_torn_line_is_closed_wherever_it_was_torn() {
    let (_dir, audit) = log_of(2);
    let whole = std::fs::read(&audit.path).unwrap();
    let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    for cut in first + 1..whole.len() {
        std::fs::write(&audit.path, &whole[..cut]).unwrap();
        audit.append(DateTime::UNIX_EPOCH, entry("after")).unwrap();
        audit.append(DateTime::UNIX_EPOCH, entry("later")).unwrap();
        // Line 1, the line that accounts for the torn one (or that one, if only its end was lost), two more.
        assert_eq!(audit.verify(None).unwrap(), 4, "cut at {cut}");
    }
}

#[test]
fn texts_from_outside_can_neither_break_a_line_nor_swell_it() {
    let (_dir, audit) = log_of(0);
    let mut hostile = entry("create");
    hostile.by = "x\n{\"seq\":1}\u{2028}\u{1b}[2J".to_owned();
    hostile.reason = Some("é".repeat(10_000));
    audit.append(DateTime::UNIX_EPOCH, hostile).unwrap();
    assert_eq!(std::fs::read_to_string(&audit.path).unwrap().lines().count(), 1);
    assert_eq!(audit.verify(None).unwrap(), 1);
}

#[test]
fn newest_first_crosses_blocks() {
    let (_dir, audit) = log_of(600);
    let mut seen = Vec::new();
    audit
        .newest_first(|line| {
            seen.push(line.seq);
            false
        })
        .unwrap();
    assert_eq!(seen, (1..=600).rev().collect::<Vec<_>>());
}

#[test]
fn a_line_of_any_length_is_cut_to_fit_and_says_by_how_much() {
    let (_dir, audit) = log_of(3);
    let mut large = entry("rebuild");
    let left_out: Vec<_> =
        (0..10_000).map(|number| format!("manual/unknown-{number}.db: not a backup's file")).collect();
    let steps: Vec<_> =
        left_out.iter().map(|why| serde_json::json!({ "step": "drop", "id": "x", "why": why })).collect();
    let sums: Map<_, _> = left_out.iter().map(|name| (name.clone(), "0".repeat(64).into())).collect();
    large.details.insert("leftOut".to_owned(), left_out.into());
    large.details.insert("rotation".to_owned(), steps.into());
    large.details.insert("checksums".to_owned(), sums.into());
    large.details.insert("reason".to_owned(), "\u{1b}".repeat(200_000).into());
    large.details.insert("backups".to_owned(), 7.into());
    large.by = "\u{1b}".repeat(1000);
    assert_eq!(audit.append(DateTime::UNIX_EPOCH, large).unwrap().seq, 4);
    let text = std::fs::read_to_string(&audit.path).unwrap();
    let line = text.lines().last().unwrap();
    assert!((line.len() as u64) < MAX_LINE, "{}", line.len());
    let details = serde_json::from_str::<Line>(line).unwrap().entry.details;
    let list = details["leftOut"].as_array().unwrap();
    assert_eq!(list[0], "manual/unknown-0.db: not a backup's file");
    assert_eq!(*list.last().unwrap(), format!("… and {} more", 10_000 - (list.len() - 1)));
    assert!(details["checksums"].as_object().unwrap().values().filter_map(Value::as_str).all(|sum| sum.len() == 64));
    assert_eq!(details["rotation"][0]["why"], list[0]);
    assert_eq!(details["backups"], 7);
    assert_eq!(audit.append(DateTime::UNIX_EPOCH, entry("after")).unwrap().seq, 5);
    assert_eq!(audit.verify(None).unwrap(), 5);
}

#[test]
fn what_fits_is_kept_as_it_is() {
    let (_dir, audit) = log_of(0);
    let mut whole = entry("create");
    whole.details.insert("findings".to_owned(), vec!["x".repeat(4000); 10].into());
    audit.append(DateTime::UNIX_EPOCH, whole.clone()).unwrap();
    audit
        .newest_first(|line| {
            assert_eq!(line.entry, whole);
            true
        })
        .unwrap();
}

/// Written by an earlier version, or by somebody: numbers never begin anew behind it.
#[test]
fn the_last_line_is_found_behind_any_length() {
    for (what, whole) in [("x".repeat(700_000) + "\n", true), ("x".repeat(700_000), false)] {
        let (_dir, audit) = log_of(3);
        let before = audit.head().unwrap();
        let mut text = std::fs::read_to_string(&audit.path).unwrap();
        text.push_str(&what);
        std::fs::write(&audit.path, text).unwrap();
        assert_eq!(audit.head().unwrap(), before);
        let after = audit.append(DateTime::UNIX_EPOCH, entry("after")).unwrap();
        assert_eq!(after.seq, if whole { 4 } else { 5 });
        assert_eq!(audit.verify(None).is_ok(), !whole);
    }
    let (_dir, audit) = log_of(1);
    let mut line: Line = serde_json::from_slice(&std::fs::read(&audit.path).unwrap()).unwrap();
    line.entry.details.insert("leftOut".to_owned(), "y".repeat(500_000).into());
    std::fs::write(&audit.path, serde_json::to_string(&line).unwrap() + "\n").unwrap();
    assert_eq!(audit.append(DateTime::UNIX_EPOCH, entry("after")).unwrap().seq, 2);
    assert_eq!(audit.verify(None).unwrap(), 2);
}
