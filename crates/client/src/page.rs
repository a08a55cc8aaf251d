//! Lists, page by page.

use hostler_model::api::Page;
use serde::de::DeserializeOwned;

use crate::{Client, ClientError, call::Call};

/// How many rows the server is asked for at once.
const PAGE: usize = 100;

/// Which part of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Paging {
    /// At most this many; the server's own number without it.
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl Client {
    pub(crate) async fn page<T: DeserializeOwned>(&self, call: Call, paging: &Paging) -> Result<Page<T>, ClientError> {
        self.call(call.query("limit", paging.limit).query("cursor", paging.cursor.as_deref())).await
    }

    /// The newest `most` of a list, or all of it.
    pub(crate) async fn every<T: DeserializeOwned>(
        &self,
        call: Call,
        most: Option<usize>,
    ) -> Result<Vec<T>, ClientError> {
        let (mut items, mut cursor) = (Vec::new(), None);
        loop {
            let missing = most.map_or(PAGE, |most| most.saturating_sub(items.len()).min(PAGE));
            if missing == 0 {
                return Ok(items);
            }
            let page: Page<T> = self.page(call.clone(), &Paging { limit: Some(missing), cursor }).await?;
            items.extend(page.items);
            items.truncate(most.unwrap_or(usize::MAX));
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
    }
}
