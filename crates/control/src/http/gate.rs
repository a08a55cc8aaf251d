//! What every request passes: it gets an id, its caller is known and allowed, its answer is counted, its error written
//! down as a problem, and a panic behind it becomes an answer too. Never here: logging of what went well.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::FutureExt;
use hostler_model::{
    Code, Refusal,
    caller::{Access, Caller},
    id::RequestId,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tower::Service;

use super::{
    access::{self, Row},
    body,
    listen::PeerAddress,
    of_tenant, peer, problem,
};
use crate::app::{
    App, Error, Result,
    caller::{Believed, Call, Disbelieved, actor},
};

/// The header in which an answer says which request it is to.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What makes a browser ask for a name and a password.
const ASK_BROWSER: &str = "Basic realm=\"hostler: any name, and your token as the password\", charset=\"UTF-8\"";
/// Headers that claim to say who calls.
const CLAIMS: [&str; 14] = [
    "x-tenant",
    "x-tenant-id",
    "x-user",
    "x-user-id",
    "x-role",
    "x-roles",
    "x-scope",
    "x-scopes",
    "x-audience",
    "x-principal",
    "x-remote-user",
    "x-forwarded-user",
    "x-auth-request-user",
    "remote-user",
];
/// How long an answer may take to begin: twice what the longest may be waited for, and the time for the largest body. Whoever
/// is still there then waits for something that does not come.
const ANSWER: Duration = Duration::from_secs(240);
/// Where a body is as long as an image, and comes as slowly as its sender's line lets it.
const UPLOADS: [&str; 2] = ["/api/v1/blobs/{sha256}", "/api/v1/images/{image}/content"];
/// What counts as a route where there is none.
const NO_ROUTE: &str = "none";

/// The gate of people.
pub(super) async fn people(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = Began::now(&app, request.method());
    strip(request.headers_mut());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let row = path.as_ref().and_then(|path| access::find(request.method(), path.as_str()));
    let route = row.map_or(NO_ROUTE, |row| row.route);
    let browser = access::by_browser(route);
    let response = match admit(&app, row, &began, &mut request).await {
        Ok(call) => {
            if let Some(call) = call.clone() {
                request.extensions_mut().insert(call);
            }
            let response = match (row, path) {
                // The table has no line for this method: it is not let through, whatever the router knows.
                (None, Some(path)) => no_method(request, path.as_str()),
                _ => in_time(route, run(next, request)).await,
            };
            // What a handler forbids is told here, once for all of them.
            if let (Some(call), Some(code)) = (call, problem::forbidden(&response)) {
                app.denials.lock().add(call.actor(), call.caller.tenant, began.what(route), code);
            }
            response
        }
        Err(error) => refuse(request, error),
    };
    let mut response = began.end(&app, route, response);
    if browser && response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(ASK_BROWSER));
    }
    response
}

/// The gate of agents: everything but the join needs a certificate, and the certificate must be that of the node in
/// the path.
pub(super) async fn agents(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = Began::now(&app, request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = super::router::internal_route(path.as_ref().map(MatchedPath::as_str));
    let response = match peer::admit(&app, route, began.id, &mut request) {
        Ok(()) => run(next, request).await,
        Err(error) => refuse(request, error),
    };
    began.end(&app, route.unwrap_or(NO_ROUTE), response)
}

/// Who calls and on whose things; `None` where nobody needs to be known. What is not in the table is not for anybody in
/// particular: with a credential one learns that it is not there.
async fn admit(app: &App, row: Option<&Row>, began: &Began, request: &mut Request) -> Result<Option<Call>> {
    let (access, route) = row.map_or((Access::Known, NO_ROUTE), |row| (row.access, row.route));
    let source = request.extensions().get().map(|PeerAddress(address)| *address);
    if let Some(address) = source {
        app.rates.address(address)?;
    }
    if access == Access::Anyone {
        return Ok(None);
    }
    let denied = |caller: &Caller, code| {
        app.denials.lock().add(actor(caller, began.id, source), caller.tenant, began.what(route), code);
    };
    let Believed { caller, belief, sent } = match known(app, route, request.headers()).await {
        Ok(believed) => believed,
        Err(Disbelieved { error, holder }) => {
            if let Some(holder) = holder.as_deref() {
                denied(holder, Code::Unauthenticated);
            }
            return Err(error);
        }
    };
    if let Some(sent) = sent {
        app.logins.lock().add(sent, &caller, actor(&caller, began.id, source), app.clock.now());
    }
    app.rates.token(&bucket(&caller))?;
    if let Err(refusal) = caller.may(access) {
        denied(&caller, refusal.code);
        return Err(refusal.into());
    }
    // What is nobody's in particular is the same whatever tenant somebody works for, and clients say it with every call.
    let named = of_tenant::take(request.uri_mut())?.filter(|_| matches!(access, Access::Tenant { .. }));
    let reach = app.reach(&caller, named.as_deref()).await?;
    Ok(Some(Call { caller, belief, reach, request: began.id, source }))
}

/// Whose the credential is.
async fn known(app: &App, route: &str, headers: &HeaderMap) -> std::result::Result<Believed, Disbelieved> {
    match password(headers).filter(|_| access::by_browser(route)) {
        Some(token) => app.authenticate(&token).await,
        None => app.authenticate(bearer(headers)?).await,
    }
}

/// Whose calls are counted together: those with one token; of who is sent by a provider, all of theirs.
fn bucket(caller: &Caller) -> String {
    caller.token.map_or_else(|| caller.principal.to_string(), |token| token.to_string())
}

/// Headers by which proxies elsewhere say who calls. Nothing here believes them, and nothing behind this gate sees them.
fn strip(headers: &mut HeaderMap) {
    for name in CLAIMS {
        headers.remove(name);
    }
}

fn no_method(request: Request, route: &str) -> Response {
    let refusal = super::router::no_method(request.method(), request.uri());
    let mut response = refuse(request, refusal.into());
    let allowed = access::of_route(route).iter().map(|row| match row.method {
        Method::GET => "GET,HEAD",
        ref method => name(method),
    });
    if let Ok(allowed) = HeaderValue::from_str(&allowed.collect::<Vec<_>>().join(",")) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

fn credential<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (said, credential) = value.split_once(' ')?;
    said.eq_ignore_ascii_case(scheme).then(|| credential.trim())
}

/// What a person typed as the password; the name may be anything.
fn password(headers: &HeaderMap) -> Option<String> {
    let both = STANDARD.decode(credential(headers, "basic")?).ok()?;
    let (_, password) = std::str::from_utf8(&both).ok()?.split_once(':')?;
    Some(password.to_owned())
}

fn bearer(headers: &HeaderMap) -> std::result::Result<&str, Refusal> {
    credential(headers, "bearer").ok_or_else(|| {
        Refusal::new(Code::Unauthenticated, "a credential is needed: send `Authorization: Bearer <token>`")
    })
}

fn refuse(request: Request, error: Error) -> Response {
    body::discard(request.into_body());
    error.into_response()
}

/// The request goes into what is boxed at once: while an agent's poll waits, it lies nowhere else.
fn run(mut next: Next, request: Request) -> impl Future<Output = Response> {
    let answer = next.call(request);
    async {
        match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => Error::Fault("a handler panicked").into_response(),
        }
    }
}

/// Gives up an answer that does not begin.
async fn in_time(route: &str, answer: impl Future<Output = Response>) -> Response {
    if UPLOADS.contains(&route) {
        return answer.await;
    }
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| {
        let seconds = ANSWER.as_secs();
        let detail = format!(
            "there was no answer within {seconds} s; what was asked for may have happened: look, or ask again under the same idempotency key"
        );
        Error::from(Refusal::new(Code::Overloaded, detail).with("limit_seconds", seconds)).into_response()
    })
}

struct Began {
    id: RequestId,
    at: Instant,
    method: &'static str,
}

impl Began {
    fn now(app: &App, method: &Method) -> Began {
        Began { id: app.ids.next(app.clock.now()), at: Instant::now(), method: name(method) }
    }

    /// The method and the route, for the audit.
    fn what(&self, route: &str) -> String {
        format!("{} {route}", self.method)
    }

    fn end(self, app: &App, route: &'static str, response: Response) -> Response {
        let mut response = problem::write(response, self.id);
        app.metrics.answered(route, self.method, response.status().as_u16(), self.at.elapsed());
        if let Ok(id) = HeaderValue::from_str(&self.id.to_string()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }
}

/// A method's name as a label: few values, whatever was sent.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use hostler_model::{Ids, Timestamp};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_begin_is_given_up_and_an_upload_is_not() {
        let slow = async || {
            tokio::time::sleep(ANSWER * 2).await;
            StatusCode::OK.into_response()
        };
        let given_up =
            problem::write(in_time("/api/v1/vms", slow()).await, Ids::seeded(1).next(Timestamp::from_micros(0)));
        assert_eq!(given_up.status(), StatusCode::SERVICE_UNAVAILABLE);
        for upload in UPLOADS {
            assert!(access::TABLE.iter().any(|row| row.route == upload && row.method == Method::PUT));
            assert_eq!(in_time(upload, slow()).await.status(), StatusCode::OK);
        }
    }

    #[test]
    fn no_header_says_who_calls() {
        let mut headers = HeaderMap::new();
        for name in CLAIMS {
            headers.append(name, HeaderValue::from_static("one"));
            headers.append(name, HeaderValue::from_static("another"));
        }
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer hos_x"));
        strip(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), [header::AUTHORIZATION]);
    }
}
