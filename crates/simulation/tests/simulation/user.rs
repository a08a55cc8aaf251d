//! Users: they ask for whatever comes to their minds, ask again under the same key while nobody answers, and remember
//! every task that they were promised.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hostler_link::{Link, LinkError, with_timeout};
use hostler_model::TaskId;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    dice::Dice,
    net::{Door, End, Net},
};

/// How long a user waits for an answer.
const PATIENCE: Duration = Duration::from_secs(12);
/// How often a user asks again.
const TRIES: usize = 5;

/// Every task that somebody was promised, and the key that it was asked for under. Clones share it.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<TaskId, String>>>);

impl Ledger {
    pub fn promised(&self) -> Vec<TaskId> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A user.
pub struct User {
    number: usize,
    link: Link,
    net: Net,
    dice: Dice,
    ledger: Ledger,
    asked: u64,
    vms: Vec<String>,
    snapshots: Vec<String>,
    tasks: Vec<TaskId>,
}

#[derive(Clone, Copy)]
enum Wish {
    Echo,
    Batch,
    Create,
    Exec,
    Power,
    Snapshot,
    Restore,
    Forget,
    Edit,
    Delete,
    Cancel,
    Retry,
}

/// What comes to a user's mind, and how often.
const WISHES: &[(u64, Wish)] = &[
    (13, Wish::Echo),
    (3, Wish::Batch),
    (20, Wish::Create),
    (18, Wish::Exec),
    (22, Wish::Power),
    (8, Wish::Snapshot),
    (5, Wish::Restore),
    (4, Wish::Forget),
    (8, Wish::Edit),
    (9, Wish::Delete),
    (8, Wish::Cancel),
    (6, Wish::Retry),
];

/// A request, as often as it is sent.
struct Request {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl User {
    pub fn new(number: usize, token: &str, net: &Net, dice: Dice, ledger: Ledger) -> User {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
            headers.insert(header::AUTHORIZATION, value);
        }
        User {
            number,
            link: net.link(End::User(number), Door::People).with_headers(headers),
            net: net.clone(),
            dice,
            ledger,
            asked: 0,
            vms: Vec::new(),
            snapshots: Vec::new(),
            tasks: Vec::new(),
        }
    }

    /// When it is to be done, where that is said.
    fn when(&self, path: String) -> String {
        match self.dice.within(0..10) {
            0 => format!("{path}?delay_seconds={}", self.dice.within(1..40)),
            1 => format!("{path}?priority={}", self.dice.within(0..100)),
            2 => format!(
                "{path}?queue_timeout_seconds={}&timeout_seconds={}",
                self.dice.within(5..60),
                self.dice.within(5..60)
            ),
            _ => path,
        }
    }

    /// Wishes for things until then.
    pub async fn live(mut self, until: Instant) {
        while Instant::now() < until {
            sleep(self.dice.ms(10..1500)).await;
            let wish = self.dice.weighed(WISHES);
            if let Some(mut request) = self.word(wish) {
                if !matches!(wish, Wish::Cancel) {
                    request.path = self.when(request.path);
                }
                self.ask(request).await;
            }
        }
    }

    /// A wish as a request; nothing where there is nothing to wish it of.
    fn word(&mut self, wish: Wish) -> Option<Request> {
        let dice = self.dice.clone();
        let vm = || dice.one(&self.vms).cloned();
        let task = || dice.one(&self.tasks);
        Some(match wish {
            Wish::Echo => {
                post("tasks", json!({"kind": "echo", "params": {"message": "m", "delay_ms": dice.within(0..6000)}}))
            }
            Wish::Batch => {
                let echo = || json!({"kind": "echo", "params": {"message": "b", "delay_ms": dice.within(0..3000)}});
                let mut tasks: Vec<Value> = (0..dice.within(1..7)).map(|_| echo()).collect();
                if dice.happens(0.2) {
                    // One that is refused keeps none of the others.
                    tasks.push(json!({"kind": "nothing"}));
                }
                post("tasks/batch", json!({"tasks": tasks}))
            }
            Wish::Create => post("vms", self.machine()),
            Wish::Exec => {
                let argv = json!([format!("program-{}-{}", self.number, self.asked)]);
                post(&format!("vms/{}/exec", vm()?), json!({"argv": argv, "timeout_seconds": dice.within(1..20)}))
            }
            Wish::Power => {
                let verb = dice.weighed(&[(4, "start"), (4, "stop"), (2, "reboot"), (2, "pause"), (3, "resume")]);
                let patience =
                    matches!(verb, "stop" | "reboot").then(|| json!({"timeout_seconds": dice.within(0..10)}));
                post(&format!("vms/{}/{verb}", vm()?), patience.unwrap_or_else(|| json!({})))
            }
            Wish::Snapshot => post(&format!("vms/{}/snapshots", vm()?), json!({"memory": dice.happens(0.5)})),
            Wish::Restore => post(&format!("vms/{}/restore", vm()?), json!({"snapshot": dice.one(&self.snapshots)?})),
            Wish::Forget => delete(&format!("snapshots/{}", dice.one(&self.snapshots)?)),
            Wish::Edit => Request { method: Method::PATCH, ..post(&format!("vms/{}", vm()?), edit(&dice)) },
            Wish::Delete => {
                let vm = vm()?;
                if dice.happens(0.6) {
                    self.vms.retain(|other| *other != vm);
                }
                delete(&format!("vms/{vm}"))
            }
            Wish::Cancel => post(&format!("tasks/{}/cancel", task()?), json!({})),
            Wish::Retry => post(&format!("tasks/{}/retry", task()?), json!({})),
        })
    }

    fn machine(&self) -> Value {
        let dice = &self.dice;
        let mut machine = json!({
            "image": "tiny", "vcpus": dice.within(1..4), "memory_mib": 128 * dice.within(1..12),
            "disk_gib": dice.within(1..8), "ready_timeout_seconds": dice.within(3..40),
            "restart": dice.weighed(&[(3, "never"), (1, "on_failure"), (1, "always")]), "autostart": dice.happens(0.3),
        });
        if dice.happens(0.1) {
            machine["ttl_seconds"] = json!(dice.within(10..90));
        }
        if dice.happens(0.3) {
            machine["wait_for_capacity"] = json!(true);
        }
        if dice.happens(0.5) {
            // Few names, so that they are taken again and again.
            machine["name"] = json!(format!("name-{}", dice.within(0..6)));
        }
        machine
    }

    /// Asks, again under the same key while nobody answers, and now and then although somebody did.
    async fn ask(&mut self, request: Request) {
        self.asked += 1;
        let key = format!("key-{}-{}", self.number, self.asked);
        let mut asked_again = self.dice.happens(0.1);
        for _ in 0..TRIES {
            match self.send(&key, &request).await {
                Ok(answer) => {
                    self.hear(&key, &answer);
                    if !std::mem::take(&mut asked_again) {
                        return;
                    }
                }
                Err(LinkError::Refused { problem, .. }) => {
                    self.net.trace().count(&problem.code.to_string());
                    self.net.trace().note(format!("user{}: {} {}", self.number, problem.code, problem.detail));
                    return;
                }
                Err(_) => sleep(self.dice.ms(100..4000)).await,
            }
        }
    }

    async fn send(&self, key: &str, request: &Request) -> Result<Value, LinkError> {
        let mut headers = HeaderMap::new();
        headers.insert(
            "idempotency-key",
            HeaderValue::from_str(key).map_err(|error| LinkError::BadRequest(error.to_string()))?,
        );
        let Request { method, path, body } = request;
        if self.dice.happens(0.2) {
            let wait = HeaderValue::from_static(self.dice.weighed(&[(1, "wait=1"), (1, "wait=4"), (1, "wait=30")]));
            headers.insert("prefer", wait);
        }
        if *method == Method::PATCH {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/merge-patch+json"));
        }
        let call = self.link.call_json(method.clone(), path, body.as_ref(), headers);
        Ok(with_timeout(PATIENCE, call).await?.body)
    }

    /// Remembers what was promised: of a batch each task by itself.
    fn hear(&mut self, key: &str, answer: &Value) {
        for (part, one) in answer["answers"].as_array().into_iter().flatten().enumerate() {
            self.hear(&format!("{key}.{part}"), one);
        }
        let text = |noun: &str| answer[noun]["id"].as_str().map(str::to_owned);
        remember(&mut self.vms, text("vm"));
        remember(&mut self.snapshots, text("snapshot"));
        let Some(task) = text("task").and_then(|id| id.parse::<TaskId>().ok()) else { return };
        let mut ledger = self.ledger.lock();
        let twice = ledger.iter().any(|(other, known)| known == key && *other != task);
        ledger.insert(task, key.to_owned());
        drop(ledger);
        if !self.tasks.contains(&task) {
            self.tasks.push(task);
        }
        if twice {
            self.net.trace().wrong(format!("the key {key} stands for two tasks, {task} is one of them"));
        }
    }
}

fn remember(known: &mut Vec<String>, id: Option<String>) {
    known.extend(id.filter(|id| !known.contains(id)));
}

fn post(path: &str, body: Value) -> Request {
    Request { method: Method::POST, path: format!("/api/v1/{path}"), body: Some(body) }
}

fn delete(path: &str) -> Request {
    Request { method: Method::DELETE, path: format!("/api/v1/{path}"), body: None }
}

fn edit(dice: &Dice) -> Value {
    match dice.within(0..5) {
        0 => json!({"labels": {"colour": dice.weighed(&[(1, "red"), (1, "blue")])}}),
        1 => json!({"vcpus": dice.within(1..4)}),
        2 => json!({"memory_mib": 128 * dice.within(1..12)}),
        3 => json!({"disk_gib": dice.within(2..10)}),
        _ => json!({"restart": dice.weighed(&[(1, "never"), (1, "on_failure"), (1, "always")])}),
    }
}
