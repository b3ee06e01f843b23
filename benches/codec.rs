//! One file through the codec into another, as `scripts/bench_codec` times it beside the shell:
//! `codec encode|decode FROM TO IDENTITY-FILE LEVEL`.

use std::fs::File;
use std::io::{self, Read, Write};

use attendance_backup::backup::Form;
use attendance_backup::codec::{Codec, identities};

/// Bytes that are given on at once, as the engine does.
const PIECE: usize = 256 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [task, from, to, key, level] = arguments.as_slice() else {
        return Err("codec encode|decode FROM TO IDENTITY-FILE LEVEL (scripts/bench_codec runs it)".into());
    };
    let identities = identities(&std::fs::read_to_string(key)?)?;
    let recipients = identities.iter().map(|identity| identity.recipient()).collect();
    let codec = Codec { level: Some(level.parse()?), encrypts: true, recipients, identities };
    let (mut from, to) = (File::open(from)?, File::create(to)?);
    if task == "encode" {
        let size = from.metadata()?.len();
        let mut encoder = codec.encode(to, size)?;
        pass_on(&mut from, &mut encoder)?;
        encoder.finish()?;
    } else {
        let mut decoder = codec.decode(from, Form::CompressedEncrypted, None)?;
        pass_on(&mut decoder, &mut &to)?;
    }
    Ok(())
}

fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            read => to.write_all(&piece[..read])?,
        }
    }
}
