//! Transactions on a connection to a server. When it breaks, the transaction on it is lost, and the next one begins on a
//! new connection.

use std::{
    cell::{Cell, RefCell, RefMut},
    sync::LazyLock,
    thread,
    time::Duration,
};

use serde::Serialize;
use tokio_postgres::SimpleQueryMessage;

use super::{
    link::{Backend, Link},
    schema::{self, FAMILY, WRITING},
    server::Server,
};
use crate::{
    Error, Migrations, Result, Row,
    row::Cells,
    session::{Purpose, lost},
};

/// How often a server is asked what became of a commit whose answer was lost, and how far apart.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Waits for those who write before, and then says the transaction's number and the time.
static LOCK: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT CAST(pg_advisory_xact_lock({FAMILY}, {WRITING}) AS TEXT),
                CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT),
                CAST(1000000 * EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT)"
    )
});

/// Fails where a statement before it did: COMMIT would roll such a transaction back without a word.
const STILL_GOOD: &str = "SELECT 1";

const COMMIT: &str = "COMMIT";

/// A connection with at most one transaction.
pub(crate) struct Session {
    server: Server,
    link: RefCell<Option<Link>>,
    /// What the server may still have of a connection that broke.
    last: RefCell<Option<Backend>>,
    /// The transaction that writes: its number, by which the server knows afterwards what became of it.
    open: Cell<Open>,
    /// The last mark's number.
    marks: Cell<u32>,
    /// What a transaction that writes asks as it begins.
    first: Option<&'static str>,
}

/// What is open on the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Reading,
    Writing { xid: i64, at: i64 },
}

impl Session {
    /// A connection that writes; the tables are brought up to date.
    pub(crate) fn writing(server: Server, migrations: Migrations, first: Option<&'static str>) -> Result<Session> {
        schema::migrate(&server, &mut server.connect()?, migrations)?;
        Ok(Session { first, ..Session::reading(server)? })
    }

    /// A connection that only reads.
    pub(crate) fn reading(server: Server) -> Result<Session> {
        let link = RefCell::new(Some(Link::new(&server, None)?));
        let (last, open, marks) = (RefCell::new(None), Cell::new(Open::Nothing), Cell::default());
        Ok(Session { server, link, last, open, marks, first: None })
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
                self.link()?.prepare_all([BEGIN, &LOCK, STILL_GOOD, COMMIT].into_iter().chain(self.first))?;
                let begun = self.link()?.begin(BEGIN, &LOCK, self.first)?;
                let number = |column| begun.try_get(column).map_err(|e| self.server.wrap(&e));
                Open::Writing { xid: number(1)?, at: number(2)? }
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
        !self.is_broken() && self.open.get() != Open::Nothing
    }

    /// Marks a place in a transaction; the answer comes with the next that somebody waits for. Each mark has a name of its
    /// own, so that none can be taken for another that was to be forgotten.
    pub(crate) fn mark(&self) -> Result<u32> {
        let mark = self.marks.get().wrapping_add(1);
        self.marks.set(mark);
        self.link()?.put_simple(format!("SAVEPOINT mark_{mark}"));
        Ok(mark)
    }

    /// Goes back to a mark, whatever failed since.
    pub(crate) fn undo(&self, mark: u32) -> Result<()> {
        self.link()?.forget();
        self.run(&format!("ROLLBACK TO SAVEPOINT mark_{mark}")).map(drop)
    }

    /// Forgets a mark; the answer comes with the next that somebody waits for.
    pub(crate) fn unmark(&self, mark: u32) -> Result<()> {
        self.link()?.put_simple(format!("RELEASE SAVEPOINT mark_{mark}"));
        Ok(())
    }

    /// Looks at what became of statements whose answers were left.
    pub(crate) fn settle(&self) -> Result<()> {
        self.link()?.settle()
    }

    /// Ends a transaction without effect.
    pub(crate) fn rollback(&self) -> Result<()> {
        self.link()?.forget();
        self.run("ROLLBACK")?;
        self.open.set(Open::Nothing);
        Ok(())
    }

    /// Makes what was written durable. When the answer is lost, the server is asked on a new connection.
    ///
    /// # Errors
    /// A statement's own, of those whose answers were left; any other says that there is no transaction any more.
    pub(crate) fn commit(&self) -> Result<()> {
        let open = self.open.get();
        let (written, committed) = self.link()?.finish(STILL_GOOD, COMMIT);
        let gone = |error: Error| lost(Some(&error));
        let Err(error) = written.and(committed.map_err(gone)) else {
            self.open.set(Open::Nothing);
            return Ok(());
        };
        match open {
            Open::Writing { xid, .. } if self.is_broken() => {
                self.open.set(Open::Nothing);
                self.what_became_of(xid, error).map_err(gone)
            }
            _ => {
                if self.rollback().is_err() {
                    self.cut();
                }
                Err(error)
            }
        }
    }

    fn what_became_of(&self, xid: i64, error: Error) -> Result<()> {
        let before = self.link()?.started().to_owned();
        for _ in 0..LOOKS {
            let connected = self.connected();
            // After a crash, or on a standby that took over, the number may be another transaction's.
            if connected.is_ok() && self.link()?.started() != before {
                return Err(Error::Lost(format!("the server was started again meanwhile: {error}")));
            }
            match connected.and_then(|()| self.run(&format!("SELECT pg_xact_status('{xid}'::xid8)"))) {
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
        let changed = self.link()?.execute(sql, batch)?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    pub(crate) fn put(&self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<()> {
        self.link()?.put(sql, batch)
    }

    pub(crate) fn put_each(&self, sql: &'static str, rows: &[impl Serialize]) -> Result<()> {
        self.link()?.put_rows(sql, rows)
    }

    pub(crate) fn expect(&self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<()> {
        self.link()?.expect(sql, batch)
    }

    pub(crate) fn query<T>(
        &self,
        sql: &'static str,
        batch: impl FnOnce() -> Result<String>,
        read: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let rows = self.link()?.query(sql, batch)?;
        rows.iter().map(|row| read(&Row(Cells::Postgres(row)))).collect()
    }

    pub(crate) fn script(&self, sql: &str) -> Result<()> {
        self.run(sql).map(drop)
    }

    fn run(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        self.link()?.simple(sql)
    }

    fn link(&self) -> Result<RefMut<'_, Link>> {
        RefMut::filter_map(self.link.borrow_mut(), Option::as_mut).map_err(|_| self.server.gone())
    }

    fn is_broken(&self) -> bool {
        self.link.borrow().as_ref().is_none_or(Link::is_broken)
    }

    /// Gives the connection up.
    fn cut(&self) {
        self.open.set(Open::Nothing);
        if let Some(link) = self.link.replace(None) {
            self.last.replace(Some(link.into_backend()));
        }
    }

    /// Makes a new connection in place of one that broke, or that leads to a server from which the others have moved on.
    fn connected(&self) -> Result<()> {
        let is_old = |link: &Link| !self.server.is_current(link.timeline());
        if self.is_broken() || self.link.borrow().as_ref().is_some_and(is_old) {
            self.cut();
            let link = Link::new(&self.server, self.last.borrow().as_ref())?;
            self.last.replace(None);
            self.link.replace(Some(link));
        }
        Ok(())
    }
}

fn word(answer: &[SimpleQueryMessage], column: usize) -> Option<&str> {
    answer.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(column)),
        _ => None,
    })?
}
