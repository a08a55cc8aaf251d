//! Query parameters: typed, unknown ones refused and named.

use axum::extract::{FromRequestParts, Query};
use hostler_model::{Code, Refusal};
use http::request::Parts;
use serde::{Deserialize, de::DeserializeOwned};

use super::cursor::{self, List};
use crate::app::{Error, Result};

/// How many items a page has where nothing is said, and at most.
const PAGE: (usize, usize) = (50, 500);

/// The query, as a struct with `deny_unknown_fields`.
#[derive(Debug)]
pub(super) struct InQuery<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let query = Query::try_from_uri(&parts.uri);
        query.map(|Query(query)| InQuery(query)).map_err(|error| {
            Refusal::new(Code::ValidationError, format!("the query is not valid: {}", error.body_text())).into()
        })
    }
}

/// Which page of a list that is not narrowed down.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    pub(super) limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

/// The size of a page.
pub(super) fn limit(asked: Option<u32>) -> Result<usize> {
    let limit = asked.map_or(PAGE.0, |asked| asked as usize);
    if limit == 0 || limit > PAGE.1 {
        return Err(Refusal::field("limit", format!("{limit} is not between 1 and {}", PAGE.1)).into());
    }
    Ok(limit)
}

/// Where a page begins.
pub(super) fn before<T: From<uuid::Uuid>>(list: List, cursor: Option<&str>) -> Result<Option<T>> {
    Ok(cursor.map(|text| cursor::read(list, text)).transpose()?.map(T::from))
}
