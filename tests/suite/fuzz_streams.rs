//! Files that are read as streams: LTX, packs of the journal, compressed and encrypted copies, what states were as a whole. What isn't
//! what it says is refused, and nothing larger is made of it than it may be.

use std::io::Read;

use attendance_backup::backup::Form;
use attendance_backup::codec::{Codec, identities};
use attendance_backup::journal::index::Point;
use attendance_backup::journal::ltx::{Decoder, Encoder, Header};
use attendance_backup::journal::pack::Key;
use attendance_backup::journal::tarball::Unpacker;
use attendance_backup::journal::timeline::Timeline;
use attendance_backup::journal::{Txid, ltx, states};
use proptest::prelude::*;

use crate::fuzz::{cases, changed, corpus, document};

type Pages = Vec<(u32, Vec<u8>)>;

fn decoded(bytes: &[u8]) -> Result<(Header, Pages), ltx::Error> {
    let mut decoder = Decoder::new(bytes)?;
    let (mut pages, mut page) = (Vec::new(), Vec::new());
    while let Some(number) = decoder.page(&mut page)? {
        pages.push((number, page.clone()));
    }
    let header = decoder.header();
    decoder.finish()?;
    Ok((header, pages))
}

/// The pack in the corpus is of these files.
const PACK: &str =
    "journal/5f0c2a9be1d37784/attendance/0/0000000000000001-0000000000000003-001764147600000-001764147602000.tar.zst";

/// What the corpus has: each file begins with a byte that says in which form the others are.
fn form(bytes: &[u8]) -> Form {
    Form::ALL[usize::from(bytes.first().copied().unwrap_or_default()) % Form::ALL.len()]
}

proptest! {
    #![proptest_config(cases(1000, "proptest-regressions/fuzz_streams.txt"))]

    #[test]
    fn an_ltx_file(bytes in changed(corpus("ltx"))) {
        if let Ok((header, pages)) = decoded(&bytes) {
            let mut encoder = Encoder::new(Vec::new(), header).unwrap();
            pages.iter().for_each(|(number, page)| encoder.page(*number, page).unwrap());
            let (again, same) = decoded(&encoder.finish().unwrap()).unwrap();
            prop_assert_eq!(again, header);
            prop_assert!(same == pages);
        }
    }

    #[test]
    fn a_pack_of_the_journal(bytes in changed(corpus("pack"))) {
        let Some(Key::Pack { database, span, .. }) = Key::parse(PACK) else { panic!("{PACK}") };
        let mut unpacker = Unpacker::new(bytes.as_slice(), &database, span);
        let mut files = Vec::new();
        while let Ok(Some(file)) = unpacker.next_file() {
            let mut content = Vec::new();
            unpacker.read_to_end(&mut content).unwrap();
            prop_assert!(content.len() <= bytes.len());
            files.push(file);
        }
        prop_assert!(files.len() <= 3 && files.iter().all(|file| span.min <= file.name.min && file.name.max <= span.max));
    }

    #[test]
    fn what_states_were(bytes in changed(corpus("states"))) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("states"), &bytes).unwrap();
        let points: Vec<_> = (1..4).map(|number| Point { txid: Txid::new(number).unwrap(), millis: 1_764_147_600_000 + 1000 * (number - 1) }).collect();
        let all = states::find_all(dir.path(), &points);
        prop_assert_eq!(all.len(), points.len());
        let _ = states::find(dir.path(), points[0]);
    }

    #[test]
    fn the_journals_timeline(gaps in document("timeline"), alive in changed(vec![b"2026-03-01T12:00:00.123Z\n".to_vec()])) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("journal/auth")).unwrap();
        for name in ["timeline.json", "auth/timeline.json"] {
            std::fs::write(dir.path().join("journal").join(name), &gaps).unwrap();
        }
        std::fs::write(dir.path().join("journal/alive"), &alive).unwrap();
        std::fs::write(dir.path().join("journal/wrong"), &alive).unwrap();
        if let Ok(timeline) = Timeline::read(dir.path()) {
            prop_assert!(timeline.wrong_since.is_some());
            let of_both = timeline.clone().of(dir.path(), [&"auth".parse().unwrap()]).unwrap();
            prop_assert!(of_both.gaps.len() == 2 * timeline.gaps.len() && of_both.alive <= timeline.alive.or(of_both.alive));
        }
    }

    #[test]
    fn a_copy_in_another_form(bytes in changed(corpus("coded")), known in any::<bool>()) {
        let identity = String::from_utf8(corpus("identity")[0].clone()).unwrap();
        let codec = Codec { identities: identities(&identity).unwrap(), ..Codec::default() };
        // As plain bytes are recorded of each: 3000.
        let size = known.then_some(3000);
        let mut plain = Vec::new();
        if let Ok(decoder) = codec.decode(&bytes[1.min(bytes.len())..], form(&bytes), size) {
            let read = decoder.take(1 << 24).read_to_end(&mut plain);
            prop_assert!(!known || plain.len() <= 3000, "{} bytes", plain.len());
            prop_assert!(!known || read.is_err() || plain.len() == 3000, "{} bytes", plain.len());
        }
    }

    #[test]
    fn a_file_of_identities(bytes in changed(corpus("identity"))) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(reason) = identities(&text) {
            prop_assert!(!reason.contains("AGE-SECRET-KEY-1Q"), "{}", reason);
        }
    }
}
