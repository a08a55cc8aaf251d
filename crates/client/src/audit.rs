//! The audit, and the log's chain: `/api/v1/audit`.

use futures_util::TryStreamExt;
use hostler_link::{LinkError, chunks};
use hostler_model::{api::Page, chain::Line, event::Entry};

use crate::{Client, ClientError, call::Call};

/// How many links are asked for at once.
const LINKS: u32 = 500;

impl Client {
    /// Audit entries with a number above `after`, oldest first.
    pub async fn audit(&self, after: i64, limit: usize) -> Result<Vec<Entry>, ClientError> {
        let call = Call::get("/api/v1/audit").query("after", Some(after)).query("limit", Some(limit));
        let page: Page<Entry> = self.call(call).await?;
        Ok(page.items)
    }

    /// A piece of the log's chain behind an entry where a link ends, with the text of each line. The last piece ends with
    /// [`Line::End`].
    pub async fn chain(&self, after: i64) -> Result<Vec<(Line, String)>, ClientError> {
        let call = Call::get("/api/v1/audit/export").query("after", Some(after)).query("limit", Some(LINKS));
        let text = self.text(&call).await?;
        let read = |line: &str| Ok((serde_json::from_str(line)?, line.to_owned()));
        let lines = text.lines().map(read).collect::<Result<_, serde_json::Error>>();
        lines.map_err(|error| ClientError::of(&call.name(), LinkError::Unreadable(error.to_string())))
    }

    /// The certificate, PEM, of the authority that signs the chain's checkpoints, as the server shows it.
    pub async fn chain_authority(&self) -> Result<String, ClientError> {
        self.text(&Call::get("/api/v1/audit/authority")).await
    }

    pub(crate) async fn text(&self, call: &Call) -> Result<String, ClientError> {
        let failed = |error| ClientError::of(&call.name(), error);
        let chunks: Vec<_> = chunks(self.open(call).await?.into_body()).try_collect().await.map_err(failed)?;
        String::from_utf8(chunks.concat()).map_err(|error| failed(LinkError::Unreadable(error.to_string())))
    }
}
