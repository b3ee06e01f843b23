use super::*;

fn entry(operation: &str) -> Entry {
    Entry {
        kind: Kind::Outcome,
        operation: operation.to_owned(),
        by: "someone".to_owned(),
        from: "test".to_owned(),
        id: None,
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
