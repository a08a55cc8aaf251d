//! apalis over PostgreSQL, which is found by PGHOST, PGUSER and PGDATABASE. Prints one JSON object.
//!
//! The same load as that of the other peers: single submits, bulk submits, the drain of both, and the time to a handler's
//! start while nothing else waits.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PostgresStorage};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::{sync::mpsc, task::JoinSet};

const VERSION: &str = "1.0.0";
const CLIENTS: usize = 32;
const BULK: usize = 1000;
const SEQUENTIAL: usize = 200;
/// How many jobs a worker takes at once.
const BATCH: usize = 500;
/// How often a worker looks although nothing woke it: without that, now and then a job stays where it is.
const LOOK: Duration = Duration::from_millis(100);
/// Longer than any peer has taken for what is asked here.
const PATIENCE: Duration = Duration::from_secs(120);
/// A first connection, its statements and its plans are not what is measured.
const NOT_COUNTED: usize = 20;

#[derive(Clone, Serialize, Deserialize)]
struct Noop {
    message: String,
}

fn noop() -> Noop {
    Noop { message: "forty bytes, as the peers are measured".to_owned() }
}

type Storage = PostgresStorage<Noop>;

#[derive(Clone)]
struct Started {
    count: Arc<AtomicUsize>,
    tell: mpsc::UnboundedSender<Instant>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let tasks: usize = env::var("TASKS").ok().map(|text| text.parse()).transpose()?.unwrap_or(10_000);
    let pool = PgPoolOptions::new().max_connections(CLIENTS as u32 + 8).connect_with(PgConnectOptions::new()).await?;
    PostgresStorage::setup(&pool).await?;
    let config = Config::default().queue("noop").batch_size(BATCH);
    let storage: Storage = PostgresStorage::new(&pool).with_config(config.clone());
    singly(&storage, tasks.div_ceil(10)).await?;
    let single = singly(&storage, tasks).await?;
    let bulk = in_bulk(&storage, tasks).await?;

    let (tell, mut told) = mpsc::unbounded_channel();
    let started = Started { count: Arc::default(), tell };
    let waiting = left(&pool).await?;
    let begun = Instant::now();
    let backend = PostgresStorage::<Noop>::new(&pool).with_config(config).with_pubsub().poll_with_interval(LOOK);
    let worker = WorkerBuilder::new("noop").backend(backend).data(started.clone()).build(handle);
    let working = tokio::spawn(worker.run());
    drained(&pool, &started, waiting).await?;
    let drain = waiting as f64 / begun.elapsed().as_secs_f64();
    while told.try_recv().is_ok() {}
    let [p50, p99] = latency(&pool, &storage, &mut told).await?;
    working.abort();
    let about = json!({
        "peer": format!("apalis-postgres {VERSION}"),
        "settings": format!("batches of {BATCH}, woken by NOTIFY and every {LOOK:?}"),
        "single": single, "bulk": bulk, "drain": drain, "p50": p50, "p99": p99,
    });
    println!("{about}");
    Ok(())
}

async fn handle(_: Noop, started: Data<Started>) -> Result<(), BoxDynError> {
    started.count.fetch_add(1, Ordering::Relaxed);
    let _ = started.tell.send(Instant::now());
    Ok(())
}

async fn singly(storage: &Storage, tasks: usize) -> Result<f64> {
    let left = Arc::new(AtomicUsize::new(tasks));
    let (begun, mut clients) = (Instant::now(), JoinSet::new());
    for _ in 0..CLIENTS {
        let (mut storage, left) = (storage.clone(), left.clone());
        clients.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                storage.push(noop()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(tasks as f64 / begun.elapsed().as_secs_f64())
}

async fn in_bulk(storage: &Storage, tasks: usize) -> Result<f64> {
    let (mut storage, calls) = (storage.clone(), tasks.div_ceil(BULK));
    let begun = Instant::now();
    for _ in 0..calls {
        storage.push_bulk(vec![noop(); BULK]).await?;
    }
    Ok((calls * BULK) as f64 / begun.elapsed().as_secs_f64())
}

/// How many jobs have not ended, as the database says.
async fn left(pool: &PgPool) -> Result<usize> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'").fetch_one(pool).await?;
    Ok(usize::try_from(count)?)
}

async fn drained(pool: &PgPool, started: &Started, tasks: usize) -> Result<()> {
    let begun = Instant::now();
    // The database is asked only at the end: a count is work for it too.
    while started.count.load(Ordering::Relaxed) < tasks || left(pool).await? > 0 {
        ensure!(begun.elapsed() < PATIENCE, "{} of {tasks} jobs in time", started.count.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

async fn latency(pool: &PgPool, storage: &Storage, told: &mut mpsc::UnboundedReceiver<Instant>) -> Result<[f64; 2]> {
    let (mut storage, mut sample) = (storage.clone(), Vec::with_capacity(SEQUENTIAL));
    for number in 0..SEQUENTIAL + NOT_COUNTED {
        let begun = Instant::now();
        storage.push(noop()).await?;
        let Some(started) = tokio::time::timeout(PATIENCE, told.recv()).await? else { break };
        if number >= NOT_COUNTED {
            sample.push((started - begun).as_secs_f64() * 1000.0);
        }
        while left(pool).await? > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    sample.sort_by(f64::total_cmp);
    let at = |share: f64| sample[((sample.len() - 1) as f64 * share).round() as usize];
    Ok([at(0.5), at(0.99)])
}
