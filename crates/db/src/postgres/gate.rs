//! What a connection must be before it is used: of the history that this process knows, and its own for as long as it
//! lasts.
//!
//! * A pooler that hands connections on between transactions takes away what a session leaves there: prepared statements,
//!   settings, who listens. It is found out by two connections that are open at once: a session of their own each has, or
//!   they have not.
//! * A server that was promoted, or put back in time, may lack what was answered. Nothing is done on it until the owner of
//!   the tables has heard of it ([`crate::Db::adopt`]).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_postgres::{SimpleQueryMessage, error::SqlState};

use super::server::Server;
use crate::{Error, Result, Tx};

/// A pooler is not put in between every second: after an outage, connections are made by the dozen.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How often both connections are asked. One round finds pgbouncer out; more are for one that others use too.
const ROUNDS: usize = 4;

const BACKEND: &str = "SELECT pg_backend_pid()";

/// Unlike the control file, which speaks of the last checkpoint, this holds from a promotion's first moment on.
const TIMELINE: &str = "
SELECT CAST(system_identifier AS TEXT), substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
  FROM pg_control_system()";

/// A history: which cluster's, and which of its timelines. A promotion begins a new timeline, and so does the end of a
/// recovery to a point in time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeline {
    /// PostgreSQL's system identifier.
    pub system: String,
    /// The number of the timeline.
    pub number: i64,
}

impl Timeline {
    fn read(system: String, number: &str) -> Result<Timeline> {
        let number = i64::from_str_radix(number, 16).map_err(|error| Error::Aborted(error.to_string()))?;
        Ok(Timeline { system, number })
    }

    /// Of the server behind a transaction.
    pub(crate) fn of(tx: &Tx<'_>) -> Result<Timeline> {
        let told = tx.query_one(TIMELINE, &(), |row| Ok((row.get::<String>(0)?, row.get::<String>(1)?)))?;
        let (system, number) = told.ok_or_else(|| Error::Lost("the server does not tell its timeline".to_owned()))?;
        Timeline::read(system, &number)
    }

    /// Whether the other is of before: a primary that was not kept from starting again after its standby took its place.
    pub(crate) fn is_after(&self, other: &Timeline) -> bool {
        self.system == other.system && self.number > other.number
    }
}

/// What the connections of a process have in common. Its lock is never held over a question to the server.
#[derive(Default)]
pub(crate) struct Gate(Mutex<Known>);

#[derive(Default)]
struct Known {
    timeline: Option<Timeline>,
    /// The one that a connection was refused for.
    moved: Option<Timeline>,
    looked: Option<Instant>,
    complained: bool,
}

impl Gate {
    /// Lets a new connection in, and says in which history; or says why not.
    pub(super) fn admit(&self, server: &Server, ask: &mut Ask<'_>) -> Result<Option<Timeline>> {
        let looked = self.known().looked;
        if looked.is_none_or(|looked| looked.elapsed() > LOOK_AGAIN) && is_no_pooler(server, ask)? {
            self.known().looked = Some(Instant::now());
        }
        let Some(now) = self.ask_timeline(server, ask)? else { return Ok(None) };
        let mut known = self.known();
        let Some(before) = known.timeline.clone() else {
            known.timeline = Some(now.clone());
            return Ok(Some(now));
        };
        if before == now {
            known.moved = None;
            return Ok(Some(now));
        }
        let what = match before.is_after(&now) {
            true => "this server was left behind by a promotion, and must not be written to: stop it",
            false => "it was promoted, or put back in time",
        };
        let detail = format!(
            "it goes on in timeline {} of the cluster {}, and was in {} of {}: {what}",
            now.number, now.system, before.number, before.system
        );
        if !before.is_after(&now) {
            known.moved = Some(now);
        }
        Err(Error::Postgres { server: server.to_string(), detail, outage: true })
    }

    fn ask_timeline(&self, server: &Server, ask: &mut Ask<'_>) -> Result<Option<Timeline>> {
        let error = match words(ask, TIMELINE) {
            Ok(said) => {
                let [system, number] = said.try_into().map_err(|_| server.gone())?;
                return Timeline::read(system, &number).map(Some);
            }
            Err(error) => error,
        };
        let mut known = self.known();
        if known.timeline.is_some() || !error.code().is_some_and(|code| UNTOLD.contains(code)) {
            let detail = format!("its timeline cannot be asked for: {}", server.wrap(&error));
            return Err(Error::Postgres { server: server.to_string(), detail, outage: true });
        }
        if !std::mem::replace(&mut known.complained, true) {
            let error = server.wrap(&error);
            tracing::warn!(%error, "the database does not tell its timeline: a promotion, or a step back in time, will not be \
                            noticed; allow this user pg_control_system(), or run `hostler restore --already` after either");
        }
        Ok(None)
    }

    pub(super) fn timeline(&self) -> Option<Timeline> {
        self.known().timeline.clone()
    }

    pub(super) fn moved(&self) -> Option<Timeline> {
        self.known().moved.clone()
    }

    /// Whether a connection that was let in in this history may still be used.
    pub(super) fn is_current(&self, admitted: Option<&Timeline>) -> bool {
        let known = self.known();
        known.moved.is_none() && (admitted.is_none() || known.timeline.as_ref() == admitted)
    }

    pub(super) fn accept(&self, timeline: Timeline) {
        let mut known = self.known();
        known.moved = None;
        known.timeline = Some(timeline);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that will never tell: the user may not ask, or there is no such function.
const UNTOLD: [SqlState; 3] =
    [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::UNDEFINED_FUNCTION, SqlState::FEATURE_NOT_SUPPORTED];

/// Runs a plain query on the connection, whichever client it has: a prepared one is what a pooler would lose.
pub(super) type Ask<'a> = dyn FnMut(&str) -> std::result::Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> + 'a;

/// The first row's words.
fn words(ask: &mut Ask<'_>, sql: &str) -> std::result::Result<Vec<String>, tokio_postgres::Error> {
    let answer = ask(sql)?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row
        .map(|row| (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        .unwrap_or_default())
}

/// `false`: a second connection cannot be had now, and nothing is known.
fn is_no_pooler(server: &Server, first: &mut Ask<'_>) -> Result<bool> {
    let Ok(mut second) = server.call() else { return Ok(false) };
    let second: &mut Ask<'_> = &mut |sql| second.simple_query(sql);
    let backend = |ask: &mut Ask<'_>| words(ask, BACKEND).map_err(|error| server.wrap(&error));
    let own = backend(first)?;
    for _ in 0..ROUNDS {
        if backend(second)? == own || backend(first)? != own {
            return Err(Error::Aborted(format!(
                "between this and the database {server} is a pooler that hands connections on between transactions: what \
                 a session prepares, sets and listens to is lost there. Give this database session pooling (pgbouncer: \
                 pool_mode = session), or call PostgreSQL itself"
            )));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
