//! One connection of either engine, as the writer and the readers use it.

use crate::{Error, Result, Tx, postgres, sqlite};

/// A connection. At most one transaction is open on it at a time.
pub(crate) enum Session {
    Sqlite(sqlite::Session),
    Postgres(Box<postgres::Session>),
}

/// What a transaction is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Write,
    Read,
}

/// A place in a transaction.
pub(crate) struct Mark(u32);

impl Session {
    /// Begins a transaction. Nothing is open here, unless an earlier rollback failed.
    pub(crate) fn begin(&self, purpose: Purpose) -> Result<()> {
        self.rollback();
        let begun = match self {
            Session::Sqlite(session) => session.begin(purpose),
            Session::Postgres(session) => session.begin(purpose),
        };
        begun.map_err(|error| lost(Some(&error)))
    }

    /// Whether a transaction is open.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Session::Sqlite(session) => session.is_open(),
            Session::Postgres(session) => session.is_open(),
        }
    }

    /// Marks where a step, or a part of one, begins. Marks nest.
    pub(crate) fn mark(&self) -> Result<Mark> {
        match self {
            Session::Sqlite(session) => session.control("SAVEPOINT mark").map(|()| Mark(0)),
            Session::Postgres(session) => session.mark().map(Mark),
        }
    }

    /// Undoes all since a mark, the last that is not forgotten.
    pub(crate) fn undo(&self, mark: &Mark) -> Result<()> {
        match self {
            Session::Sqlite(session) => session.control("ROLLBACK TO SAVEPOINT mark"),
            Session::Postgres(session) => session.undo(mark.0),
        }
    }

    /// Forgets a mark, the last that is not forgotten.
    pub(crate) fn unmark(&self, mark: Mark) -> Result<()> {
        match self {
            Session::Sqlite(session) => session.control("RELEASE SAVEPOINT mark"),
            Session::Postgres(session) => session.unmark(mark.0),
        }
    }

    /// Looks at what became of all that was written since somebody looked.
    pub(crate) fn settle(&self) -> Result<()> {
        match self {
            Session::Sqlite(_) => Ok(()),
            Session::Postgres(session) => session.settle(),
        }
    }

    /// Makes everything durable, or nothing.
    ///
    /// # Errors
    /// A statement's own, where its answer had not been looked at; any other says that there is no transaction any more.
    pub(crate) fn commit(&self) -> Result<()> {
        match self {
            Session::Sqlite(session) => session.control("COMMIT").map_err(|error| {
                self.rollback();
                lost(Some(&error))
            }),
            Session::Postgres(session) => session.commit(),
        }
    }

    /// Ends a transaction without effect, where one is open.
    pub(crate) fn rollback(&self) {
        if !self.is_open() {
            return;
        }
        let ended = match self {
            Session::Sqlite(session) => session.control("ROLLBACK"),
            Session::Postgres(session) => session.rollback(),
        };
        if let Err(error) = ended {
            tracing::error!(%error, "a transaction cannot be rolled back");
        }
    }

    /// The transaction, for a step.
    pub(crate) fn tx(&self) -> Tx<'_> {
        Tx(self)
    }
}

/// Why there is no transaction any more.
pub(crate) fn lost(cause: Option<&Error>) -> Error {
    match cause {
        Some(Error::Full { path }) => Error::Full { path: path.clone() },
        Some(Error::Lost(why)) => Error::Lost(why.clone()),
        Some(other) => Error::Lost(other.to_string()),
        None => Error::Lost("the transaction ended inside a step".to_owned()),
    }
}
