use proptest::prelude::*;

use super::*;

fn header(page_size: u32, pages: u32, (min, max): (u64, u64)) -> Header {
    let txid = |number| Txid::new(number).unwrap();
    Header { page_size, pages, min: txid(min), max: txid(max), millis: 1_760_000_000_123 }
}

fn encoded(header: Header, pages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    pages.iter().for_each(|(number, data)| encoder.page(*number, data).unwrap());
    encoder.finish().unwrap()
}

type Decoded = (Header, Vec<(u32, Vec<u8>)>);

fn decoded(bytes: &[u8]) -> Result<Decoded, Error> {
    let mut decoder = Decoder::new(bytes)?;
    let (mut pages, mut page) = (Vec::new(), Vec::new());
    while let Some(number) = decoder.page(&mut page)? {
        pages.push((number, page.clone()));
    }
    let header = decoder.header();
    decoder.finish()?;
    Ok((header, pages))
}

fn page(size: usize, seed: u64) -> Vec<u8> {
    // The first half doesn't compress, the second does.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..size).map(|at| if at < size / 2 { next() } else { seed as u8 }).collect()
}

#[test]
fn the_checksum_is_the_one_of_go() {
    let mut sum = FileSum::new();
    sum.add(b"123456789");
    assert_eq!(sum.value(), 0xb909_56c7_75a4_1001);
    let (mut whole, mut parts, bytes) = (FileSum::new(), FileSum::new(), page(70_001, 3));
    whole.add(&bytes);
    bytes.chunks(77).for_each(|part| parts.add(part));
    assert_eq!(whole.value(), parts.value());
}

#[test]
fn what_was_written_is_read() {
    for size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let pages: Vec<_> = (1..=5).map(|number| (number, page(size as usize, number.into()))).collect();
        let snapshot = header(size, 5, (1, 7));
        assert_eq!(decoded(&encoded(snapshot, &pages)).unwrap(), (snapshot, pages.clone()));
        let increment = header(size, 9, (3, 3));
        let some = [pages[1].clone(), pages[4].clone()];
        assert_eq!(decoded(&encoded(increment, &some)).unwrap(), (increment, some.to_vec()));
        assert_eq!(decoded(&encoded(increment, &[])).unwrap(), (increment, Vec::new()));
    }
}

#[test]
fn a_file_is_these_very_bytes() {
    let bytes = encoded(header(512, 3, (2, 2)), &[(2, vec![7; 512])]);
    let head = "4c54583100000002000002000000000300000000000000020000000000000002";
    assert_eq!(crate::backup::hex(&bytes[..40]), format!("{head}{:016x}", 1_760_000_000_123_u64));
    assert!(bytes[40..100].iter().all(|byte| *byte == 0));
    let length = u32::from_be_bytes(bytes[106..110].try_into().unwrap()) as usize;
    assert_eq!(bytes[100..106], [0, 0, 0, 2, 0, 1]);
    let index = 110 + length + 6;
    assert_eq!(bytes[110 + length..index], [0; 6]);
    assert_eq!(bytes[index..index + 5], [2, 100, 10 + length as u8, 0, 0]);
    assert_eq!(bytes[index + 4..index + 20], [[0; 7].as_slice(), &[4], &[0; 8]].concat());
    assert_eq!(bytes.len(), index + 28);
}

#[test]
fn pages_that_dont_belong_are_refused() {
    let refused = |header: Header, numbers: &[u32]| {
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        let all = numbers.iter().try_for_each(|number| encoder.page(*number, &vec![0; header.page_size as usize]));
        all.and_then(|()| encoder.finish().map(drop)).unwrap_err().to_string()
    };
    let (some, snapshot) = (header(512, 9, (2, 3)), header(512, 3, (1, 3)));
    assert_eq!(refused(some, &[0]), "its pages aren't in order");
    assert_eq!(refused(some, &[4, 4]), "its pages aren't in order");
    assert_eq!(refused(some, &[9, 10]), "it has a page beyond the database's end");
    for lacking in [&[][..], &[1, 2], &[2], &[1, 3]] {
        assert_eq!(refused(snapshot, lacking), "it is a snapshot that lacks pages");
    }
    let large = header(65536, 16_386, (2, 2));
    assert_eq!(refused(large, &[16_384, 16_385]), "it has SQLite's lock page");
    assert!(Encoder::new(Vec::new(), header(512, 1, (1, 1))).unwrap().page(1, &[0; 511]).is_err());
    for bad in [header(513, 1, (1, 1)), header(256, 1, (1, 1)), header(512, 0, (1, 1)), header(512, 1, (2, 1))] {
        assert!(Encoder::new(Vec::new(), bad).is_err());
    }
    assert!(Encoder::new(Vec::new(), Header { millis: u64::MAX, ..some }).is_err());
}

#[test]
fn a_snapshot_passes_over_the_lock_page() {
    let header = header(65536, 16_386, (1, 1));
    let mut order = Order::new(header);
    (1..=16_384).for_each(|number| order.take(number).unwrap());
    assert!(order.end().is_err() && order.take(16_385).is_err());
    order.take(16_386).unwrap();
    order.end().unwrap();
    assert_eq!((header.after(16_383), header.after(16_384), header.after(16_386)), (16_384, 16_386, 16_387));
}

/// The same file with a right checksum, whatever else is wrong with it.
fn resealed(mut bytes: Vec<u8>, uncompressed: &[u8]) -> Vec<u8> {
    let end = bytes.len() - 8;
    let length = u32::from_be_bytes(bytes[106..110].try_into().unwrap()) as usize;
    let mut sum = FileSum::new();
    [&bytes[..110], uncompressed, &bytes[110 + length..end]].into_iter().for_each(|part| sum.add(part));
    bytes[end..].copy_from_slice(&sum.value().to_be_bytes());
    bytes
}

#[test]
fn a_lie_under_a_right_checksum_is_found() {
    let data = page(512, 9);
    let good = encoded(header(512, 3, (2, 2)), &[(2, data.clone())]);
    assert_eq!(resealed(good.clone(), &data), good);
    let told = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        decoded(&resealed(bytes, &data)).unwrap_err().to_string()
    };
    let index = good.len() - 28;
    assert_eq!(told(index, 3), "its index isn't that of its pages");
    assert_eq!(told(good.len() - 17, 9), "its index isn't that of its pages");
    assert_eq!(told(good.len() - 16, 0x80), "it has a checksum of a database where none is kept");
    assert_eq!(told(40, 0x80), "it has a checksum of a database where none is kept");
    assert_eq!(told(7, 0), "its flags are none that this program knows");
    assert_eq!(told(103, 9), "it has a page beyond the database's end");
    assert_eq!(told(105, 0), "a page has flags that this program doesn't know");
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(decoded(&longer).unwrap_err().to_string(), "something follows its end");
    let mut huge = good.clone();
    huge[106] = 0xff;
    assert_eq!(decoded(&huge).unwrap_err().to_string(), "a page is longer than one can be");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_of_any_kind_are_refused_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), shape in 0..3) {
        let good = encoded(header(512, 2, (1, 1)), &[(1, page(512, 1)), (2, page(512, 2))]);
        if shape > 0 {
            // A head that passes, or a whole first page.
            let kept = if shape == 1 { 100 } else { 110 };
            bytes.splice(..0, good[..kept].iter().copied());
        }
        prop_assert!(decoded(&bytes).is_err());
    }

    #[test]
    fn what_changed_on_the_disk_is_found(at in any::<prop::sample::Index>(), flip in 1..=255_u8, cut in any::<prop::sample::Index>()) {
        let pages = [(1, page(512, 1)), (2, vec![0; 512]), (3, page(512, 3))];
        let good = encoded(header(512, 3, (1, 4)), &pages);
        let mut bad = good.clone();
        bad[at.index(good.len())] ^= flip;
        // LZ4 has more than one block for the same page; what comes out counts.
        prop_assert!(decoded(&bad).is_ok_and(|decoded| decoded.1 == pages) || decoded(&bad).is_err());
        prop_assert!(decoded(&good[..cut.index(good.len())]).is_err());
    }
}

/// Pages that lie as they are come back as they went, of every size; LZ4's own reader takes their blocks.
#[test]
fn what_was_stored_is_read() {
    for size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let header = header(size, 9, (3, 3));
        let pages: Vec<_> = [2, 5].map(|number| (number, page(size as usize, number.into()))).to_vec();
        let mut encoder = Encoder::stored(Vec::new(), header).unwrap();
        pages.iter().for_each(|(number, data)| encoder.page(*number, data).unwrap());
        let bytes = encoder.finish().unwrap();
        assert!(bytes.windows(size as usize).any(|part| part == pages[0].1), "{size}: it is not as it is");
        assert_eq!(decoded(&bytes).unwrap(), (header, pages));
    }
}

/// What is beneath may find out only then that its own end is missing.
#[test]
fn an_end_that_is_missing_beneath_is_told() {
    struct CutShort<'a>(&'a [u8]);
    impl io::Read for CutShort<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            match self.0.read(into) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                read => read,
            }
        }
    }
    let bytes = encoded(header(512, 9, (3, 3)), &[(2, page(512, 2))]);
    let decoder = Decoder::new(CutShort(&bytes)).unwrap();
    assert!(matches!(decoder.finish(), Err(Error::Io(_))));
}
