//! Entity tags: a machine's, a node's and a tenant's is its generation, so that who edits one may insist on having seen it as it
//! is (RFC 9110).

use axum::{extract::FromRequestParts, response::Response};
use hostler_model::{Refusal, node::Node, vm::Vm};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use serde::Serialize;

use super::body::answer;
use crate::app::{Error, Result};

/// A machine with its tag.
pub(super) fn tagged(vm: &Vm) -> Response {
    with_tag(vm, vm.generation)
}

/// A node with its tag.
pub(super) fn tagged_node(node: &Node) -> Response {
    with_tag(node, node.generation)
}

fn with_tag(body: &impl Serialize, generation: u32) -> Response {
    let mut response = answer(StatusCode::OK, body);
    tag(&mut response, generation);
    response
}

/// Gives an answer the tag of a generation.
pub(super) fn tag(response: &mut Response, generation: u32) {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{generation}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
}

/// `If-Match`: the generations that it may have; `None` where none is named, or `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct IfMatch(pub(super) Option<Vec<u32>>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Ok(IfMatch(read(&parts.headers)?))
    }
}

/// A tag that is none of ours matches nothing, nor does a weak one: this comparison is a strong one (RFC 9110 §13.1.1).
/// What is no tag at all is refused.
fn read(headers: &HeaderMap) -> std::result::Result<Option<Vec<u32>>, Refusal> {
    let refused = || Refusal::field("If-Match", "it lists entity tags as `ETag` gave them, such as \"3\", or is *");
    let mut generations = None;
    for value in headers.get_all(header::IF_MATCH) {
        let text = value.to_str().map_err(|_| refused())?;
        for tag in text.split(',').map(str::trim) {
            if tag == "*" {
                return Ok(None);
            }
            let weak = tag.strip_prefix("W/");
            let tag =
                weak.unwrap_or(tag).strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).ok_or_else(refused)?;
            generations.get_or_insert_with(Vec::new).extend(tag.parse::<u32>().ok().filter(|_| weak.is_none()));
        }
    }
    Ok(generations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> std::result::Result<Option<Vec<u32>>, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MATCH, text.parse().unwrap());
        read(&headers)
    }

    #[test]
    fn tags_are_read_and_what_is_none_is_refused() {
        assert_eq!(read(&HeaderMap::new()), Ok(None));
        assert_eq!(of("*"), Ok(None));
        assert_eq!(of("\"3\", \"4\""), Ok(Some(vec![3, 4])));
        assert_eq!(of("\"other\""), Ok(Some(vec![])));
        assert_eq!(of("W/\"3\""), Ok(Some(vec![])));
        assert_eq!(of("W/\"3\", \"4\""), Ok(Some(vec![4])));
        for bad in ["3", "", "W/3", "\"3"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
