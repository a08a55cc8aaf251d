//! Events over SSE: `/api/v1/events`. `id:` is an event's number, `event:` its kind, `data:` the entry as JSON.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{
        AppendHeaders, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt};
use hostler_model::{Refusal, api::StreamedEvent, event::Entry};
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::{document::Refusals, query::InQuery};
use crate::app::{App, Result, caller::Call, event::Following};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The number that a stream starts after: known before its first event, so that one that breaks before it resumes.
const SEQ: HeaderName = HeaderName::from_static("x-hostler-seq");
/// How often a comment keeps the connection alive: below the idle limits of common proxies (30 s and more).
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Those above this number; where nothing is said, those from now on. `Last-Event-ID` comes first.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// Only about the thing with this id.
    subject: Option<Uuid>,
}

/// Follows events as they happen, without a gap. The stream ends when the credential does, and not before.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    params(EventsQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event that was seen")),
    responses(
        (status = 200, description = "Events", content_type = "text/event-stream", body = StreamedEvent,
            headers(("x-hostler-seq" = i64, description = "The number that the events come after"))),
        Refusals))]
pub(super) async fn follow_events(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<EventsQuery>,
    headers: HeaderMap,
) -> Result<(AppendHeaders<[(HeaderName, i64); 1]>, Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>)> {
    let after = last_event(&headers)?.or(query.after);
    let Following { after, entries } = app.follow(&call, after, query.subject).await?;
    let events = ReceiverStream::new(entries).map(|entry| Ok(event(&entry)));
    let stream = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok((AppendHeaders([(SEQ, after)]), stream))
}

/// The number of what a follower saw last, where it says so.
pub(super) fn last_event(headers: &HeaderMap) -> Result<Option<i64>> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Refusal::field("Last-Event-ID", "it is the number of the last that was seen").into())
}

fn event(entry: &Entry) -> Event {
    let event = Event::default().id(entry.seq.to_string()).event(&entry.kind);
    event.json_data(entry).unwrap_or_else(|_| Event::default().comment("an entry could not be written"))
}
