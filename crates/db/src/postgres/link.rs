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
    sent: Vec<Sent>,
    /// What was answered of it before anybody asked.
    came: Vec<Came>,
}

/// A statement that was sent. Answers are looked at in the order in which they were sent: while one of many rows is not
/// taken, none behind it comes.
enum Sent {
    Put(Answer<()>),
    /// A question that somebody will ask.
    Expected(Question, Answer<Vec<Row>>),
}

/// The answer to a question that nobody has asked since.
struct Came(Question, Said<Vec<Row>>);

#[derive(PartialEq, Eq)]
struct Question {
    sql: &'static str,
    batch: Option<String>,
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
            sent: Vec::new(),
            came: Vec::new(),
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
        self.forget_expected();
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
        self.sent.push(Sent::Put(send(async move { client.simple_query(&sql).await.map(drop) })));
    }

    /// Runs a statement, and says how many rows it changed.
    pub(super) fn execute(&mut self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<u64> {
        self.forget_expected();
        let (client, bound) = (self.client.clone(), self.bind(sql, batch)?);
        self.ask(async move { client.execute(&bound.statement, &bound.given.parameters()).await })
    }

    /// Prepares statements that are to be sent without a way there and back of their own.
    pub(super) fn prepare_all(&mut self, texts: impl IntoIterator<Item = &'static str>) -> Result<()> {
        texts.into_iter().try_for_each(|sql| self.prepare(sql).map(drop))
    }

    /// Runs a statement and then a query, and asks beforehand what it is expected to ask first: all in one way there and back.
    pub(super) fn begin(&mut self, sql: &'static str, then: &'static str, first: Option<&'static str>) -> Result<Row> {
        self.put(sql, nothing)?;
        self.expect(then, nothing)?;
        if let Some(first) = first {
            self.expect(first, nothing)?;
        }
        self.query(then, nothing)?.pop().ok_or_else(|| self.server.gone())
    }

    /// Sends a question that will be asked, unless it is on its way.
    pub(super) fn expect(&mut self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<()> {
        let bound = self.bind(sql, batch)?;
        let question = Question { sql, batch: bound.given.batch().map(str::to_owned) };
        if !self.is_expected(&question) {
            let client = self.client.clone();
            let answer = send(async move { client.query(&bound.statement, &bound.given.parameters()).await });
            self.sent.push(Sent::Expected(question, answer));
        }
        Ok(())
    }

    fn is_expected(&self, question: &Question) -> bool {
        let on_its_way = |sent: &Sent| matches!(sent, Sent::Expected(one, _) if one == question);
        self.came.iter().any(|Came(one, _)| one == question) || self.sent.iter().any(on_its_way)
    }

    /// Runs a query, unless it was sent before.
    pub(super) fn query(&mut self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<Vec<Row>> {
        let (client, bound) = (self.client.clone(), self.bind(sql, batch)?);
        let question = Question { sql, batch: bound.given.batch().map(str::to_owned) };
        if !self.is_expected(&question) {
            return self.ask(async move { client.query(&bound.statement, &bound.given.parameters()).await });
        }
        self.ask(future::ready(Ok(())))?;
        let Some(at) = self.came.iter().position(|Came(one, _)| *one == question) else {
            return Err(self.server.gone());
        };
        let Came(_, answer) = self.came.swap_remove(at);
        answer.map_err(|e| self.server.wrap(&e))
    }

    /// Runs statements without parameters.
    pub(super) fn simple(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        self.forget_expected();
        let (client, sql) = (self.client.clone(), sql.to_owned());
        self.ask(async move { client.simple_query(&sql).await })
    }

    /// Looks at every answer that was left.
    ///
    /// # Errors
    /// The first statement's that failed.
    pub(super) fn settle(&mut self) -> Result<()> {
        if self.sent.is_empty() && self.came.is_empty() {
            return Ok(());
        }
        let left = self.left();
        self.runtime.block_on(each(left)).map_err(|e| self.server.wrap(&e))
    }

    /// What nobody has looked at: also what was expected, and not asked. One that failed is its step's failure all the same.
    fn left(&mut self) -> Vec<Answer<()>> {
        let came = self.came.drain(..).map(|Came(_, said)| -> Answer<()> { Box::pin(future::ready(said.map(drop))) });
        let sent = self.sent.drain(..).map(|sent| match sent {
            Sent::Put(answer) => answer,
            Sent::Expected(_, answer) => Box::pin(async move { answer.await.map(drop) }),
        });
        came.chain(sent).collect()
    }

    /// Leaves answers that nobody needs any more.
    pub(super) fn forget(&mut self) {
        self.sent.clear();
        self.came.clear();
    }

    /// Something is written: what is answered from before would be old.
    fn forget_expected(&mut self) {
        self.sent.retain(|sent| matches!(sent, Sent::Put(_)));
        self.came.clear();
    }

    /// Sends two statements with those that were left: how those and the first ended, and how the last did. Both texts are
    /// prepared already.
    pub(super) fn finish(&mut self, sql: &'static str, last: &'static str) -> (Result<()>, Result<()>) {
        let bound = match self.put(sql, nothing).and_then(|()| self.bind(last, nothing)) {
            Ok(bound) => bound,
            Err(error) => return (Err(error), Ok(())),
        };
        let client = self.client.clone();
        let last = send(async move { client.execute(&bound.statement, &bound.given.parameters()).await.map(drop) });
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
                self.sent.push(Sent::Put(answer));
                Ok(())
            }
        }
    }

    /// Sends a request and waits for its answer, and for those that come before it.
    fn ask<T: Send + 'static>(&mut self, request: impl Future<Output = Said<T>> + Send + 'static) -> Result<T> {
        let answer = send(request);
        let (sent, came) = (std::mem::take(&mut self.sent), &mut self.came);
        let answered = self.runtime.block_on(async {
            for sent in sent {
                match sent {
                    Sent::Put(answer) => answer.await?,
                    Sent::Expected(question, answer) => came.push(Came(question, answer.await)),
                }
            }
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

/// For a text that takes nothing.
fn nothing() -> Result<String> {
    Ok(String::new())
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
