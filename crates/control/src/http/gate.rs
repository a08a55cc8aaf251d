//! What every request passes: it gets an id, its caller is known and allowed, its answer is counted, its error written
//! down as a problem, and a panic behind it becomes an answer too. Never here: logging of what went well.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::FutureExt;
use hostler_model::{Code, Refusal, id::RequestId};
use hostler_store::Caller;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{
    access::{self, Access},
    body, peer, problem,
};
use crate::app::{
    App, Error, Result,
    caller::{Call, require},
};

/// The header in which an answer says which request it is to.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What makes a browser ask for a name and a password.
const ASK_BROWSER: &str = "Basic realm=\"hostler: any name, and your token as the password\", charset=\"UTF-8\"";
/// What counts as a route where there is none.
const NO_ROUTE: &str = "none";

/// The gate of people.
pub(super) async fn people(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = Began::now(&app, request.method());
    let row = request.extensions().get::<MatchedPath>().and_then(|path| access::find(request.method(), path.as_str()));
    let route = row.map_or(NO_ROUTE, |row| row.route);
    let browser = access::by_browser(route);
    let response = match admit(&app, row.map(|row| row.access), browser, request.headers()).await {
        Ok(Some(caller)) => {
            request.extensions_mut().insert(Call { caller, request: began.id });
            run(next, request).await
        }
        Ok(None) => run(next, request).await,
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
    let response = match peer::admit(&app, route, &mut request) {
        Ok(()) => run(next, request).await,
        Err(error) => refuse(request, error),
    };
    began.end(&app, route.unwrap_or(NO_ROUTE), response)
}

/// Who calls; `None` where nobody needs to be known. What is not in the table is not for anybody in particular: with a
/// credential one learns that it is not there.
async fn admit(app: &App, access: Option<Access>, browser: bool, headers: &HeaderMap) -> Result<Option<Caller>> {
    if access == Some(Access::Anyone) {
        return Ok(None);
    }
    let password = if browser { password(headers) } else { None };
    let caller = match password {
        Some(token) => app.authenticate(&token).await?,
        None => app.authenticate(bearer(headers)?).await?,
    };
    if let Some(Access::From(role)) = access {
        require(&caller, role)?;
    }
    Ok(Some(caller))
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

async fn run(next: Next, request: Request) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => Error::Fault("a handler panicked").into_response(),
    }
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
