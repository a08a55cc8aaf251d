//! The stream of events: it resumes where it broke, and ends with a refusal.

mod common;

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use common::{broken_after, client, event, refuse};
use futures_util::stream;
use hostler_client::EventQuery;
use hostler_model::Code;

/// An answer that says this, and then nothing more for ever.
fn silent_after(text: String) -> Response {
    let parts = stream::unfold(Some(text), |text| async move {
        match text {
            Some(text) => Some((Ok::<_, std::io::Error>(text), None)),
            None => std::future::pending().await,
        }
    });
    Response::new(Body::from_stream(parts))
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_resumes_after_its_last_event() {
    let (client, log) = client(|n, _| match n {
        1 => broken_after(&format!("{}{}", event(1), event(2))),
        2 => (event(3) + "id: 4\ndata: {").into_response(),
        _ => silent_after(event(4)),
    });
    let mut events = client.events(EventQuery { after: Some(0), ..EventQuery::default() });
    for seq in 1..=4 {
        assert_eq!(events.next().await.unwrap().seq, seq);
    }
    let log = log.lock().unwrap();
    let resumed: Vec<_> = log.iter().map(|asked| asked.header("last-event-id").unwrap()).collect();
    assert_eq!(resumed, ["0", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_made_again_unless_comments_come() {
    let (client, log) = client(|n, _| match n {
        1 => silent_after(": still here\n\n".to_owned()),
        _ => silent_after(event(1)),
    });
    let begun = tokio::time::Instant::now();
    assert_eq!(client.events(EventQuery::default()).next().await.unwrap().seq, 1);
    assert!(begun.elapsed() >= Duration::from_secs(60));
    assert_eq!(log.lock().unwrap()[1].header("last-event-id"), None, "nothing to resume after");
}

#[tokio::test]
async fn a_number_that_is_no_longer_kept_ends_the_stream() {
    let (client, _) = client(|_, _| refuse(Code::CursorExpired));
    let error = client.events(EventQuery { after: Some(1), ..EventQuery::default() }).next().await.unwrap_err();
    assert_eq!(error.problem().map(|problem| problem.code), Some(Code::CursorExpired));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_always_ends_at_once_is_given_up() {
    let (client, log) = client(|_, _| "");
    assert!(client.events(EventQuery::default()).next().await.is_err());
    assert_eq!(log.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn an_event_that_makes_no_sense_is_an_error_and_the_next_one_follows() {
    let (client, _) = client(|_, _| silent_after(format!("id: 1\ndata: ?\n\n{}", event(2))));
    let mut events = client.events(EventQuery::default());
    assert!(events.next().await.is_err());
    assert_eq!(events.next().await.unwrap().seq, 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_before_its_first_event_resumes_where_the_server_began() {
    let (client, log) = client(|n, _| match n {
        1 => ([("x-hostler-seq", "7")], broken_after("")).into_response(),
        _ => ([("x-hostler-seq", "7")], silent_after(event(8))).into_response(),
    });
    let mut events = client.events(EventQuery::default());
    assert_eq!(events.next().await.unwrap().seq, 8);
    let resumed: Vec<_> =
        log.lock().unwrap().iter().map(|asked| asked.header("last-event-id").map(str::to_owned)).collect();
    assert_eq!(resumed, [None, Some("7".to_owned())]);
}
