//! What people ask for, so many times a second and never more: echoes, programs, and machines that take the place of
//! others.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hostler_e2e::fleet::Fleet;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::bench::http::Connection;

const PEOPLE: u64 = 16;
/// Of so many requests one takes a machine away, and the next brings another.
const CHURN: u64 = 25;
const MACHINE: &str = r#"{"memory_mib":128}"#;
const ECHO: &str = r#"{"kind":"echo","params":{"message":"forty bytes, as the peers are measured"}}"#;
const PROGRAM: &str = r#"{"argv":["true"]}"#;
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// What was asked for since it was last looked at, and the machines there are.
pub(super) struct Load {
    address: String,
    token: String,
    machines: Mutex<Vec<String>>,
    times: Mutex<Times>,
}

/// How long things took, in milliseconds.
#[derive(Default)]
pub(super) struct Times {
    /// From a request's first byte to its answer.
    pub(super) submit: Vec<f64>,
    /// From the same to the handler's start on the node.
    pub(super) dispatch: Vec<f64>,
}

impl Load {
    pub(super) fn new(fleet: &Fleet<'_>) -> Load {
        let caller = fleet.caller();
        let (at, token) = caller.context(0);
        Load {
            address: at.trim_start_matches("http://").to_owned(),
            token: token.to_owned(),
            machines: Mutex::default(),
            times: Mutex::default(),
        }
    }

    async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.address, &self.token).await
    }

    /// Makes the machines.
    pub(super) async fn fill(self: &Arc<Load>, machines: usize) -> Result<()> {
        let mut people = JoinSet::new();
        for number in 0..PEOPLE as usize {
            let (load, mine) = (self.clone(), (number..machines).step_by(PEOPLE as usize).count());
            people.spawn(async move {
                let mut connection = load.connect().await?;
                for _ in 0..mine {
                    load.machine(&mut connection).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = people.join_next().await {
            ended??;
        }
        let mut connection = self.connect().await?;
        for state in ["queued", "running"] {
            let path = format!("/api/v1/tasks?state={state}&limit=1");
            while connection.json("GET", &path, "").await?.1["items"].as_array().is_none_or(|items| !items.is_empty()) {
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Begins to ask, so many times a second, all people together.
    pub(super) fn begin(self: Arc<Load>, rate: u64) -> JoinSet<Result<()>> {
        let mut people = JoinSet::new();
        for number in 0..PEOPLE {
            people.spawn(self.clone().person(number, Duration::from_secs(PEOPLE) / u32::try_from(rate).unwrap_or(1)));
        }
        people
    }

    async fn person(self: Arc<Load>, number: u64, every: Duration) -> Result<()> {
        let mut connection = self.connect().await?;
        // One after another, not all at once.
        sleep(every * u32::try_from(number)? / u32::try_from(PEOPLE)?).await;
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last: Option<(String, i64)> = None;
        for turn in number.. {
            ticks.tick().await;
            if let Some((task, submitted)) = last.take() {
                self.look_back(&mut connection, &task, submitted).await?;
            }
            last = match turn % CHURN {
                0 => self.replace(&mut connection).await.map(|()| None)?,
                turn if turn % 2 == 0 => Some(self.submit(&mut connection, "/api/v1/tasks", ECHO).await?),
                _ => self.program(&mut connection, turn).await.map(|()| None)?,
            };
        }
        Ok(())
    }

    /// Hands something in; the task, and when that began.
    async fn submit(&self, connection: &mut Connection, path: &str, body: &str) -> Result<(String, i64)> {
        let (begun, at) = (Instant::now(), jiff::Timestamp::now().as_microsecond());
        let (status, answer) = connection.json("POST", path, body).await?;
        if status != 202 {
            bail!("{path}: {status}: {answer}");
        }
        self.times().submit.push(begun.elapsed().as_secs_f64() * 1000.0);
        Ok((answer["task"]["id"].as_str().context("id")?.to_owned(), at))
    }

    /// What became of an echo that was handed in a while ago: no later than now it must have begun.
    async fn look_back(&self, connection: &mut Connection, task: &str, submitted: i64) -> Result<()> {
        let task: Value = connection.ended(task).await?;
        let started: jiff::Timestamp = task["started_at"].as_str().with_context(|| task.to_string())?.parse()?;
        self.times().dispatch.push((started.as_microsecond() - submitted) as f64 / 1000.0);
        Ok(())
    }

    async fn program(&self, connection: &mut Connection, turn: u64) -> Result<()> {
        let Some(vm) = self.any(turn) else { return Ok(()) };
        self.submit(connection, &format!("/api/v1/vms/{vm}/exec"), PROGRAM).await.map(drop)
    }

    fn any(&self, turn: u64) -> Option<String> {
        let machines = self.machines();
        let at = usize::try_from(turn).unwrap_or_default().checked_rem(machines.len())?;
        machines.get(at).cloned()
    }

    /// Takes the oldest machine away and makes another.
    async fn replace(&self, connection: &mut Connection) -> Result<()> {
        let oldest = {
            let mut machines = self.machines();
            if machines.is_empty() { None } else { Some(machines.remove(0)) }
        };
        if let Some(vm) = oldest {
            let (status, answer) = connection.json("DELETE", &format!("/api/v1/vms/{vm}"), "").await?;
            if status != 202 {
                bail!("a machine is not deleted: {status}: {answer}");
            }
        }
        self.machine(connection).await
    }

    async fn machine(&self, connection: &mut Connection) -> Result<()> {
        let (status, answer) = connection.json("POST", "/api/v1/vms", MACHINE).await?;
        if status != 202 {
            bail!("a machine is not made: {status}: {answer}");
        }
        self.machines().push(answer["vm"]["id"].as_str().context("id")?.to_owned());
        Ok(())
    }

    /// What was measured since this was last called.
    pub(super) fn take(&self) -> Times {
        std::mem::take(&mut self.times())
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machines(&self) -> MutexGuard<'_, Vec<String>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
