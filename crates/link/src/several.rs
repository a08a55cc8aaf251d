//! Several ways to the same server: any of its replicas answers as well as any other.
//!
//! The one that answered last is asked first. One that cannot be reached was not asked, so the next is, in the same call;
//! one whose connection broke may have acted, so that is the caller's to know, and only the next call goes elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response};
use reqwest::Body;
use tower::ServiceExt;

use crate::{error::LinkError, link::Link};

/// The ways, and which is asked first.
#[derive(Clone)]
pub(crate) struct Several {
    links: Arc<[Link]>,
    first: Arc<AtomicUsize>,
}

impl Several {
    pub(crate) fn new(links: Vec<Link>) -> Several {
        Several { links: links.into(), first: Arc::default() }
    }

    pub(crate) async fn send(self, request: Request<Body>) -> Result<Response<Body>, LinkError> {
        let mut next = Some(request);
        let mut last = None;
        let first = self.first.load(Ordering::Relaxed);
        for at in (first..first + self.links.len()).map(|at| at % self.links.len()) {
            let Some(request) = next.take() else { break };
            next = again(&request);
            match self.links[at].clone().oneshot(request).await {
                Ok(answer) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error @ LinkError::Unreachable { .. }) => last = Some(error),
                Err(error) => {
                    self.first.store((at + 1) % self.links.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        // Those that could be asked: all, unless a body cannot be sent twice.
        self.first.store((first + 1) % self.links.len(), Ordering::Relaxed);
        Err(last.unwrap_or_else(|| LinkError::BadRequest("there is no server to ask".to_owned())))
    }
}

/// The same request once more, where its body is at hand.
fn again(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(Body::from(request.body().as_bytes()?.to_vec()));
    request.method().clone_into(copy.method_mut());
    request.uri().clone_into(copy.uri_mut());
    request.headers().clone_into(copy.headers_mut());
    Some(copy)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::Method;
    use tower::service_fn;

    use super::*;

    /// A server that answers as it is told, and says that it was asked.
    fn server(
        name: &'static str,
        asked: &Arc<Mutex<Vec<&'static str>>>,
        answers: fn() -> Result<(), LinkError>,
    ) -> Link {
        let asked = asked.clone();
        Link::over(
            name,
            service_fn(move |_: Request<Body>| {
                asked.lock().unwrap().push(name);
                async move { answers().map(|()| Response::new(Body::default())) }
            }),
        )
    }

    fn away() -> Result<(), LinkError> {
        Err(LinkError::Unreachable { url: "a".into(), source: "away".into() })
    }

    fn breaks() -> Result<(), LinkError> {
        Err(LinkError::Broken { url: "b".into(), source: "broken".into() })
    }

    async fn ask(several: &Several, body: Body) -> Result<Response<Body>, LinkError> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        several.clone().send(request).await
    }

    #[tokio::test]
    async fn one_that_is_away_is_passed_over_and_the_one_that_answered_is_asked_first() {
        let asked = Arc::default();
        let several = Several::new(vec![server("a", &asked, away), server("b", &asked, || Ok(()))]);
        ask(&several, "x".into()).await.unwrap();
        ask(&several, "x".into()).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), ["a", "b", "b"]);
    }

    #[tokio::test]
    async fn a_call_that_may_have_been_acted_on_is_not_repeated_and_the_next_goes_elsewhere() {
        let asked = Arc::default();
        let several = Several::new(vec![server("b", &asked, breaks), server("c", &asked, || Ok(()))]);
        assert!(matches!(ask(&several, "x".into()).await, Err(LinkError::Broken { .. })));
        ask(&several, "x".into()).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), ["b", "c"]);
    }

    #[tokio::test]
    async fn when_all_are_away_each_was_asked_once_and_a_body_that_streams_goes_to_one() {
        let asked = Arc::default();
        let several = Several::new(vec![server("a", &asked, away), server("b", &asked, away)]);
        assert!(matches!(ask(&several, "x".into()).await, Err(LinkError::Unreachable { .. })));
        assert_eq!(*asked.lock().unwrap(), ["a", "b"]);
        let stream = futures_util::stream::once(async { Ok::<_, std::io::Error>("x") });
        assert!(matches!(ask(&several, Body::wrap_stream(stream)).await, Err(LinkError::Unreachable { .. })));
        assert_eq!(asked.lock().unwrap().len(), 3);
    }
}
