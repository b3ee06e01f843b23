//! Answers from memory, handed on in pieces. What is handed on is copied into a buffer of its connection, and for whoever doesn't read
//! that would be all of it: thousands of such connections, which need no token, would take gigabytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;

/// Bytes of a piece. actix asks for the next one while it has less than 32 KiB to send.
const PIECE: usize = 8 << 10;

/// What is still to be handed on.
struct Pieces(Bytes);

/// The same body, in pieces if it lies in memory as a whole.
pub fn in_pieces(body: BoxBody) -> BoxBody {
    match body.try_into_bytes() {
        Ok(bytes) if bytes.len() > PIECE => BoxBody::new(Pieces(bytes)),
        Ok(bytes) => BoxBody::new(bytes),
        Err(body) => body,
    }
}

impl MessageBody for Pieces {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let length = self.0.len().min(PIECE);
        Poll::Ready((length > 0).then(|| Ok(self.0.split_to(length))))
    }
}
