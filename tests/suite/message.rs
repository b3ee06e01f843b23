//! HTTP/1.1 messages as they pass through a proxy: heads are kept byte for byte, bodies are counted.

use std::io::{BufRead, Error, ErrorKind, Read, Result, Write};

/// Everything before a body.
#[derive(Clone, Debug)]
pub struct Head {
    pub bytes: Vec<u8>,
}

/// How a body's end is known.
#[derive(Clone, Copy, Debug)]
pub enum Framing {
    Sized(u64),
    Chunked,
    UntilClosed,
}

impl Head {
    /// Nothing where the other side has closed between two messages.
    pub fn read(from: &mut impl BufRead) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        loop {
            let begin = bytes.len();
            if from.read_until(b'\n', &mut bytes)? == 0 {
                return if bytes.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            if bytes[begin..] == *b"\r\n" {
                return Ok(Some(Self { bytes }));
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// A word of the first line: method and target of a request, status of an answer.
    pub fn word(&self, n: usize) -> String {
        let text = self.text();
        text.lines().next().unwrap_or_default().split(' ').nth(n).unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let text = self.text();
        let mut headers = text.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }

    fn framing(&self) -> Option<Framing> {
        if self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Some(Framing::Chunked);
        }
        self.header("content-length").map(|length| Framing::Sized(length.parse().unwrap()))
    }

    pub fn framing_of_request(&self) -> Framing {
        self.framing().unwrap_or(Framing::Sized(0))
    }

    pub fn framing_of_answer(&self, method: &str) -> Framing {
        let status = self.word(1);
        if method == "HEAD" || status.starts_with('1') || status == "204" || status == "304" {
            return Framing::Sized(0);
        }
        self.framing().unwrap_or(Framing::UntilClosed)
    }
}

/// Passes a body on, at most `limit` bytes of it as they are on the wire. Says how many; an end before its time is an error.
pub fn pass(from: &mut impl BufRead, framing: Framing, limit: Option<u64>, to: &mut impl Write) -> Result<u64> {
    let mut to = Limited { to, left: limit.unwrap_or(u64::MAX), passed: 0 };
    let ended = match framing {
        Framing::Sized(length) => pass_exactly(from, length, &mut to),
        Framing::Chunked => pass_chunks(from, &mut to),
        Framing::UntilClosed => std::io::copy(from, &mut to).map(drop),
    };
    match ended {
        Err(error) if to.left > 0 => Err(error),
        _ => to.to.flush().map(|()| to.passed),
    }
}

fn pass_exactly(from: &mut impl BufRead, length: u64, to: &mut impl Write) -> Result<()> {
    let passed = std::io::copy(&mut from.take(length), to)?;
    if passed < length { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn pass_chunks(from: &mut impl BufRead, to: &mut impl Write) -> Result<()> {
    loop {
        let line = line(from)?;
        to.write_all(line.as_bytes())?;
        let size = line.split([';', '\r']).next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        if size == 0 {
            break;
        }
        pass_exactly(from, size + 2, to)?;
    }
    // Trailers, and the empty line.
    loop {
        let line = line(from)?;
        to.write_all(line.as_bytes())?;
        if line == "\r\n" {
            return Ok(());
        }
    }
}

fn line(from: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(line) }
}

/// Takes so many bytes and no more.
struct Limited<'a, W: Write> {
    to: &'a mut W,
    left: u64,
    passed: u64,
}

impl<W: Write> Write for Limited<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let part = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if part == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WriteZero.into());
        }
        let written = self.to.write(&bytes[..part])?;
        self.left -= written as u64;
        self.passed += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }
}
