//! Bodies in pieces: booked on the line one by one, and none waited for without end.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http_body::{Frame, SizeHint};
use opendal::Buffer;
use tokio::time::{Instant, Sleep};

use super::{Call, Failure, failure};
use crate::remote::pace::Line;

/// A body on its way out.
pub(super) struct Sent {
    rest: Buffer,
    line: Arc<Line>,
    /// The next piece, and until when the line is taken.
    booked: Option<(Bytes, Pin<Box<Sleep>>)>,
    progress: Progress,
}

impl Sent {
    pub(super) fn new(body: Buffer, line: Arc<Line>) -> Self {
        let now = Instant::now();
        let gone = Gone { began: now, last: now, is_whole: body.is_empty() };
        Self { rest: body, line, booked: None, progress: Progress(Arc::new(Mutex::new(gone))) }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.booked.is_none() {
            if self.rest.is_empty() {
                return Poll::Ready(None);
            }
            let size = self.line.piece().min(self.rest.len());
            let piece = self.rest.copy_to_bytes(size);
            let wait = self.line.book(size);
            self.progress.goes_on(wait, false);
            self.booked = Some((piece, Box::pin(tokio::time::sleep(wait))));
        }
        if let Some((_, sleep)) = &mut self.booked {
            ready!(sleep.as_mut().poll(context));
        }
        self.progress.goes_on(Duration::ZERO, self.rest.is_empty());
        Poll::Ready(self.booked.take().map(|(piece, _)| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.booked.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let booked = self.booked.as_ref().map_or(0, |(piece, _)| piece.len());
        SizeHint::with_exact((self.rest.len() + booked) as u64)
    }
}

/// How far a body has gone out.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<Gone>>);

struct Gone {
    began: Instant,
    last: Instant,
    is_whole: bool,
}

impl Progress {
    fn goes_on(&self, wait: Duration, is_whole: bool) {
        let mut gone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gone.last = Instant::now() + wait;
        gone.is_whole = is_whole;
    }

    /// When nothing has moved for that long. The end of a body lies in the system's buffers for about as long as the rest took.
    fn deadline(&self, timeout: Duration) -> Instant {
        let gone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let in_buffers = if gone.is_whole { gone.last.duration_since(gone.began) } else { Duration::ZERO };
        gone.last + timeout + in_buffers
    }

    /// Ends when nothing has moved for that long.
    pub(super) async fn stands_still_for(&self, timeout: Duration) {
        loop {
            let deadline = self.deadline(timeout);
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// A body on its way in.
pub(super) struct Received {
    first: Option<Bytes>,
    rest: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send + Sync>>,
    call: Arc<Call>,
    /// Until when the next piece must be there, once it is waited for.
    late: Pin<Box<Sleep>>,
    waits_since: Option<Instant>,
    /// A piece that waits until the line is free.
    booked: Option<(Bytes, Pin<Box<Sleep>>)>,
}

/// Time spent waiting within a call, and what came of it.
#[derive(Default)]
pub(super) struct Drip {
    waited: Duration,
    bytes: usize,
}

impl Drip {
    /// Whether a body that comes drop by drop is as good as none. Then it stays so, however often it is asked for again.
    fn is_one(&mut self, waited: Duration, bytes: usize, window: Duration) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < window {
            return false;
        }
        let is_one = (self.bytes as f64) < DROPS * self.waited.as_secs_f64();
        if !is_one {
            *self = Self::default();
        }
        is_one
    }
}

/// Bytes a second that a body brings at least, over four time-outs.
const DROPS: f64 = 256.0;

impl Received {
    pub(super) fn new(first: Option<Bytes>, response: reqwest::Response, call: Arc<Call>) -> Self {
        Self {
            first,
            rest: Box::pin(response.bytes_stream()),
            late: Box::pin(tokio::time::sleep(call.timeout)),
            booked: None,
            waits_since: None,
            call,
        }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(self.counted(first)));
        }
        match self.rest.as_mut().poll_next(context) {
            Poll::Ready(piece) => {
                let Some(piece) = piece else { return Poll::Ready(None) };
                Poll::Ready(Some(piece.map_err(|error| failure(&error)).and_then(|piece| self.counted(piece))))
            }
            Poll::Pending => {
                // Whoever reads may take their time in between.
                if self.waits_since.is_none() {
                    let now = Instant::now();
                    self.waits_since = Some(now);
                    let timeout = self.call.timeout;
                    self.late.as_mut().reset(now + timeout);
                }
                ready!(self.late.as_mut().poll(context));
                Poll::Ready(Some(Err(Failure::Timeout(self.call.timeout))))
            }
        }
    }

    fn counted(&mut self, piece: Bytes) -> Result<Bytes, Failure> {
        let window = 4 * self.call.timeout;
        let waited = self.waits_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        let mut drip = self.call.drip.lock().unwrap_or_else(PoisonError::into_inner);
        if drip.is_one(waited, piece.len(), window) { Err(Failure::Timeout(window)) } else { Ok(piece) }
    }
}

impl Stream for Received {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some((_, sleep)) = &mut self.booked {
                ready!(sleep.as_mut().poll(context));
                return Poll::Ready(self.booked.take().map(|(piece, _)| Ok(Buffer::from(piece))));
            }
            match ready!(self.poll_piece(context)) {
                None => return Poll::Ready(None),
                Some(Err(failure)) => return Poll::Ready(Some(Err(self.call.failed(failure)))),
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    let wait = self.call.line.book(piece.len());
                    self.booked = Some((piece, Box::pin(tokio::time::sleep(wait))));
                }
            }
        }
    }
}
