//! `hostler task`: everything that is done on a host.

mod batch;
mod dead;
mod kinds;
mod log;
mod proof;
mod stats;

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use hostler_client::TaskQuery;
use hostler_model::{
    Code, Refusal, TaskId, Timestamp, VmId,
    api::{NewTask, Submitted, TargetRef},
    error::excerpt,
    kind::KindName,
    retry::{Backoff, RetryPolicy},
    schedule::Schedule,
    task::{DeadLetter, Task, TaskState, WaitingFor},
};
use serde_json::{Map, Value};

use super::{Globals, NodeNames, ScheduleArgs, Session, WaitArgs, WatchArgs, read, succeeded};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

/// How many tasks are looked at to find one by the beginning or the end of its id.
const REACH: usize = 500;

const LIST: &str = "\
Examples:
  hostler task list
  hostler task list --state failed --kind vm.create
  hostler task list --code ATTEMPTS_EXHAUSTED
  hostler task list --state running --watch
  hostler task list --vm web-1 -o json";

const SHOW: &str = "\
Examples:
  hostler task show 0190f1f0-0000-7000-8000-000000000001
  hostler task show 000000000001 --watch";

const SUBMIT: &str = "\
Examples:
  hostler task submit echo --param message=hi
  hostler task submit echo --params '{\"message\": \"hi\", \"delay_ms\": 500}' --no-wait
  hostler task submit diag.health_probe --node local --priority high --delay 10m
  hostler task submit --file tasks.jsonl
  hostler task submit echo --attempts 5 --backoff linear --first-pause 10s --queue-timeout 1h
  hostler task submit vm.exec --vm web-1 --param 'argv=[\"uname\", \"-a\"]'";

/// The verbs of tasks.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List tasks, newest first
    #[command(visible_alias = "ls", after_help = LIST)]
    List(List),
    /// Show one task
    #[command(after_help = SHOW)]
    Show {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Show a task's phases until it ends; exit 0 if it succeeded, 1 if not
    #[command(after_help = "Examples:\n  hostler task watch 0190f1f0-0000-7000-8000-000000000001")]
    Watch {
        #[command(flatten)]
        which: Which,
        /// Watch no longer than this
        #[arg(long, value_name = "TIME", value_parser = read::duration)]
        timeout: Option<Duration>,
    },
    /// Show what a task's handlers wrote for people
    #[command(after_help = log::EXAMPLES)]
    Log(log::Args),
    /// Show what a task's node last reported of it, with that node's signature
    #[command(after_help = proof::EXAMPLES)]
    Proof(Which),
    /// Say which node signed what `hostler task proof` printed; needs no server
    #[command(after_help = proof::EXAMPLES)]
    Verify(proof::Args),
    /// Stop a task and undo what it did
    #[command(after_help = "Examples:\n  hostler task cancel 0190f1f0-0000-7000-8000-000000000001")]
    Cancel(Act),
    /// End a cancelled task without waiting for its node's word; only for a dead node
    ///
    /// A task that was cancelled ends when its node says that it has stopped and undone it. This ends it at once: the
    /// node's word is not waited for. Use it only for a node that is dead and will not come back, since whatever the
    /// task left there is not undone. Cancel the task first. It needs a platform administrator's token.
    #[command(after_help = "Examples:\n  hostler task force 0190f1f0-0000-7000-8000-000000000001")]
    Force(Which),
    /// Do again what a failed or cancelled task should have done
    #[command(after_help = "Examples:\n  hostler task retry 0190f1f0-0000-7000-8000-000000000001")]
    Retry(Again),
    /// Show what waits, what is under way, what happened lately, and how long it took
    #[command(after_help = stats::EXAMPLES)]
    Stats(stats::Args),
    /// List the kinds of tasks: how soon each is begun, how long it may take, how often it is tried
    #[command(after_help = kinds::EXAMPLES)]
    Kinds,
    /// Decide about tasks that were given up
    Dead(dead::Args),
    /// Submit a task of any kind, or many of them
    #[command(after_help = SUBMIT)]
    Submit(NewArgs),
}

#[derive(clap::Args, Debug)]
struct Which {
    /// Its id, or enough of the beginning or the end of it
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(clap::Args, Debug)]
struct Act {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(clap::Args, Debug)]
struct Again {
    #[command(flatten)]
    act: Act,
    #[command(flatten)]
    schedule: ScheduleArgs,
}

#[derive(clap::Args, Debug)]
struct List {
    /// Only those in this state
    #[arg(long, value_parser = read::task_state)]
    state: Option<TaskState>,
    /// Only those of this kind
    #[arg(long, value_parser = read::kind)]
    kind: Option<KindName>,
    /// Only those about this machine, by name or id
    #[arg(long)]
    vm: Option<String>,
    /// Only failed with this code; ATTEMPTS_EXHAUSTED lists those that were given up
    #[arg(long, value_parser = read::code)]
    code: Option<Code>,
    /// At most this many, the newest
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(clap::Args, Debug)]
struct NewArgs {
    /// The kind, such as echo
    #[arg(value_parser = read::kind, required_unless_present = "file")]
    kind: Option<KindName>,
    /// Submit every line of this file (- for stdin), each a task as JSON, and do not wait for their ends
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "param", "params", "vm", "node"])]
    file: Option<PathBuf>,
    /// A parameter; a value that reads as JSON is sent as JSON. May be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = read::param)]
    param: Vec<(String, Value)>,
    /// All parameters, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = read::object, conflicts_with = "param")]
    params: Option<Value>,
    /// The machine it works on, by name or id
    #[arg(long)]
    vm: Option<String>,
    /// The node it works on, by name or id
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// Runs a verb of tasks.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    if let Verb::Verify(args) = &args.verb {
        return proof::verify(args, globals);
    }
    let session = globals.session()?;
    match args.verb {
        Verb::Proof(which) => proof::show(&which, &session).await,
        Verb::Verify(args) => proof::verify(&args, globals),
        Verb::List(args) => list(args, &session).await,
        Verb::Show { which, watch } => {
            let id = find(&session, &which.id).await?.id;
            let look = async || {
                let task = session.client.task(id).await?;
                let text = show(&task, &session.node_names().await, session.now());
                Ok((task, text))
            };
            session.view(watch, Some(id.0), look).await
        }
        Verb::Watch { which, timeout } => {
            let task = find(&session, &which.id).await?;
            end(&session, task, timeout).await
        }
        Verb::Log(args) => log::run(args, &session).await,
        Verb::Cancel(args) => cancel(args, &session).await,
        Verb::Force(which) => {
            let id = find(&session, &which.id).await?.id;
            let task = session.client.force_task(id).await?;
            print(&session, &task).await?;
            Ok(Exit::Done)
        }
        Verb::Retry(args) => {
            let id = find(&session, &args.act.which.id).await?.id;
            let submitted = session.client.retry_task(id, &args.schedule.submit()).await?;
            follow(&session, submitted, &args.act.wait).await
        }
        Verb::Stats(args) => stats::run(args, &session).await,
        Verb::Kinds => kinds::run(&session).await,
        Verb::Dead(args) => dead::run(args, &session).await,
        Verb::Submit(args) => match &args.file {
            Some(path) => batch::submit(path, &session).await,
            None => submit(args, &session).await,
        },
    }
}

async fn list(args: List, session: &Session) -> Result<Exit, Failure> {
    let vm = match args.vm {
        Some(vm) => Some(machine(session, &vm).await?),
        None => None,
    };
    let which = TaskQuery { state: args.state, kind: args.kind, vm, code: args.code };
    let look = async || {
        let tasks = session.client.tasks(&which, Some(args.limit)).await?;
        let nodes = if tasks.is_empty() { NodeNames::default() } else { session.node_names().await };
        let text = table(&tasks, &nodes, session.now());
        Ok((tasks, text))
    };
    session.view(args.watch, None, look).await
}

/// A machine's id. A machine that is gone has no name any more, but its tasks are kept under its id.
async fn machine(session: &Session, vm: &str) -> Result<VmId, Failure> {
    match vm.parse() {
        Ok(id) => Ok(id),
        Err(_) => Ok(session.client.vm(vm).await?.id),
    }
}

async fn submit(args: NewArgs, session: &Session) -> Result<Exit, Failure> {
    let Some(kind) = args.kind else { return Err(Failure::new(Exit::Usage, "name a kind of task, or a --file")) };
    let params = args.params.unwrap_or_else(|| Value::Object(Map::from_iter(args.param)));
    let target = TargetRef { vm: args.vm, node: args.node };
    let task = NewTask::new(kind, target, params);
    let submitted = session.client.submit_task(&task, &args.schedule.submit()).await?;
    follow(session, submitted, &args.wait).await
}

/// A cancelled task has done what it should.
async fn cancel(args: Act, session: &Session) -> Result<Exit, Failure> {
    let id = find(session, &args.which.id).await?.id;
    let mut task = session.client.cancel_task(id).await?;
    if !args.wait.no_wait() {
        task = session.ended(task, Some(args.wait.timeout), session.tell()).await?;
    }
    print(session, &task).await?;
    match task.state {
        TaskState::Cancelled | TaskState::Queued | TaskState::Running | TaskState::Aborting => Ok(Exit::Done),
        // It was done, or had failed, before it could be stopped.
        TaskState::Succeeded | TaskState::Failed => {
            Err(Failure::new(Exit::Failed, format!("{} {id} {} before it could be cancelled", task.kind, task.state)))
        }
    }
}

async fn follow(session: &Session, submitted: Submitted, wait: &WaitArgs) -> Result<Exit, Failure> {
    if wait.no_wait() {
        print(session, &submitted.task).await?;
        return Ok(Exit::Done);
    }
    end(session, submitted.task, Some(wait.timeout)).await
}

async fn end(session: &Session, task: Task, limit: Option<Duration>) -> Result<Exit, Failure> {
    let task = session.ended(task, limit, session.tell()).await?;
    print(session, &task).await?;
    succeeded(task).map(|_| Exit::Done)
}

async fn print(session: &Session, task: &Task) -> Result<(), Failure> {
    let nodes =
        if task.node.is_some() && !session.is_data() { session.node_names().await } else { NodeNames::default() };
    session.print(task, || show(task, &nodes, session.now()))
}

/// A task by its id, or by enough of the beginning or the end of it.
async fn find(session: &Session, text: &str) -> Result<Task, Failure> {
    if let Ok(id) = text.parse::<TaskId>() {
        return Ok(session.client.task(id).await?);
    }
    let plausible = text.len() >= 4 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let tasks = if plausible { session.client.tasks(&TaskQuery::default(), Some(REACH)).await? } else { Vec::new() };
    only(tasks, text).map_err(Failure::from)
}

fn only(tasks: Vec<Task>, text: &str) -> Result<Task, Refusal> {
    let text = text.to_ascii_lowercase();
    let fits = |task: &Task| {
        let id = task.id.to_string();
        id.starts_with(&text) || id.ends_with(&text)
    };
    let mut found = tasks.into_iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(task), None) => Ok(task),
        (None, _) => Err(Refusal::new(
            Code::TaskNotFound,
            format!("no task has the id {:?}; `hostler task list` shows those there are", excerpt(&text)),
        )),
        (Some(_), Some(_)) => Err(Refusal::new(
            Code::TaskNotFound,
            format!("{:?} could be more than one task; write more of the id", excerpt(&text)),
        )),
    }
}

/// How long it took, from its first handler to its end.
fn time(task: &Task) -> Option<String> {
    Some(output::took(task.finished_at?.since(task.started_at.unwrap_or(task.created_at))))
}

fn table(tasks: &[Task], nodes: &NodeNames, now: Timestamp) -> Table {
    let rows = tasks.iter().map(|task| {
        let why = task.error.as_ref().map(|error| error.code.to_string());
        [
            task.id.to_string(),
            task.kind.to_string(),
            task.state.to_string(),
            nodes.of(task.node),
            output::ago(task.created_at, now),
            output::or_dash(time(task)),
            why.unwrap_or_default(),
            output::or_nothing(task.target.vm),
            if task.fence.attempt > 0 {
                format!("{}/{}", task.fence.attempt, task.max_attempts)
            } else {
                String::new()
            },
        ]
    });
    output::table(["ID", "KIND", "STATE", "NODE", "CREATED", "TOOK", "ERROR", "VM", "ATTEMPT"], rows)
        .wide(&["VM", "ATTEMPT"])
        .brief("ID")
}

fn show(task: &Task, nodes: &NodeNames, now: Timestamp) -> String {
    let attempt = task.fence.attempt;
    let phases: Vec<String> = task
        .phases
        .iter()
        .map(|timing| format!("{} {}", timing.phase, output::took(output::millis(timing.ms))))
        .collect();
    let progress = task.progress.as_ref().filter(|_| !task.state.is_terminal());
    let live = !task.state.is_terminal();
    let waits = task.waiting_for == Some(WaitingFor::Time);
    output::fields([
        ("id", task.id.to_string()),
        ("kind", task.kind.to_string()),
        ("state", task.state.to_string()),
        ("waits for", task.waiting_for.map(|what| format!("{what:?}").to_lowercase()).unwrap_or_default()),
        ("phase", progress.map(|progress| progress.phase.clone()).unwrap_or_default()),
        ("error", task.error.as_ref().map(|error| format!("{} [{}]", error.detail, error.code)).unwrap_or_default()),
        ("output", output::or_nothing(task.output.as_ref())),
        ("params", task.params.to_string()),
        ("vm", output::or_nothing(task.target.vm)),
        ("node", task.node.map(|node| nodes.of(Some(node))).unwrap_or_default()),
        ("priority", Some(task.schedule.priority).filter(|p| p.get() != 0).map(|p| p.to_string()).unwrap_or_default()),
        ("not before", if waits { task.not_before.to_string() } else { String::new() }),
        ("time", if live { times(task) } else { String::new() }),
        ("retries", if live { retries(task) } else { String::new() }),
        ("given up", task.dead_letter.map(letter).unwrap_or_default()),
        ("attempt", if attempt > 0 { format!("{attempt} of {}", task.max_attempts) } else { String::new() }),
        ("phases", phases.join(", ")),
        ("took", time(task).unwrap_or_default()),
        ("signed", if task.signed { "by its node: `hostler task proof`".to_owned() } else { String::new() }),
        ("retry of", output::or_nothing(task.retry_of)),
        ("created", output::ago(task.created_at, now)),
    ])
}

fn seconds(seconds: u32) -> String {
    output::took(Duration::from_secs(seconds.into()))
}

fn times(task: &Task) -> String {
    let Schedule { queue_timeout_seconds, timeout_seconds, .. } = task.schedule;
    format!("{} to be begun, {} to end", seconds(queue_timeout_seconds), seconds(timeout_seconds))
}

fn retries(task: &Task) -> String {
    let RetryPolicy { attempts, backoff, first_seconds, most_seconds } = task.schedule.retry;
    let growth = match backoff {
        Backoff::Linear => "growing",
        Backoff::Exponential => "doubling",
    };
    match attempts {
        0 | 1 => "none".to_owned(),
        n => format!("{} after {}, {growth} to {}", n - 1, seconds(first_seconds), seconds(most_seconds)),
    }
}

fn letter(letter: DeadLetter) -> String {
    let words = match letter {
        DeadLetter::Waiting => {
            "a dead letter: `hostler task dead retry` does it again, `hostler task dead purge` lets it be"
        }
        DeadLetter::Retried => "and done again by another task",
        DeadLetter::Purged => "and let be",
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn names() -> NodeNames {
        NodeNames([(fixture::node().id, "local".to_owned())].into())
    }

    #[test]
    fn a_list_of_tasks() {
        insta::assert_snapshot!(table(&[fixture::task("queued"), fixture::failed_task()], &names(), fixture::NOW), @"
        ID                                    KIND       STATE   NODE   CREATED  TOOK   ERROR
        0190f1f0-0000-7000-8000-000000000001  echo       queued  -      60s ago  -
        0190f1f0-0000-7000-8000-000000000001  vm.create  failed  local  60s ago  3.5 s  GUEST_NOT_READY
        ");
    }

    #[test]
    fn a_task() {
        insta::assert_snapshot!(show(&fixture::failed_task(), &names(), fixture::NOW), @r#"
        id       0190f1f0-0000-7000-8000-000000000001
        kind     vm.create
        state    failed
        error    the guest did not answer within 120 s [GUEST_NOT_READY]
        params   {"delay_ms":0,"message":"hi"}
        vm       0190f1f0-0000-7000-8000-00000000000b
        node     local
        phases   image 12 ms, boot 2 min 00 s
        took     3.5 s
        created  60s ago
        "#);
    }

    #[test]
    fn an_id_may_be_shortened_as_far_as_it_is_the_only_one() {
        let mut other = fixture::task("queued");
        other.id = "0190f1f0-0000-7000-8000-0000000000ff".parse().unwrap();
        let tasks = || vec![fixture::task("queued"), other.clone()];
        assert_eq!(only(tasks(), "00FF").unwrap().id, other.id);
        assert!(only(tasks(), "0190f1f0").unwrap_err().detail.contains("more than one"));
        assert!(only(tasks(), "beef").unwrap_err().detail.contains("hostler task list"));
    }
}
