use hostler_model::{event::Actor, id::EnrolmentId, internal::Report, kind::KindName, node::NodeFacts, task::*, *};
use hostler_sqlite::Mode;
use hostler_store::*;
use serde_json::json;
use std::{sync::Arc, time::Instant};

fn submission(ids: &Ids, now: Timestamp) -> Submission {
    Submission {
        task: ids.next(now),
        tenant: TenantId::DEFAULT,
        actor: Actor::system(),
        kind: KindName::Echo,
        params: json!({"message":"0123456789012345678901234567890123456789","delay_ms":0}),
        target: Target::default(),
        vm: None,
        retry_of: None,
        idempotency: None,
        dry_run: false,
    }
}

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) * 10_000.0
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let dir = tempfile::tempdir_in("/work").unwrap();
    bare(dir.path()).await;
    let ids = Ids::system();
    let clock = Clock::system();
    let store = Store::open(
        &dir.path().join("s.db"),
        Config { mode: Mode::Threads, clock: clock.clone(), ids: ids.clone(), timing: Timing::default() },
    )
    .unwrap();
    let mut nodes = vec![];
    for n in 0..4 {
        let hash = format!("t{n}");
        store
            .create_join_token(NewJoinToken {
                token_hash: hash.clone(),
                node_name: None,
                expires_at: clock.now().plus(std::time::Duration::from_secs(60)),
                approve: true,
                actor: Actor::system(),
            })
            .await
            .unwrap();
        let enrolment: EnrolmentId = ids.next(clock.now());
        let node = store
            .join(JoinNode {
                token_hash: hash,
                node: ids.next(clock.now()),
                name: format!("n{n}").parse().unwrap(),
                enrolment,
                facts: NodeFacts {
                    capacity: Resources { vcpus: 64, memory_mib: 1 << 30, disk_gib: 1000, vms: 1000 },
                    capabilities: vec!["*".into()],
                    ..NodeFacts::default()
                },
            })
            .await
            .unwrap()
            .unwrap();
        nodes.push((node.id, enrolment));
    }
    let total = 24_000usize;
    for round in 0..2 {
        let before = Instant::now();
        let c = cpu();
        for _ in 0..total / 32 {
            let now = clock.now();
            let batch = (0..32).map(|_| submission(&ids, now)).collect();
            for a in store.submit(batch).await.unwrap() {
                a.unwrap();
            }
        }
        let s = before.elapsed();
        println!(
            "round {round}: submit(32): {:.0}/s cpu {:.1}us",
            total as f64 / s.as_secs_f64(),
            (cpu() - c) / total as f64
        );
        let mut leased_all = vec![];
        let before = Instant::now();
        let c = cpu();
        loop {
            let mut got = 0;
            for (node, enrolment) in &nodes {
                let leased = store
                    .lease(vec![Claim { node: *node, enrolment: *enrolment, max: 100, resync: None }])
                    .await
                    .unwrap()
                    .pop()
                    .unwrap()
                    .unwrap();
                got += leased.len();
                leased_all.extend(leased.into_iter().map(|l| (*node, *enrolment, l)));
            }
            if got == 0 {
                break;
            }
        }
        let s = before.elapsed();
        println!(
            "lease(100): {:.0}/s cpu {:.1}us ({})",
            leased_all.len() as f64 / s.as_secs_f64(),
            (cpu() - c) / leased_all.len() as f64,
            leased_all.len()
        );
        let before = Instant::now();
        let c = cpu();
        let now = clock.now();
        for chunk in leased_all.chunks(100) {
            let batch = chunk
                .iter()
                .map(|(node, enrolment, l)| Settle {
                    node: *node,
                    enrolment: *enrolment,
                    report: Report {
                        task: l.task,
                        fence: l.fence,
                        end: End::Succeeded { output: json!({"message":"0123456789012345678901234567890123456789"}) },
                        phases: vec![PhaseTiming { phase: "run".into(), ms: 0.25 }],
                        started_at: now,
                        finished_at: now,
                    },
                })
                .collect();
            for a in store.settle(batch).await.unwrap() {
                a.unwrap();
            }
        }
        let s = before.elapsed();
        println!(
            "settle(100): {:.0}/s cpu {:.1}us",
            leased_all.len() as f64 / s.as_secs_f64(),
            (cpu() - c) / leased_all.len() as f64
        );
    }
    // 32 submitters, one at a time each
    let before = Instant::now();
    let c = cpu();
    let store = Arc::new(store);
    let mut tasks = vec![];
    for _ in 0..32 {
        let (store, ids, clock) = (store.clone(), ids.clone(), clock.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..500 {
                store.submit(vec![submission(&ids, clock.now())]).await.unwrap().pop().unwrap().unwrap();
            }
        }));
    }
    for t in tasks {
        t.await.unwrap();
    }
    println!("32 submitters: {:.0}/s cpu {:.1}us", 16000.0 / before.elapsed().as_secs_f64(), (cpu() - c) / 16000.0);
    let before = Instant::now();
    let c = cpu();
    for _ in 0..500 {
        store.submit(vec![submission(&ids, clock.now())]).await.unwrap().pop().unwrap().unwrap();
    }
    println!("alone: {:.0} us each, cpu {:.0}us", before.elapsed().as_micros() as f64 / 500.0, (cpu() - c) / 500.0);
    let before = Instant::now();
    let c = cpu();
    let d = store.doctor().await.unwrap();
    println!("doctor {:?} {}", before.elapsed(), d.is_well());
    for c in d.checks.iter().filter(|c| !c.ok) {
        println!("{c:?}");
    }
}
#[allow(dead_code)]
pub async fn bare(dir: &std::path::Path) {
    let db = hostler_sqlite::Sqlite::open(
        &dir.join("bare.db"),
        Mode::Threads,
        &["CREATE TABLE t (n INTEGER PRIMARY KEY, a TEXT) STRICT"],
    )
    .unwrap();
    let before = Instant::now();
    let c = cpu();
    for _ in 0..1000 {
        db.write("x", |tx| tx.execute("INSERT INTO t (a) VALUES (?1)", &"0123456789012345678901234567890123456789"))
            .await
            .unwrap();
    }
    println!("bare one-row commits: {:.0}/s", 1000.0 / before.elapsed().as_secs_f64());
}
