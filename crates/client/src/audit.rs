//! The audit, and the log's chain: `/api/v1/audit`.

use futures_util::TryStreamExt;
use hostler_link::{LinkError, chunks};
use hostler_model::{api::Page, chain::Line, event::Entry};

use crate::{Client, ClientError, EventQuery, call::Call};

/// How many links are asked for at once.
const LINKS: u32 = 500;
/// How many entries are asked for at once.
const PAGE: usize = 500;
/// How far before the log's end the last entries are looked for first.
const STRETCH: i64 = 2000;

impl Client {
    /// Audit entries with a number above `after`, oldest first.
    pub async fn audit(&self, after: i64, limit: usize) -> Result<Vec<Entry>, ClientError> {
        let call = Call::get("/api/v1/audit").query("after", Some(after)).query("limit", Some(limit));
        let page: Page<Entry> = self.call(call).await?;
        Ok(page.items)
    }

    /// The last so many audit entries, oldest first. Their numbers are those of the whole log, where other events lie between:
    /// the stretch before the end is made longer until there are enough in it, or it is the whole log.
    pub async fn last_audit(&self, many: usize) -> Result<Vec<Entry>, ClientError> {
        let mut events = self.events(EventQuery::default());
        events.connect().await?;
        let end = events.after().unwrap_or_default();
        let mut stretch = STRETCH;
        loop {
            let begin = end.saturating_sub(stretch).max(0);
            let last = self.last_after(begin, many).await?;
            if last.len() >= many || begin == 0 {
                return Ok(last);
            }
            stretch = stretch.saturating_mul(8);
        }
    }

    async fn last_after(&self, mut after: i64, many: usize) -> Result<Vec<Entry>, ClientError> {
        let mut last = Vec::new();
        loop {
            let page = self.audit(after, PAGE).await?;
            let Some(entry) = page.last() else { return Ok(last) };
            after = entry.seq;
            last.extend(page);
            last.drain(..last.len().saturating_sub(many));
        }
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
