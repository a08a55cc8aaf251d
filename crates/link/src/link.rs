//! The link itself: a cloneable service that takes requests with relative addresses.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, TryFutureExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use reqwest::{Body, Url};
use serde::{Serialize, de::DeserializeOwned};
use tower::{BoxError, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::{
    answer::{self, Answer},
    error::LinkError,
    several::Several,
};

type Inner = BoxCloneSyncService<Request<Body>, Response<Body>, LinkError>;

/// For a call without a body: `link.call_json::<T>(method, path, NO_BODY, headers)`.
pub const NO_BODY: Option<&()> = None;

/// A way to the server. Clones share its connections.
#[derive(Clone)]
pub struct Link {
    inner: Inner,
    to: Arc<str>,
}

impl Link {
    /// Over real sockets. `base` is the server's address, such as `https://10.0.0.1:9090`, or those of its replicas with
    /// commas between; the requests' relative addresses are appended to it.
    ///
    /// # Errors
    /// When `base` is no `http` or `https` address, or has a query or a fragment.
    pub fn http(client: reqwest::Client, base: &str) -> Result<Link, LinkError> {
        let one = |base: &str| {
            let base: Arc<str> = read_base(base.trim())?.into();
            let client = client.clone();
            let to = base.clone();
            Ok(Link::over(&to, service_fn(move |request| send(client.clone(), base.clone(), request))))
        };
        let mut links = base.split(',').map(one).collect::<Result<Vec<Link>, LinkError>>()?;
        if links.len() == 1 {
            return Ok(links.remove(0));
        }
        let several = Several::new(links);
        Ok(Link::over(base, service_fn(move |request| several.clone().send(request))))
    }

    /// Over a service that is one already.
    pub(crate) fn over<S>(to: &str, service: S) -> Link
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = LinkError> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Link { inner: BoxCloneSyncService::new(service), to: to.into() }
    }

    /// To a service in this process.
    ///
    /// A router of another body type is mapped first: `router.map_request(|r: http::Request<Body>| r.map(Other::new))`.
    pub fn service<S, B>(service: S) -> Link
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = service
            .map_response(|answer: Response<B>| answer.map(|body| Body::wrap_stream(body.into_data_stream())))
            .map_err(|source| LinkError::Broken { url: IN_PROCESS.to_owned(), source: source.into() });
        Link { inner: BoxCloneSyncService::new(service), to: IN_PROCESS.into() }
    }

    /// The same way, with these headers on every request that does not have them already: a credential, say.
    #[must_use]
    pub fn with_headers(self, headers: HeaderMap) -> Link {
        let to = self.to.clone();
        let service = self.map_request(move |mut request: Request<Body>| {
            for (name, value) in &headers {
                request.headers_mut().entry(name).or_insert_with(|| value.clone());
            }
            request
        });
        Link { inner: BoxCloneSyncService::new(service), to }
    }

    /// Where it leads: the base address, or that it stays in this process.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// Sends a request and returns whatever the server answers, refusals included.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, LinkError> {
        self.clone().oneshot(request).await
    }

    /// Sends a body as JSON, or none ([`NO_BODY`]), and reads the answer's body as JSON. An empty body reads as `null`.
    /// `path` begins with a slash and may have a query.
    ///
    /// # Errors
    /// When no answer comes, it is a refusal, or it cannot be read as a `T`.
    pub async fn call_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        headers: HeaderMap,
    ) -> Result<Answer<T>, LinkError> {
        let request = request(method, path, body, headers, "application/json")?;
        answer::read(self.send(request).await?).await
    }

    /// Sends a body as it comes, with the headers that describe it, and reads the answer's body as JSON.
    ///
    /// # Errors
    /// When no answer comes, it is a refusal, or it cannot be read as a `T`.
    pub async fn send_stream<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
        headers: HeaderMap,
    ) -> Result<Answer<T>, LinkError> {
        let mut request = request(method, path, NO_BODY, headers, "application/json")?;
        *request.body_mut() = body;
        answer::read(self.send(request).await?).await
    }

    /// Opens a stream: the answer, once it is known not to be a refusal, with its body still to come.
    /// See [`crate::chunks`] and [`crate::sse::events`].
    ///
    /// # Errors
    /// When no answer comes or it is a refusal.
    pub async fn open(&self, method: Method, path: &str, headers: HeaderMap) -> Result<Response<Body>, LinkError> {
        let request = request(method, path, NO_BODY, headers, "*/*")?;
        answer::accepted(self.send(request).await?).await
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = LinkError;
    type Future = <Inner as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.inner.call(request)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.to)
    }
}

/// A call, given up after a time. What was under way is dropped; the server may have acted on it.
///
/// # Errors
/// [`LinkError::TimedOut`], or the call's own.
pub async fn with_timeout<T>(
    after: Duration,
    call: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::time::timeout(after, call).map_err(|_| LinkError::TimedOut { after }).await.flatten()
}

const IN_PROCESS: &str = "the server in this process";

fn read_base(base: &str) -> Result<String, LinkError> {
    let bad = |why: &str| LinkError::BadRequest(format!("{base:?} is not a server's address: {why}"));
    let url = Url::parse(base).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad("it begins with http:// or https:// and a host"));
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it has no user, query or fragment"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn request(
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
    headers: HeaderMap,
    accept: &'static str,
) -> Result<Request<Body>, LinkError> {
    let mut request = Request::new(Body::default());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|error| LinkError::BadRequest(format!("{path:?}: {error}")))?;
    *request.headers_mut() = headers;
    request.headers_mut().entry(header::ACCEPT).or_insert(HeaderValue::from_static(accept));
    if let Some(body) = body {
        let json = serde_json::to_vec(body).map_err(|error| LinkError::BadRequest(error.to_string()))?;
        *request.body_mut() = json.into();
        request.headers_mut().entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    }
    Ok(request)
}

/// Over reqwest. The path is appended as it is: joining as a browser would, `//host/` could lead elsewhere.
async fn send(client: reqwest::Client, base: Arc<str>, request: Request<Body>) -> Result<Response<Body>, LinkError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = Url::parse(&format!("{base}{path}")).map_err(|error| LinkError::BadRequest(error.to_string()))?;
    let mut request = reqwest::Request::new(parts.method, url);
    *request.headers_mut() = parts.headers;
    *request.body_mut() = Some(body);
    let answer = client.execute(request).boxed().await.map_err(|error| failed(&base, error))?;
    let answer: Response<Body> = answer.into();
    Ok(answer)
}

fn failed(base: &str, error: reqwest::Error) -> LinkError {
    let url = base.to_owned();
    if error.is_builder() {
        return LinkError::BadRequest(error.to_string());
    }
    let unsent = error.is_connect();
    let source = error.without_url().into();
    if unsent { LinkError::Unreachable { url, source } } else { LinkError::Broken { url, source } }
}
