//! `kill -9` of servers, agents, PostgreSQL, RabbitMQ and QEMU at moments that a seed chooses, while people ask for work:
//! every task that was promised ends once, no program begins twice, the books equal what exists, and the log has no gap.
//!
//! The seed is printed when a promise is broken; `HOSTLER_SEED` sets it. It chooses who is killed and when, and what is
//! asked for; what is under way at that moment is the machine's to choose.

#[path = "storm/machine.rs"]
mod machine;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use hostler_e2e::{
    dev::PATIENCE,
    fleet::{Caller, Fleet},
    rabbitmq::RabbitMq,
};
use hostler_fixture::Postgres;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

/// How long people ask and processes are killed.
const STORM: Duration = Duration::from_secs(20);
const PEOPLE: u64 = 4;
/// How many machines each of them uses at a time.
const MACHINES: usize = 3;
/// Between one death and the next, in milliseconds.
const CALM: std::ops::Range<u64> = 100..1500;
/// How long the dead stay away, in milliseconds.
const AWAY: std::ops::Range<u64> = 0..800;
/// Between two tries of the same request.
const AGAIN: Duration = Duration::from_millis(50);

fn seed() -> Result<u64> {
    match std::env::var("HOSTLER_SEED") {
        Ok(seed) => seed.parse().context("HOSTLER_SEED is a number"),
        Err(_) => Ok(u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos())),
    }
}

/// What was promised: the task of each key, and the program that it runs, where it runs one.
type Promised = BTreeMap<String, (String, Option<String>)>;

/// Somebody who asks for one thing after another, each under a key, until somebody answers.
struct Person {
    number: u64,
    caller: Caller,
    dice: StdRng,
    vms: Vec<String>,
    promised: Promised,
}

/// Something to ask for.
struct Wish {
    method: &'static str,
    path: String,
    body: Value,
    program: Option<String>,
}

impl Person {
    async fn live(mut self, until: Instant) -> Result<Promised> {
        for asked in 0.. {
            if Instant::now() >= until {
                break;
            }
            let wish = self.wish(asked);
            self.ask(&format!("key-{}-{asked}", self.number), wish).await?;
        }
        Ok(self.promised)
    }

    fn wish(&mut self, asked: u64) -> Wish {
        let vm = (!self.vms.is_empty()).then(|| self.dice.random_range(0..self.vms.len()));
        let post = |path: String, body| Wish { method: "POST", path, body, program: None };
        match (self.dice.random_range(0..10), vm) {
            (0..3, _) => {
                let params = json!({"message": "hello", "delay_ms": self.dice.random_range(0..300)});
                post("/tasks".to_owned(), json!({"kind": "echo", "params": params}))
            }
            (3, Some(vm)) => {
                let path = format!("/vms/{}", self.vms.swap_remove(vm));
                Wish { method: "DELETE", ..post(path, Value::Null) }
            }
            (4..10, Some(vm)) => {
                let program = format!("program-{}-{asked}", self.number);
                let path = format!("/vms/{}/exec", self.vms[vm]);
                Wish { program: Some(program.clone()), ..post(path, json!({"argv": [program]})) }
            }
            _ => post("/vms".to_owned(), json!({"memory_mib": 128})),
        }
    }

    /// Asks any of the servers, under the same key until there is an answer.
    async fn ask(&mut self, key: &str, wish: Wish) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let (server, body) =
                (self.dice.random_range(0..self.caller.servers()), (!wish.body.is_null()).then(|| wish.body.clone()));
            match self.caller.call(server, wish.method, &wish.path, &[("Idempotency-Key", key)], body).await {
                Ok((200..300, answer)) => return self.hear(key, wish, &answer),
                // The machine is gone, or will be.
                Ok((400..500, _)) => return Ok(()),
                Ok((503, _)) | Err(_) => sleep(AGAIN).await,
                Ok((status, answer)) => bail!("{} {}: {status} {answer}", wish.method, wish.path),
            }
        }
        bail!("{} {}: nobody answered", wish.method, wish.path)
    }

    fn hear(&mut self, key: &str, wish: Wish, answer: &Value) -> Result<()> {
        let task = answer["task"]["id"].as_str().with_context(|| answer.to_string())?;
        if wish.path == "/vms" {
            self.vms.extend(answer["vm"]["id"].as_str().map(str::to_owned));
            // Older ones are likely gone: a simulated machine ends with its agent.
            self.vms.drain(..self.vms.len().saturating_sub(MACHINES));
        }
        self.promised.insert(key.to_owned(), (task.to_owned(), wish.program));
        Ok(())
    }
}

/// Whom a death strikes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Victim {
    Postgres,
    Broker,
    Server(usize),
    Agent(usize),
}

/// Servers and agents, and what they need that is not ours.
struct Site<'a> {
    fleet: Fleet<'a>,
    postgres: Option<&'a Postgres>,
    broker: Option<RabbitMq>,
    /// What was asked for before.
    promised: Promised,
}

impl<'a> Site<'a> {
    fn new(fleet: Fleet<'a>) -> Site<'a> {
        Site { fleet, postgres: None, broker: None, promised: Promised::new() }
    }
}

impl Site<'_> {
    fn victims(&self) -> Vec<Victim> {
        let postgres = self.postgres.map(|_| Victim::Postgres);
        let broker = self.broker.as_ref().map(|_| Victim::Broker);
        let servers = (0..self.fleet.servers()).map(Victim::Server);
        servers.chain((0..self.fleet.agents()).map(Victim::Agent)).chain(postgres).chain(broker).collect()
    }

    fn kill(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Postgres => self.postgres.context("it is one of all")?.kill(),
            Victim::Broker => self.broker.as_mut().context("it is one of all")?.kill(),
            Victim::Server(number) => self.fleet.kill_server(number),
            Victim::Agent(number) => self.fleet.kill_agent(number),
        }
    }

    async fn revive(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Postgres => self.postgres.context("it is one of all")?.restart(),
            Victim::Broker => self.broker.as_mut().context("it is one of all")?.again().await,
            Victim::Server(number) => self.fleet.start_server(number).await,
            Victim::Agent(number) => self.fleet.start_agent(number),
        }
    }

    /// Kills one or two at a time, and starts them again, until then. How often.
    async fn rage(&mut self, dice: &mut StdRng, until: Instant) -> Result<usize> {
        let all = self.victims();
        let mut deaths = 0;
        while Instant::now() < until {
            sleep(Duration::from_millis(dice.random_range(CALM))).await;
            let mut struck = vec![all[dice.random_range(0..all.len())], all[dice.random_range(0..all.len())]];
            struck.dedup();
            if dice.random_bool(0.5) {
                struck.truncate(1);
            }
            for victim in &struck {
                self.kill(*victim)?;
            }
            sleep(Duration::from_millis(dice.random_range(AWAY))).await;
            // A server does not start without its database.
            struck.sort();
            for victim in &struck {
                self.revive(*victim).await?;
            }
            deaths += struck.len();
        }
        Ok(deaths)
    }
}

async fn storm(mut site: Site<'_>, seed: u64) -> Result<()> {
    let (mut dice, until) = (StdRng::seed_from_u64(seed), Instant::now() + STORM);
    let mut people = JoinSet::new();
    for number in 0..PEOPLE {
        let (caller, dice) = (site.fleet.caller(), StdRng::seed_from_u64(dice.random()));
        people.spawn(Person { number, caller, dice, vms: Vec::new(), promised: Promised::new() }.live(until));
    }
    let deaths = site.rage(&mut dice, until).await?;
    let mut promised = std::mem::take(&mut site.promised);
    while let Some(person) = people.join_next().await {
        promised.extend(person??);
    }
    assert!(deaths > 3 && promised.len() > 50, "{deaths} deaths, {} tasks: that is no storm", promised.len());
    at_rest(&site.fleet, &promised).await
}

/// All has come to rest, and is as it was promised.
async fn at_rest(fleet: &Fleet<'_>, promised: &Promised) -> Result<()> {
    let tasks: Vec<String> = promised.values().map(|(task, _)| task.clone()).collect();
    let ends = fleet.ends(0, &tasks).await?;
    for task in &tasks {
        assert_eq!(fleet.store().endings(task)?, 1, "{task}");
    }
    let all = fleet.store().ask("SELECT CAST(COUNT(*) AS TEXT) FROM tasks")?;
    assert_eq!(all, tasks.len().to_string(), "a key stands for one task, and nothing is done that nobody was promised");
    let log: String = (0..fleet.agents()).map(|agent| fleet.agent_log(agent)).collect();
    let mut ran = 0;
    for ((_, program), end) in promised.values().zip(&ends) {
        let Some(program) = program else { continue };
        let times = log.matches(&format!("argv=[\"{program}\"]")).count();
        assert!(times <= 1, "{program} was begun {times} times");
        assert!(times == 1 || end != "succeeded", "{program} is said to have run");
        ran += times;
    }
    let well = ends.iter().filter(|end| *end == "succeeded").count();
    eprintln!("{} tasks, {well} of them succeeded; {ran} programs began", tasks.len());
    assert!(ran > 0, "no program ran");
    let gap = fleet.store().ask("SELECT CAST(MAX(seq) - MIN(seq) + 1 - COUNT(*) AS TEXT) FROM log")?;
    assert_eq!(gap, "0", "numbers are missing in the log");
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}

#[tokio::test]
async fn nothing_is_lost_or_done_twice_over_a_file() -> Result<()> {
    let seed = seed()?;
    eprintln!("HOSTLER_SEED={seed}");
    let fleet = Fleet::over_a_file(2).await?;
    storm(Site::new(fleet), seed).await
}

#[tokio::test]
async fn nothing_is_lost_or_done_twice_over_postgresql() -> Result<()> {
    let seed = seed()?;
    eprintln!("HOSTLER_SEED={seed}");
    let postgres = Postgres::start(true)?;
    let fleet = Fleet::started(&postgres, 2, 2).await?;
    storm(Site { postgres: Some(&postgres), ..Site::new(fleet) }, seed).await
}

#[tokio::test]
async fn nothing_is_lost_or_done_twice_by_rabbitmq() -> Result<()> {
    let seed = seed()?;
    eprintln!("HOSTLER_SEED={seed}");
    let mut broker = RabbitMq::start().await?;
    let fleet = Fleet::by_broker(Postgres::shared()?, 2, 2, &broker).await?;
    let (status, answer) = fleet.echo(0).await?;
    assert_eq!(status, 200, "the queues are there: {answer}");
    let first = answer["task"]["id"].as_str().context("a task")?.to_owned();
    // What a queue has is safe from a power cut once the broker ended in order.
    broker.restart().await?;
    let promised = Promised::from([("first".to_owned(), (first, None))]);
    storm(Site { broker: Some(broker), promised, ..Site::new(fleet) }, seed).await
}
