//! A connection, and what moves it. What is only written is sent at once; its answer is looked at with the next one that
//! somebody waits for.
//!
//! ```text
//! put ──► sent      put ──► sent      ask ──► sent ──► the answers of all three, in their order
//! ```
//!
//! A step's writes and its commit are one way there and one back, however many statements they are. Never here: what a
//! transaction is.

use std::{
    collections::HashMap,
    error::Error as StdError,
    future::{self, Future},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio_postgres::{
    Client, Row, SimpleQueryMessage, Statement,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use super::{
    columns::Columns,
    dialect::{self, Takes},
    gate::Timeline,
    server::Server,
};
use crate::{Error, Result, bind};

type Said<T> = std::result::Result<T, tokio_postgres::Error>;
type Answer<T> = Pin<Box<dyn Future<Output = Said<T>> + Send>>;

/// From this size on a batch goes on its way at once: the server works on it while the next is written. Smaller ones are
/// cheaper to send together.
const LARGE: usize = 4096;

/// A connection with the statements that it has prepared.
pub(super) struct Link {
    server: Server,
    runtime: Runtime,
    client: Arc<Client>,
    /// By which the server knows the connection.
    backend: Backend,
    /// Since when its server runs.
    started: String,
    /// In which history of its server it was let in, where that is told.
    timeline: Option<Timeline>,
    prepared: HashMap<&'static str, Prepared>,
    /// What was sent and not looked at since, in its order.
    unanswered: Vec<Answer<()>>,
    /// Questions that were sent before anybody asked them, since something was last written.
    expected: Vec<Expected>,
}

/// A question that is on its way.
struct Expected {
    sql: &'static str,
    batch: Option<String>,
    answer: Answer<Vec<Row>>,
}

impl Expected {
    fn is(&self, sql: &'static str, batch: Option<&str>) -> bool {
        self.sql == sql && self.batch.as_deref() == batch
    }
}

/// A connection, as its server knows it: the number alone may be another's by now.
pub(super) struct Backend {
    pid: i32,
    since: String,
}

#[derive(Clone)]
struct Prepared {
    statement: Statement,
    takes: Takes,
}

const BACKEND: &str = "
SELECT pid, CAST(backend_start AS TEXT), CAST(pg_postmaster_start_time() AS TEXT)
  FROM pg_stat_activity
 WHERE pid = pg_backend_pid()";

/// Ends what is left of a connection that broke at this end only: it would hold its locks until somebody noticed.
const END: &str = "
SELECT pg_terminate_backend(pid)
  FROM pg_stat_activity
 WHERE pid = $1 AND CAST(backend_start AS TEXT) = $2";

impl Link {
    /// A new connection; what is left of the one before it is ended.
    pub(super) fn new(server: &Server, before: Option<&Backend>) -> Result<Link> {
        let (runtime, client, timeline) = server.open()?;
        let known = runtime.block_on(async {
            if let Some(Backend { pid, since }) = before {
                client.query(END, &[pid, since]).await?;
            }
            let row = client.query_one(BACKEND, &[]).await?;
            Ok((Backend { pid: row.get(0), since: row.get(1) }, row.get(2)))
        });
        let (backend, started) = known.map_err(|e| server.wrap(&e))?;
        Ok(Link {
            server: server.clone(),
            runtime,
            client: Arc::new(client),
            backend,
            started,
            timeline,
            prepared: HashMap::new(),
            unanswered: Vec::new(),
            expected: Vec::new(),
        })
    }

    /// What its server may still have of it, once it is given up.
    pub(super) fn into_backend(self) -> Backend {
        self.backend
    }

    /// Since when its server runs, as the server says it.
    pub(super) fn started(&self) -> &str {
        &self.started
    }

    /// In which history of its server it was let in.
    pub(super) fn timeline(&self) -> Option<&Timeline> {
        self.timeline.as_ref()
    }

    /// Whether it was found to be broken.
    pub(super) fn is_broken(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs a statement whose answer is looked at later.
    pub(super) fn put(&mut self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<()> {
        let bound = self.bind(sql, batch)?;
        self.put_bound(bound)
    }

    /// Runs a statement on many rows; its answer is looked at later.
    pub(super) fn put_rows(&mut self, sql: &'static str, rows: &[impl Serialize]) -> Result<()> {
        let Prepared { statement, takes } = self.prepare(sql)?;
        let Takes::Rows(known) = takes else {
            return Err(Error::Aborted(format!("a text for many rows does not say which columns they have: {sql}")));
        };
        let (mut columns, mut places) = (Columns::new(known), bind::Places::default());
        for row in rows {
            bind::row(&mut columns, &mut places, row).map_err(|e| Error::Aborted(e.to_string()))?;
        }
        self.put_bound(Bound { statement, given: Given::Rows(columns) })
    }

    fn put_bound(&mut self, bound: Bound) -> Result<()> {
        self.expected.clear();
        let (client, is_large) = (self.client.clone(), bound.given.size() >= LARGE);
        self.keep(async move { client.execute(&bound.statement, &bound.given.parameters()).await.map(drop) })?;
        if is_large {
            self.runtime.block_on(tokio::task::yield_now());
        }
        Ok(())
    }

    /// Runs a statement without parameters whose answer is looked at later.
    pub(super) fn put_simple(&mut self, sql: String) {
        let client = self.client.clone();
        self.unanswered.push(send(async move { client.simple_query(&sql).await.map(drop) }));
    }

    /// Runs a statement, and says how many rows it changed.
    pub(super) fn execute(&mut self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<u64> {
        self.expected.clear();
        let (client, bound) = (self.client.clone(), self.bind(sql, batch)?);
        self.ask(async move { client.execute(&bound.statement, &bound.given.parameters()).await })
    }

    /// Begins a transaction, and asks what it is expected to ask first in the same way there and back.
    pub(super) fn begin(&mut self, sql: String, first: Option<&'static str>) -> Result<Vec<SimpleQueryMessage>> {
        self.expected.clear();
        // To prepare it is a way of its own, once for each connection.
        first.map(|first| self.prepare(first)).transpose()?;
        let client = self.client.clone();
        let begun = send(async move { client.simple_query(&sql).await });
        if let Some(first) = first {
            self.expect(first, || Ok(String::new()))?;
        }
        self.ask(begun)
    }

    /// Sends a question that will be asked, unless it is on its way.
    pub(super) fn expect(&mut self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<()> {
        let (client, bound) = (self.client.clone(), self.bind(sql, batch)?);
        let batch = bound.given.batch().map(str::to_owned);
        if self.expected.iter().any(|one| one.is(sql, batch.as_deref())) {
            return Ok(());
        }
        let answer = send(async move { client.query(&bound.statement, &bound.given.parameters()).await });
        self.expected.push(Expected { sql, batch, answer });
        Ok(())
    }

    /// Runs a query, unless it is on its way.
    pub(super) fn query(&mut self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<Vec<Row>> {
        let (client, bound) = (self.client.clone(), self.bind(sql, batch)?);
        match self.expected.iter().position(|one| one.is(sql, bound.given.batch())) {
            Some(at) => {
                let answer = self.expected.swap_remove(at).answer;
                self.ask(answer)
            }
            None => self.ask(async move { client.query(&bound.statement, &bound.given.parameters()).await }),
        }
    }

    /// Runs statements without parameters.
    pub(super) fn simple(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        self.expected.clear();
        let (client, sql) = (self.client.clone(), sql.to_owned());
        self.ask(async move { client.simple_query(&sql).await })
    }

    /// Looks at every answer that was left.
    ///
    /// # Errors
    /// The first statement's that failed.
    pub(super) fn settle(&mut self) -> Result<()> {
        let left = self.left();
        if left.is_empty() {
            return Ok(());
        }
        self.runtime.block_on(each(left)).map_err(|e| self.server.wrap(&e))
    }

    /// What nobody has looked at: also what was expected, and not asked. One that failed is its step's failure all the same.
    fn left(&mut self) -> Vec<Answer<()>> {
        let mut left = std::mem::take(&mut self.unanswered);
        left.extend(
            self.expected
                .drain(..)
                .map(|Expected { answer, .. }| -> Answer<()> { Box::pin(async move { answer.await.map(drop) }) }),
        );
        left
    }

    /// Leaves answers that nobody needs any more.
    pub(super) fn forget(&mut self) {
        self.unanswered.clear();
        self.expected.clear();
    }

    /// Sends a statement with those that were left: how those ended, and how it did.
    pub(super) fn finish(&mut self, sql: &'static str) -> (Result<()>, Result<()>) {
        let client = self.client.clone();
        let last = send(async move { client.simple_query(sql).await.map(drop) });
        let left = self.left();
        let (before, last) = self.runtime.block_on(async { (each(left).await, last.await) });
        let wrap = |e| self.server.wrap(&e);
        (before.map_err(wrap), last.map_err(wrap))
    }

    /// Sends a request whose answer is looked at later. One that cannot be sent has failed now: the server knows nothing of
    /// it, and would commit what is around it.
    fn keep(&mut self, request: impl Future<Output = Said<()>> + Send + 'static) -> Result<()> {
        match look(request) {
            Look::Answered(said) => said.map_err(|e| self.server.wrap(&e)),
            Look::Sent(answer) => {
                self.unanswered.push(answer);
                Ok(())
            }
        }
    }

    fn ask<T: Send + 'static>(&mut self, request: impl Future<Output = Said<T>> + Send + 'static) -> Result<T> {
        let answer = send(request);
        let unanswered = std::mem::take(&mut self.unanswered);
        let answered = self.runtime.block_on(async {
            each(unanswered).await?;
            answer.await
        });
        answered.map_err(|e| self.server.wrap(&e))
    }

    /// A text with what it is run on.
    fn bind(&mut self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<Bound> {
        let Prepared { statement, takes } = self.prepare(sql)?;
        let given = match takes {
            Takes::Nothing => Given::Nothing,
            Takes::Batch => Given::Batch(Batch(batch()?)),
            Takes::Rows(_) => return Err(Error::Aborted(format!("a text for many rows was given a document: {sql}"))),
        };
        Ok(Bound { statement, given })
    }

    /// The statement of a text, prepared once for each connection.
    fn prepare(&mut self, sql: &'static str) -> Result<Prepared> {
        if let Some(known) = self.prepared.get(sql) {
            return Ok(known.clone());
        }
        self.settle()?;
        let takes = Takes::of(sql);
        let translated = dialect::translate(sql);
        let prepared = self.runtime.block_on(self.client.prepare_typed(&translated, &takes.types()));
        let statement = prepared.map_err(|e| self.server.wrap(&e))?;
        Ok(self.prepared.entry(sql).or_insert(Prepared { statement, takes }).clone())
    }
}

/// What came of the first look at a request, which sends it.
enum Look<T> {
    Sent(Answer<T>),
    /// It was not sent.
    Answered(Said<T>),
}

fn look<T: Send + 'static>(request: impl Future<Output = Said<T>> + Send + 'static) -> Look<T> {
    let mut answer: Answer<T> = Box::pin(request);
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(said) => Look::Answered(said),
        Poll::Pending => Look::Sent(answer),
    }
}

/// Sends a request. Who waits for its answer looks again.
fn send<T: Send + 'static>(request: impl Future<Output = Said<T>> + Send + 'static) -> Answer<T> {
    match look(request) {
        Look::Answered(said) => Box::pin(future::ready(said)),
        Look::Sent(answer) => answer,
    }
}

async fn each(answers: Vec<Answer<()>>) -> Said<()> {
    for answer in answers {
        answer.await?;
    }
    Ok(())
}

/// A statement and what it is run on.
struct Bound {
    statement: Statement,
    given: Given,
}

enum Given {
    Nothing,
    Batch(Batch),
    Rows(Columns),
}

impl Given {
    /// How many bytes it takes.
    fn size(&self) -> usize {
        match self {
            Given::Nothing => 0,
            Given::Batch(batch) => batch.0.len(),
            Given::Rows(rows) => rows.size(),
        }
    }

    fn batch(&self) -> Option<&str> {
        match self {
            Given::Batch(batch) => Some(&batch.0),
            Given::Nothing | Given::Rows(_) => None,
        }
    }

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        match self {
            Given::Nothing => Vec::new(),
            Given::Batch(batch) => vec![batch],
            Given::Rows(rows) => rows.parameters(),
        }
    }
}

/// A batch as it is sent: JSON that was written once, behind the number of jsonb's binary form.
#[derive(Debug)]
struct Batch(String);

impl ToSql for Batch {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> std::result::Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.put_u8(1);
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }

    to_sql_checked!();
}
