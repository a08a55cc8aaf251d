//! A server's address, and what its errors mean.

use std::{fmt, sync::Arc, time::Duration};

use ::postgres::Client;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{
    Config,
    config::{Host, TargetSessionAttrs},
    error::SqlState,
};

use super::{
    gate::{Gate, Timeline},
    tls::Tls,
};
use crate::{Error, Result};

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may be silent before it is asked whether it still is one.
const SILENCE: Duration = Duration::from_secs(5);

/// What was answered is on the disk, whatever the server's own setting says. Every text is short and walks an index:
/// its plan is made once, and none that reads whole tables is taken because they were small when they were last counted,
/// nor one that collects and sorts all that an index has where a page of it was asked for: how many a page takes is not
/// known when the plan is made. What is asked for lies in memory, or on a disk that does not turn.
/// A process that stands still in a transaction, holding the lock of all who write, loses it.
const SETTINGS: &str = "
SET client_min_messages = warning;
SET synchronous_commit = on;
SET standard_conforming_strings = on;
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_bitmapscan = off;
SET max_parallel_workers_per_gather = 0;
SET random_page_cost = 1.1;
SET jit = off;
SET idle_in_transaction_session_timeout = '10s';
SET lock_timeout = '20s';
SET statement_timeout = '60s'";

/// A database on a server. Clones share it.
#[derive(Clone)]
pub(crate) struct Server {
    config: Arc<Config>,
    tls: Arc<Tls>,
    gate: Option<Arc<Gate>>,
}

impl Server {
    /// Reads an address such as `postgres://user:password@host:5432/name?sslmode=verify-full`, or PostgreSQL's key=value
    /// form.
    pub(crate) fn parse(url: &str) -> Result<Server> {
        let (tls, mut config) = Tls::parse(url)?;
        if config.get_application_name().is_none() {
            config.application_name("hostler");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(PATIENCE);
        }
        // Of several hosts, the one that writes: another's answers may be old.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        // A server that went without a word is found out by that, not by the hours that the kernel would wait.
        config
            .keepalives_idle(SILENCE)
            .keepalives_interval(SILENCE)
            .keepalives_retries(2)
            .tcp_user_timeout(3 * SILENCE);
        Ok(Server { config: Arc::new(config), tls: Arc::new(tls), gate: Some(Arc::default()) })
    }

    /// What its address says.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What its address says about TLS.
    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The same, whose connections are called this at the server.
    pub(crate) fn named(&self, name: &str) -> Server {
        let mut config = (*self.config).clone();
        config.application_name(name);
        Server { config: Arc::new(config), ..self.clone() }
    }

    /// The same, whatever timeline it is in.
    pub(crate) fn ungated(&self) -> Server {
        Server { gate: None, ..self.clone() }
    }

    /// The timeline in which this process works, where the server tells it.
    pub(crate) fn timeline(&self) -> Option<Timeline> {
        self.gate.as_ref().and_then(|gate| gate.timeline())
    }

    /// The one in which the server goes on, where connections are refused for it.
    pub(crate) fn moved(&self) -> Option<Timeline> {
        self.gate.as_ref().and_then(|gate| gate.moved())
    }

    /// Whether a connection of this timeline may still be used.
    pub(super) fn is_current(&self, timeline: Option<&Timeline>) -> bool {
        self.gate.as_ref().is_none_or(|gate| gate.is_current(timeline))
    }

    /// Connections of this timeline are good from now on.
    pub(crate) fn accept(&self, timeline: Timeline) {
        if let Some(gate) = &self.gate {
            gate.accept(timeline);
        }
    }

    /// A connection that was there is not any more.
    pub(crate) fn gone(&self) -> Error {
        Error::Postgres { server: self.to_string(), detail: "there is no connection".to_owned(), outage: true }
    }

    /// A new connection whose every statement is waited for, if it may be used.
    pub(crate) fn connect(&self) -> Result<Client> {
        let mut client = self.call()?;
        if let Some(gate) = &self.gate {
            gate.admit(self, &mut |sql| client.simple_query(sql))?;
        }
        client.batch_execute(SETTINGS).map_err(|e| self.wrap(&e))?;
        Ok(client)
    }

    /// A new connection, and the runtime that moves it while somebody waits for it, if it may be used.
    pub(crate) fn open(&self) -> Result<(Runtime, tokio_postgres::Client, Option<Timeline>)> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::Aborted(format!("a connection has no runtime: {e}")))?;
        let connector = self.tls.connector()?;
        let opened = runtime.block_on(async {
            let (client, connection) = self.config.connect(connector).await?;
            // How it ended is the answer of whoever waits for it then.
            tokio::spawn(async { drop(connection.await) });
            Ok(client)
        });
        let client = opened.map_err(|e| self.wrap(&e))?;
        let timeline = match &self.gate {
            Some(gate) => gate.admit(self, &mut |sql| runtime.block_on(client.simple_query(sql)))?,
            None => None,
        };
        runtime.block_on(client.batch_execute(SETTINGS)).map_err(|e| self.wrap(&e))?;
        Ok((runtime, client, timeline))
    }

    /// A new connection, whatever it is.
    pub(super) fn call(&self) -> Result<Client> {
        let config = ::postgres::Config::from((*self.config).clone());
        config.connect(self.tls.connector()?).map_err(|e| self.wrap(&e))
    }

    /// An error of this server's.
    pub(crate) fn wrap(&self, error: &tokio_postgres::Error) -> Error {
        if error.code() == Some(&SqlState::DISK_FULL) {
            return Error::Full { path: self.to_string().into() };
        }
        Error::Postgres { server: self.to_string(), detail: describe(error), outage: is_outage(error) }
    }
}

/// Without user and password.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => f.write_str(host)?,
            Some(Host::Unix(path)) => write!(f, "{}", path.display())?,
            None => f.write_str("localhost")?,
        }
        if let Some(port) = self.config.get_ports().first() {
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", self.config.get_dbname().or_else(|| self.config.get_user()).unwrap_or_default())
    }
}

/// What the server said, with the detail that its own words leave out; never the values of a row.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} ({})", said.message(), said.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// Errors that speak of the server or of the way to it, not of a statement: the classes are those of PostgreSQL's
/// documentation, appendix A.
fn is_outage(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        // Connections · read only · rolled back for another's sake · resources · an operator · the system.
        Some(code) => ["08", "25006", "40", "53", "57", "58", "XX"].iter().any(|class| code.code().starts_with(class)),
    }
}
