//! One connection to a server. When it breaks, the transaction on it is lost, and the next one begins on a new connection.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::HashMap,
    error::Error as StdError,
    thread,
    time::Duration,
};

use ::postgres::{
    Client, SimpleQueryMessage, Statement,
    types::{IsNull, ToSql, Type, to_sql_checked},
};
use bytes::{BufMut, BytesMut};

use super::{
    dialect,
    schema::{self, FAMILY, WRITING},
    server::Server,
};
use crate::{Error, Migrations, Result, Row, row::Cells, session::Purpose};

/// How often a server is asked what became of a commit whose answer was lost, and how far apart.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// A connection with the statements that it has prepared.
pub(crate) struct Session {
    server: Server,
    link: RefCell<Option<Link>>,
    /// What the server may still have of a connection that broke.
    last: RefCell<Option<Backend>>,
    /// The transaction that writes: its number, by which the server knows afterwards what became of it.
    open: Cell<Open>,
}

/// What is open on the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Reading,
    Writing { xid: i64, at: i64 },
}

struct Link {
    client: Client,
    /// By which the server knows the connection.
    backend: Backend,
    prepared: HashMap<&'static str, Prepared>,
}

/// A connection, as its server knows it: the number alone may be another's by now.
struct Backend {
    pid: i32,
    since: String,
}

const BACKEND: &str = "
SELECT pid, CAST(backend_start AS TEXT)
  FROM pg_stat_activity
 WHERE pid = pg_backend_pid()";

/// Ends what is left of a connection that broke at this end only: it would hold its locks until somebody noticed.
const END: &str = "
SELECT pg_terminate_backend(pid)
  FROM pg_stat_activity
 WHERE pid = $1 AND CAST(backend_start AS TEXT) = $2";

#[derive(Clone)]
struct Prepared {
    statement: Statement,
    takes_batch: bool,
}

impl Session {
    /// A connection that writes; the tables are brought up to date.
    pub(crate) fn writing(server: Server, migrations: Migrations) -> Result<Session> {
        let mut client = server.connect()?;
        schema::migrate(&server, &mut client, migrations)?;
        Session::over(server, client)
    }

    /// A connection that only reads.
    pub(crate) fn reading(server: Server) -> Result<Session> {
        let client = server.connect()?;
        Session::over(server, client)
    }

    fn over(server: Server, client: Client) -> Result<Session> {
        let link = Link::new(&server, client, None)?;
        let last = RefCell::new(None);
        Ok(Session { server, link: RefCell::new(Some(link)), last, open: Cell::new(Open::Nothing) })
    }

    /// Begins a transaction, on a new connection where the old one broke. One that writes waits for those of other
    /// servers: the lock goes with the transaction.
    pub(crate) fn begin(&self, purpose: Purpose) -> Result<()> {
        self.connected()?;
        // Half a beginning is none: nobody could tell what the next transaction on that connection would be part of.
        let lost = |_: &Error| self.cut();
        match self.begun(purpose).inspect_err(lost) {
            // The connection had broken while nobody used it: nothing was begun, and it may well be made again.
            Err(error) if error.is_outage() => {
                self.connected()?;
                self.begun(purpose).inspect_err(lost)
            }
            begun => begun,
        }
    }

    fn begun(&self, purpose: Purpose) -> Result<()> {
        let open = match purpose {
            Purpose::Read => {
                self.run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")?;
                Open::Reading
            }
            Purpose::Write => {
                let begin = format!(
                    "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({FAMILY}, {WRITING}); \
                     SELECT pg_current_xact_id(), CAST(1000000 * EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT)"
                );
                let answer = self.run(&begin)?;
                Open::Writing { xid: number(&answer, 0)?, at: number(&answer, 1)? }
            }
        };
        self.open.set(open);
        Ok(())
    }

    /// The server's time when the transaction began to write, in microseconds since the Unix epoch.
    pub(crate) fn began(&self) -> Option<i64> {
        match self.open.get() {
            Open::Writing { at, .. } => Some(at),
            Open::Nothing | Open::Reading => None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        let alive = self.link.borrow().as_ref().is_some_and(|link| !link.client.is_closed());
        alive && self.open.get() != Open::Nothing
    }

    /// A statement that marks a place in a transaction.
    pub(crate) fn control(&self, sql: &'static str) -> Result<()> {
        self.run(sql).map(drop)
    }

    /// Ends a transaction without effect.
    pub(crate) fn rollback(&self) -> Result<()> {
        self.run("ROLLBACK")?;
        self.open.set(Open::Nothing);
        Ok(())
    }

    /// Makes what was written durable. When the answer is lost, the server is asked on a new connection.
    pub(crate) fn commit(&self) -> Result<()> {
        let open = self.open.replace(Open::Nothing);
        // A transaction in which a statement failed is rolled back by COMMIT, without a word: the statement before it fails then.
        match (self.run("SELECT 1; COMMIT"), open) {
            (Ok(_), _) => Ok(()),
            (Err(error), Open::Writing { xid, .. }) if self.is_broken() => self.what_became_of(xid, error),
            (Err(error), _) => {
                self.cut();
                Err(error)
            }
        }
    }

    fn what_became_of(&self, xid: i64, error: Error) -> Result<()> {
        for _ in 0..LOOKS {
            match self.connected().and_then(|()| self.run(&format!("SELECT pg_xact_status('{xid}'::xid8)"))) {
                Ok(answer) => match word(&answer, 0) {
                    Some("committed") => return Ok(()),
                    Some("in progress") => {}
                    Some(_) | None => return Err(error),
                },
                Err(again) => tracing::warn!(error = %again, "what became of a commit is not known yet"),
            }
            thread::sleep(BETWEEN_LOOKS);
        }
        Err(Error::Lost(format!("whether the last transaction was committed is not known: {error}")))
    }

    pub(crate) fn execute(&self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<usize> {
        let mut link = self.link()?;
        let prepared = link.prepare(&self.server, sql)?;
        let changed = match prepared.takes_batch {
            true => link.client.execute(&prepared.statement, &[&Batch(batch()?)]),
            false => link.client.execute(&prepared.statement, &[]),
        };
        changed.map(|rows| usize::try_from(rows).unwrap_or(usize::MAX)).map_err(|e| self.server.wrap(&e))
    }

    pub(crate) fn query<T>(
        &self,
        sql: &'static str,
        batch: impl FnOnce() -> Result<String>,
        read: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut link = self.link()?;
        let prepared = link.prepare(&self.server, sql)?;
        let rows = match prepared.takes_batch {
            true => link.client.query(&prepared.statement, &[&Batch(batch()?)]),
            false => link.client.query(&prepared.statement, &[]),
        };
        drop(link);
        let rows = rows.map_err(|e| self.server.wrap(&e))?;
        rows.iter().map(|row| read(&Row(Cells::Postgres(row)))).collect()
    }

    pub(crate) fn script(&self, sql: &str) -> Result<()> {
        self.run(sql).map(|_| ())
    }

    fn run(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        self.link()?.client.simple_query(sql).map_err(|e| self.server.wrap(&e))
    }

    fn link(&self) -> Result<RefMut<'_, Link>> {
        RefMut::filter_map(self.link.borrow_mut(), Option::as_mut).map_err(|_| self.server.gone())
    }

    fn is_broken(&self) -> bool {
        self.link.borrow().as_ref().is_none_or(|link| link.client.is_closed())
    }

    /// Gives the connection up.
    fn cut(&self) {
        self.open.set(Open::Nothing);
        if let Some(link) = self.link.replace(None) {
            self.last.replace(Some(link.backend));
        }
    }

    /// Makes a new connection in place of one that broke.
    fn connected(&self) -> Result<()> {
        if self.is_broken() {
            self.cut();
            let client = self.server.connect()?;
            let link = Link::new(&self.server, client, self.last.borrow().as_ref())?;
            self.last.replace(None);
            self.link.replace(Some(link));
        }
        Ok(())
    }
}

impl Link {
    fn new(server: &Server, mut client: Client, before: Option<&Backend>) -> Result<Link> {
        let wrap = |error| server.wrap(&error);
        if let Some(Backend { pid, since }) = before {
            client.query(END, &[pid, since]).map_err(wrap)?;
        }
        let row = client.query_one(BACKEND, &[]).map_err(wrap)?;
        let backend = Backend { pid: row.get(0), since: row.get(1) };
        Ok(Link { client, backend, prepared: HashMap::new() })
    }

    /// The statement of a text, prepared once for each connection.
    fn prepare(&mut self, server: &Server, sql: &'static str) -> Result<Prepared> {
        use std::collections::hash_map::Entry;
        match self.prepared.entry(sql) {
            Entry::Occupied(known) => Ok(known.get().clone()),
            Entry::Vacant(place) => {
                let takes_batch = dialect::takes_batch(sql);
                let types: &[Type] = if takes_batch { &[Type::JSONB] } else { &[] };
                let translated = dialect::translate(sql);
                let statement = self.client.prepare_typed(&translated, types).map_err(|e| server.wrap(&e))?;
                Ok(place.insert(Prepared { statement, takes_batch }).clone())
            }
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

fn word(answer: &[SimpleQueryMessage], column: usize) -> Option<&str> {
    answer.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(column)),
        _ => None,
    })?
}

fn number(answer: &[SimpleQueryMessage], column: usize) -> Result<i64> {
    word(answer, column)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::Lost("the server did not say the transaction's number and time".to_owned()))
}
