use std::io::Write;

use super::stages::{Stage, Stages};
use super::*;
use crate::clock::Clock;

fn key() -> (Recipient, Identity) {
    let pair = Keypair::generate(Clock::system().now());
    let identity = identities(&pair.file).unwrap().remove(0);
    assert_eq!(identity.recipient(), pair.recipient);
    (pair.recipient, identity)
}

fn codec(compressed: bool, encrypted: bool) -> Codec {
    let (recipient, identity) = key();
    Codec {
        level: compressed.then_some(3),
        encrypts: encrypted,
        recipients: vec![recipient],
        identities: vec![identity],
    }
}

fn all() -> Vec<Codec> {
    [(true, false), (false, true), (true, true)].into_iter().map(|(c, e)| codec(c, e)).collect()
}

/// Half of it repeats, half of it doesn't.
fn plain(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size).map(|at| if at / 4096 % 2 == 0 { draw() } else { (at % 7) as u8 }).collect()
}

fn encoded(codec: &Codec, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = codec.encode(Vec::new(), bytes.len() as u64).unwrap();
    bytes.chunks(10_000).for_each(|part| encoder.write_all(part).unwrap());
    encoder.finish().unwrap()
}

fn decoded(codec: &Codec, bytes: &[u8], size: Option<u64>) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    codec.decode(bytes, codec.form(), size)?.read_to_end(&mut plain).map_err(Error::of)?;
    Ok(plain)
}

#[track_caller]
fn assert_damaged(codec: &Codec, bytes: &[u8], size: Option<u64>, what: &str) {
    match decoded(codec, bytes, size) {
        Err(Error::Damaged(reason)) => assert!(!reason.contains('\n') && !reason.is_empty(), "{what}: {reason:?}"),
        Err(error) => panic!("{what}: {:?}: {error}", codec.form()),
        Ok(_) => panic!("{what}: {:?} was taken", codec.form()),
    }
}

/// Around the borders of age's chunks and of zstd's blocks.
const SIZES: [usize; 10] = [0, 1, 511, 65_519, 65_535, 65_536, 65_537, 131_072, 131_073, 400_000];

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for codec in all() {
        for size in SIZES {
            let bytes = plain(size);
            let file = encoded(&codec, &bytes);
            for known in [None, Some(size as u64)] {
                assert!(decoded(&codec, &file, known).unwrap() == bytes, "{:?} {size} {known:?}", codec.form());
            }
        }
    }
}

#[test]
fn what_was_cut_anywhere_is_damaged() {
    for codec in all() {
        for size in [65_536, 131_072, 200_000] {
            let file = encoded(&codec, &plain(size));
            let borders = [0, 1, 21, 22, 100, 200, 216, 300, 65_536, 65_552, 65_752, 131_104];
            let ends = (1..40).map(|less| file.len() - less);
            for len in borders.into_iter().chain(ends).filter(|len| *len < file.len()) {
                assert_damaged(&codec, &file[..len], Some(size as u64), &format!("cut to {len} of {}", file.len()));
                // Of nothing at all nobody can say that it was more.
                if len > 0 {
                    assert_damaged(&codec, &file[..len], None, &format!("cut to {len}, of unknown size"));
                }
            }
        }
    }
}

#[test]
fn what_follows_after_the_end_is_damage() {
    for codec in all() {
        for size in [65_536, 100_000] {
            let file = encoded(&codec, &plain(size));
            for tail in [&b"\0"[..], b"PK", &[0; 70_000], &file] {
                let longer = [&file[..], tail].concat();
                assert_damaged(&codec, &longer, Some(size as u64), &format!("{} bytes more", tail.len()));
                assert_damaged(&codec, &longer, None, "more, of unknown size");
            }
        }
    }
    // Two frames within one age file are no less wrong, nor is one that is skipped.
    let both = codec(true, true);
    let (zstd, age) = (Codec { encrypts: false, ..both.clone() }, Codec { level: None, ..both.clone() });
    let frame = encoded(&zstd, &plain(5000));
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    for inner in [[&frame[..], &frame[..]].concat(), [&frame[..], &skippable[..]].concat()] {
        assert_damaged(&both, &encoded(&age, &inner), None, "two frames");
    }
}

#[test]
fn a_changed_bit_is_damage_wherever_it_is() {
    for codec in all() {
        let file = encoded(&codec, &plain(150_000));
        for step in 0..300 {
            let at = step * (file.len() - 1) / 299;
            let mut changed = file.clone();
            changed[at] ^= 1 << (step % 8);
            match decoded(&codec, &changed, Some(150_000)) {
                Ok(bytes) => assert!(bytes == plain(150_000) && !codec.encrypts, "bit {} of byte {at}", step % 8),
                // A changed stanza is one for somebody else.
                Err(Error::Locked) => assert!(codec.encrypts && at < 300, "byte {at}"),
                Err(Error::Damaged(_)) => {}
                Err(Error::Unread(error)) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_bomb_ends_at_the_recorded_size() {
    let codec = codec(true, true);
    let file = encoded(&codec, &vec![0; 64 << 20]);
    assert!(file.len() < 20_000, "{}", file.len());
    let mut decoder = codec.decode(&file[..], codec.form(), Some(100_000)).unwrap();
    let (mut buffer, mut made) = ([0; 8192], 0);
    let error = loop {
        match decoder.read(&mut buffer) {
            Ok(0) => panic!("all of it was made"),
            Ok(read) => made += read,
            Err(error) => break error,
        }
    };
    assert!(made <= 100_000 && error.to_string().contains("more than was recorded"), "{made}: {error}");
    // One that wants a window of more memory than any of our levels.
    let mut wide = zstd::Encoder::new(Vec::new(), 19).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(&plain(1 << 20)).unwrap();
    let zstd = Codec { encrypts: false, ..codec };
    assert_damaged(&zstd, &wide.finish().unwrap(), None, "a wide window");
}

#[test]
fn only_its_own_identity_opens_it() {
    let codec = codec(true, true);
    let file = encoded(&codec, b"SQLite format 3");
    let (_, other) = key();
    for identities in [vec![], vec![other.clone()]] {
        let stranger = Codec { identities, ..codec.clone() };
        assert!(matches!(decoded(&stranger, &file, None), Err(Error::Locked)));
        assert!(!stranger.opens(codec.form(), &[codec.recipients[0].to_string()]));
    }
    // Any one of several is enough, on both sides.
    let several = Codec { identities: vec![other.clone(), codec.identities[0].clone()], ..codec.clone() };
    assert!(decoded(&several, &file, None).is_ok());
    assert!(several.opens(codec.form(), &[codec.recipients[0].to_string()]));
    let for_two = Codec { recipients: vec![codec.recipients[0].clone(), other.recipient()], ..codec.clone() };
    let file = encoded(&for_two, b"SQLite format 3");
    assert!(decoded(&Codec { identities: vec![other], ..codec }, &file, None).is_ok());
}

#[test]
fn a_failing_disk_is_no_damage() {
    for codec in all() {
        let file = encoded(&codec, &plain(300_000));
        for part in [0, 10, 1000, file.len() / 2] {
            let decoded = codec.decode(Failing { bytes: &file[..part], failed: false }, codec.form(), Some(300_000));
            let failed = decoded.and_then(|mut it| it.read_to_end(&mut Vec::new()).map_err(Error::of));
            assert!(matches!(failed, Err(Error::Unread(_))), "{:?} {part}", codec.form());
        }
    }
}

/// Fails once, and would then go on with something else.
struct Failing<'a> {
    bytes: &'a [u8],
    failed: bool,
}

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!self.failed, "it is read on after an error");
        self.failed = self.bytes.is_empty();
        if self.failed { Err(io::Error::from_raw_os_error(5)) } else { self.bytes.read(buffer) }
    }
}

#[test]
fn what_was_made_before_an_error_comes_first() {
    for codec in all() {
        let (bytes, size) = (plain(3 << 20), 3 << 20);
        let file = encoded(&codec, &bytes);
        let mut made = Vec::new();
        let half = Failing { bytes: &file[..file.len() / 2], failed: false };
        let error = codec.decode(half, codec.form(), Some(size)).unwrap().read_to_end(&mut made).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{:?}", codec.form());
        // But for what the last chunk and the last block would have given.
        assert!(made.len() > 1 << 20 && bytes.starts_with(&made), "{:?} {}", codec.form(), made.len());
    }
}

/// Nothing is waited for that nobody will give or take.
#[test]
fn a_decoder_can_be_dropped_at_any_time() {
    for codec in all() {
        let size = 5 << 20;
        let file = encoded(&codec, &plain(size));
        for part in [0, 1, 100_000, 300_000, 3 << 20, size] {
            let mut decoder = codec.decode(&file[..], codec.form(), Some(size as u64)).unwrap();
            decoder.read_exact(&mut vec![0; part]).unwrap();
            // Its threads fill all that they may.
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(decoder);
        }
    }
}

/// A thread that goes down takes nobody with it, and what it was to make doesn't pass for whole.
#[test]
fn a_stage_that_breaks_off_is_an_error() {
    struct Breaks;
    impl Read for Breaks {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("on purpose")
        }
    }
    fn goes() -> Stage {
        Box::new(|inlet| Ok(Box::new(inlet)))
    }
    fn breaks() -> Stage {
        Box::new(|_| Ok(Box::new(Breaks)))
    }
    fn cannot() -> Stage {
        Box::new(|_| panic!("on purpose"))
    }
    for stages in [vec![breaks()], vec![goes(), breaks()], vec![breaks(), goes()], vec![cannot(), goes()]] {
        let ended = Stages::begin(&[7; 1 << 20][..], stages).map_err(|error| error.to_string());
        let error = ended.and_then(|mut it| it.read_to_end(&mut Vec::new()).map_err(|error| error.to_string()));
        assert!(error.unwrap_err().contains("broke off"));
    }
    let mut all = Vec::new();
    Stages::begin(&[7; 3 << 20][..], vec![goes(), goes()]).unwrap().read_to_end(&mut all).unwrap();
    assert!(all == [7; 3 << 20]);
}

#[test]
fn keys_are_parsed_strictly_and_identities_never_shown() {
    let pair = Keypair::generate(Clock::system().now());
    let secret = pair.file.lines().last().unwrap();
    let identity = &identities(&pair.file).unwrap()[0];
    assert!(secret.starts_with("AGE-SECRET-KEY-1") && !format!("{identity:?}").contains(secret));
    let text = pair.recipient.to_string();
    assert_eq!(text.parse::<Recipient>().unwrap(), pair.recipient);
    let low_order = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqhy2e5y";
    let cut = &text[..text.len() - 1];
    for bad in ["", "age1", cut, &text.replace('1', "l"), "ssh-ed25519 AAAA", "age1yubikey1qqq", low_order] {
        assert!(bad.parse::<Recipient>().is_err(), "{bad} was taken");
    }
    assert!(secret.parse::<Recipient>().is_err());
    for bad in ["", "# only a comment\n", &text, "age-encryption.org/v1\n-> scrypt", &secret[..70], "AGE-PLUGIN-X-1QQ"]
    {
        let said = identities(bad).unwrap_err();
        assert!(!said.contains("age1") && !said.contains(&secret[20..]), "{said}");
    }
    let (two, _) = (format!("\r\n{secret}\r\n# x\n\n{secret}"), ());
    assert_eq!(identities(&two).unwrap().len(), 2);
}
