//! A real server on loopback and a router in this process give the same answers, the same refusals, the same streams.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{any, get},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use hostler_link::{Answer, Body, Link, LinkError, NO_BODY, chunks, sse, with_timeout};
use hostler_model::{Code, Refusal, api::Problem};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt;

async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Json<Value> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    Json(json!({
        "method": method.as_str(), "path": uri.path(), "query": uri.query(),
        "type": text("content-type"), "accept": text("accept"), "authorization": text("authorization"),
        "body": String::from_utf8_lossy(&body),
    }))
}

fn problem(status: StatusCode, body: Value) -> Response {
    let mut answer = (status, Json(body)).into_response();
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer
}

async fn refuse() -> Response {
    let refusal = Refusal::new(Code::QuotaExceeded, "8 MiB asked for, 4 left").with("left_mib", 4);
    problem(StatusCode::CONFLICT, serde_json::to_value(Problem::of(refusal, None)).unwrap())
}

async fn refuse_newly() -> Response {
    problem(StatusCode::CONFLICT, json!({"code": "FROM_THE_FUTURE", "detail": "wait for it", "status": 409}))
}

async fn events() -> impl IntoResponse {
    let all = (1..=3).map(|n| Event::default().id(n.to_string()).event("task").data(format!("one\ntwo {n}")));
    Sse::new(stream::iter(all.map(Ok::<_, Infallible>))).keep_alive(KeepAlive::default())
}

async fn pieces() -> axum::body::Body {
    axum::body::Body::from_stream(stream::iter(["a", "bc", "def"].map(Ok::<_, Infallible>)))
}

/// Half an answer, sent off before the rest fails.
async fn broken() -> axum::body::Body {
    let rest = stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("gone"))
    });
    axum::body::Body::from_stream(stream::iter([Ok("{\"half\":")]).chain(rest))
}

fn router() -> Router {
    Router::new()
        .route("/api/v1/echo", any(echo))
        .route("/api/v1/echo/{rest}", any(echo))
        .route("/nothing", get(|| async { StatusCode::NO_CONTENT }))
        .route("/text", get(|| async { "not JSON" }))
        .route("/moved", get(|| async { (StatusCode::FOUND, [(header::LOCATION, "/text")]) }))
        .route("/failed", get(|| async { (StatusCode::BAD_GATEWAY, "<html>a proxy's page") }))
        .route("/refused", get(refuse))
        .route("/refused-newly", get(refuse_newly))
        .route("/events", get(events))
        .route("/pieces", get(pieces))
        .route("/broken", get(broken))
        .route("/never", get(std::future::pending::<()>))
}

fn in_process() -> Link {
    Link::service(router().map_request(|request: Request<Body>| request.map(axum::body::Body::new)))
}

async fn over_tcp() -> Link {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router()).await });
    Link::http(client(), &base).unwrap()
}

fn client() -> reqwest::Client {
    hostler_trust::install_crypto();
    hostler_trust::tls::plain_http_client().unwrap()
}

async fn both() -> [Link; 2] {
    [in_process(), over_tcp().await]
}

async fn get_json(link: &Link, path: &str) -> Result<Answer<Value>, LinkError> {
    link.call_json(Method::GET, path, NO_BODY, HeaderMap::new()).await
}

/// The same question to both; what they say, in words.
async fn ask(path: &str) -> String {
    let [one, other] = both().await;
    let (one, other) = (get_json(&one, path).await, get_json(&other, path).await);
    let said = |answer: &Result<Answer<Value>, LinkError>| match answer {
        Ok(answer) => format!("{} {}", answer.status, answer.body),
        Err(error) => format!("{error}"),
    };
    assert_eq!(said(&one), said(&other));
    said(&one)
}

#[tokio::test]
async fn a_call_carries_method_path_query_headers_and_body() {
    for link in both().await {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer mine"));
        let body = json!({"name": "web"});
        let path = "/api/v1/echo/a%2Fb?limit=2&q=%C3%BC";
        let answer: Answer<Value> = link.call_json(Method::POST, path, Some(&body), headers).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        let wanted = json!({
            "method": "POST", "path": "/api/v1/echo/a%2Fb", "query": "limit=2&q=%C3%BC",
            "type": "application/json", "accept": "application/json", "authorization": "Bearer mine",
            "body": "{\"name\":\"web\"}",
        });
        assert_eq!(answer.body, wanted, "{link:?}");
    }
}

#[tokio::test]
async fn a_links_headers_go_with_every_call_unless_the_call_has_its_own() {
    for link in both().await {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer always"));
        let link = link.with_headers(headers.clone());
        assert_eq!(get_json(&link, "/api/v1/echo").await.unwrap().body["authorization"], "Bearer always");
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer once"));
        let answer: Answer<Value> = link.call_json(Method::GET, "/api/v1/echo", NO_BODY, headers).await.unwrap();
        assert_eq!(answer.body["authorization"], "Bearer once");
    }
}

#[tokio::test]
async fn an_empty_body_is_nothing() {
    assert_eq!(ask("/nothing").await, "204 No Content null");
}

#[tokio::test]
async fn a_refusal_keeps_its_status_code_sentence_and_facts() {
    assert_eq!(ask("/refused").await, "QUOTA_EXCEEDED: 8 MiB asked for, 4 left");
    for link in both().await {
        let error = get_json(&link, "/refused").await.unwrap_err();
        assert_eq!(error.status(), Some(StatusCode::CONFLICT));
        let problem = error.problem().unwrap();
        assert_eq!((problem.code, problem.facts["left_mib"].clone()), (Code::QuotaExceeded, json!(4)));
        let error = link.open(Method::GET, "/refused", HeaderMap::new()).await.unwrap_err();
        assert!(error.problem().is_some());
    }
}

#[tokio::test]
async fn what_is_no_hostler_answer_is_told_apart() {
    assert_eq!(ask("/refused-newly").await, "the server answered 409 Conflict: FROM_THE_FUTURE: wait for it");
    assert_eq!(ask("/failed").await, "the server answered 502 Bad Gateway: <html>a proxy's page");
    assert_eq!(ask("/moved").await, "the server answered 302 Found: ");
    assert!(ask("/text").await.starts_with("the server's answer cannot be read: expected ident"));
}

#[tokio::test]
async fn a_stream_comes_in_chunks_and_as_events() {
    for link in both().await {
        let answer = link.open(Method::GET, "/pieces", HeaderMap::new()).await.unwrap();
        let bytes: Vec<_> = chunks(answer.into_body()).try_collect().await.unwrap();
        assert_eq!(bytes.concat(), b"abcdef");

        let answer = link.open(Method::GET, "/events", HeaderMap::new()).await.unwrap();
        let events: Vec<_> = sse::events(answer.into_body()).try_collect().await.unwrap();
        let wanted =
            |n: u32| sse::SseEvent { id: Some(n.to_string()), event: "task".to_owned(), data: format!("one\ntwo {n}") };
        assert_eq!(events, [wanted(1), wanted(2), wanted(3)], "{link:?}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_broken_connection_and_ends_the_stream() {
    for link in both().await {
        let error = get_json(&link, "/broken").await.unwrap_err();
        assert!(matches!(error, LinkError::Broken { .. }), "{link:?}: {error}");
        let answer = link.open(Method::GET, "/broken", HeaderMap::new()).await.unwrap();
        let mut events = sse::events(answer.into_body());
        assert!(matches!(events.next().await, Some(Err(LinkError::Broken { .. }))));
        assert!(events.next().await.is_none());
    }
}

#[tokio::test]
async fn a_call_is_given_up_after_its_time() {
    for link in both().await {
        let after = Duration::from_millis(20);
        let error = with_timeout(after, get_json(&link, "/never")).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 20ms");
        assert!(!error.was_not_sent());
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_sentence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = get_json(&Link::http(client(), &base).unwrap(), "/text").await.unwrap_err();
    assert!(error.was_not_sent());
    let sentence = error.to_string();
    assert!(sentence.starts_with(&format!("cannot reach {base}: Connection refused")), "{sentence}");
}

#[tokio::test]
async fn a_server_that_hangs_up_may_have_acted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut some = [0; 10];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut some).await.unwrap();
        }
    });
    let error = get_json(&Link::http(client(), &base).unwrap(), "/text").await.unwrap_err();
    assert!(matches!(error, LinkError::Broken { .. }), "{error}");
    assert!(!error.was_not_sent());
}

#[tokio::test]
async fn a_base_may_have_a_path_and_nothing_leads_away_from_it() {
    let tcp = over_tcp().await;
    let link = Link::http(client(), &format!("{}/api/v1/", tcp.to())).unwrap();
    assert_eq!(get_json(&link, "/echo").await.unwrap().body["path"], "/api/v1/echo");
    for path in ["http://example.com/text", "//example.com/text"] {
        match get_json(&tcp, path).await {
            Ok(answer) => assert_eq!(answer.status, StatusCode::OK),
            Err(error) => assert!(!matches!(error, LinkError::Unreachable { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_once() {
    for base in ["", "localhost:9090", "ftp://host", "http://", "http://host/?q", "http://user:secret@host"] {
        assert!(matches!(Link::http(client(), base), Err(LinkError::BadRequest(_))), "{base}");
    }
    let error = get_json(&in_process(), "/a b").await.unwrap_err();
    assert!(matches!(error, LinkError::BadRequest(_)));
}
