//! The stream of events, which resumes by itself.
//!
//! ```text
//! connect ──► read ──► event: remembered by its number, handed out
//!    ▲          │
//!    └─ pause ◄─┴─ broken, ended, or silent for too long: `Last-Event-ID` names the last one
//! ```
//!
//! Until the first event it is the number that the server says it starts after: what happens while a connection is made
//! again is not lost.
//!
//! A refusal (no credential, a number that is no longer kept) ends the stream. A connection that breaks does not, until
//! it cannot be made again with the client's patience.

use std::{fmt, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use hostler_link::{
    Body, LinkError, chunks,
    sse::{self, SseEvent},
};
use hostler_model::event::Entry;
use uuid::Uuid;

use crate::{Client, ClientError, call::Call};

type Source = Pin<Box<dyn Stream<Item = Result<SseEvent, LinkError>> + Send>>;

/// The number that the server's stream starts after.
const SEQ: &str = "x-hostler-seq";

const NAME: &str = "GET /api/v1/events";

/// Which events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventQuery {
    /// Those with a larger number; without it those that are yet to come.
    pub after: Option<i64>,
    /// Only about this thing.
    pub subject: Option<Uuid>,
}

/// Events as they happen. It never ends by itself.
pub struct Events {
    client: Client,
    which: EventQuery,
    source: Option<Source>,
    broken: u32,
}

impl Client {
    /// Events as they happen; nothing is sent before the first is asked for.
    pub fn events(&self, which: EventQuery) -> Events {
        Events { client: self.clone(), which, source: None, broken: 0 }
    }
}

impl Events {
    /// Makes the connection, if there is none: what happens from now on will be handed out.
    ///
    /// # Errors
    /// When the server refuses, or does not answer.
    pub async fn connect(&mut self) -> Result<(), ClientError> {
        if self.source.is_some() {
            return Ok(());
        }
        let mut call = Call::get("/api/v1/events")
            .query("after", self.which.after)
            .query("subject", self.which.subject)
            .header("accept", "text/event-stream")?;
        if let Some(after) = self.which.after {
            call = call.header("last-event-id", &after.to_string())?;
        }
        let answer = self.client.open(&call).await?;
        let starts = answer.headers().get(SEQ).and_then(|value| value.to_str().ok()?.parse().ok());
        self.which.after = self.which.after.or(starts);
        self.source = Some(Box::pin(sse::events(heard(answer.into_body(), self.client.patience.silence))));
        Ok(())
    }

    /// The number that the next event comes after, once there is a connection.
    pub fn after(&self) -> Option<i64> {
        self.which.after
    }

    /// The next event. Dropping the future while it waits for one loses none; while it connects, the connection is made
    /// again.
    ///
    /// # Errors
    /// When the server refuses, or cannot be reached any more. Asking again tries again.
    pub async fn next(&mut self) -> Result<Entry, ClientError> {
        loop {
            self.connect().await?;
            let Some(source) = &mut self.source else { continue };
            match source.next().await {
                Some(Ok(event)) => {
                    if let Some(entry) = self.entry(&event)? {
                        return Ok(entry);
                    }
                }
                Some(Err(_)) | None => self.pause().await?,
            }
        }
    }

    /// What an event says; `None` for one without a number, which is no entry of the log.
    fn entry(&mut self, event: &SseEvent) -> Result<Option<Entry>, ClientError> {
        let Some(number) = event.id.as_deref().and_then(|id| id.parse().ok()) else { return Ok(None) };
        (self.which.after, self.broken) = (Some(number), 0);
        serde_json::from_str(&event.data).map(Some).map_err(|error| {
            let detail = format!("event {number}: {error}");
            ClientError::of(NAME, LinkError::Unreadable(detail))
        })
    }

    /// Before the connection is made again. A server that takes it and lets it fall each time is not there either.
    async fn pause(&mut self) -> Result<(), ClientError> {
        self.source = None;
        self.broken += 1;
        if self.broken > self.client.patience.attempts {
            self.broken = 0;
            let detail = "the stream of events ends each time as soon as it begins".to_owned();
            return Err(ClientError::of(NAME, LinkError::Unreadable(detail)));
        }
        tokio::time::sleep(self.client.patience.pause_after(self.broken)).await;
        Ok(())
    }
}

/// A body that fails when it is silent for too long: a server sends comments, so a silent one is gone.
fn heard(body: Body, silence: Duration) -> Body {
    Body::wrap_stream(stream::unfold(chunks(body), move |mut chunks| async move {
        let next = match tokio::time::timeout(silence, chunks.next()).await {
            Ok(next) => next?,
            Err(_) => Err(LinkError::TimedOut { after: silence }),
        };
        Some((next, chunks))
    }))
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("which", &self.which).finish_non_exhaustive()
    }
}
