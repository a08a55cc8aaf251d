//! Whether a connection is used: requests that are under way, and since when there was none and no piece of an answer was
//! taken. HTTP has a limit for a head that does not end, but none for a peer that says nothing or answers pings only.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

/// The use of one connection.
#[derive(Clone, Debug)]
pub(super) struct Usage(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    under_way: usize,
    since: Instant,
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct UnderWay(Usage);

impl Usage {
    pub(super) fn new() -> Usage {
        Usage(Arc::new(Mutex::new(State { under_way: 0, since: Instant::now() })))
    }

    /// A request begins.
    pub(super) fn begin(&self) -> UnderWay {
        self.change(|state| state.under_way += 1);
        UnderWay(self.clone())
    }

    /// Returns when there was no request for so long, and nobody took a piece of an answer.
    pub(super) async fn unused(&self, most: Duration) {
        loop {
            let left = self.change(|state| match state.under_way {
                0 => most.saturating_sub(state.since.elapsed()),
                _ => most,
            });
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl UnderWay {
    /// The answer begins. From now on every piece of it that is taken counts: who takes none waits for nothing.
    pub(super) fn answered(self, answer: Response) -> Response {
        if answer.body().is_end_stream() {
            return answer;
        }
        let usage = self.0.clone();
        answer.map(|body| Body::new(Sent { body, usage }))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.under_way -= 1;
            state.since = Instant::now();
        });
    }
}

/// A body that is being sent.
struct Sent {
    body: Body,
    usage: Usage,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            self.usage.change(|state| state.since = Instant::now());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const MOST: Duration = Duration::from_secs(90);

    async fn ends_within(usage: &Usage, seconds: u64) -> bool {
        tokio::time::timeout(Duration::from_secs(seconds), usage.unused(MOST)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_unused_after_its_time() {
        let usage = Usage::new();
        assert!(!ends_within(&usage, 89).await);
        assert!(ends_within(&usage, 2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_a_use_and_an_answer_is_for_as_long_as_it_is_taken() {
        let usage = Usage::new();
        let request = usage.begin();
        assert!(!ends_within(&usage, 1000).await);
        let pieces = futures_util::stream::iter(["one", "two", "three"].map(Ok::<_, std::io::Error>));
        let mut answer = request.answered(Response::new(Body::from_stream(pieces))).into_body();
        for _ in 0..3 {
            assert!(!ends_within(&usage, 89).await);
            answer.frame().await.unwrap().unwrap();
        }
        assert!(!ends_within(&usage, 89).await);
        assert!(ends_within(&usage, 2).await, "nobody takes the rest");
        drop(usage.begin().answered(Response::new(Body::empty())));
        assert!(!ends_within(&usage, 89).await, "a request begins its time anew");
    }
}
