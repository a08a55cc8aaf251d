//! `hostler task dead`: tasks that were given up, for a person to decide about.

use clap::Subcommand;
use hostler_client::TaskQuery;
use hostler_model::{
    Code,
    api::{Answered, Answers, Letters},
    kind::KindName,
};

use super::{NodeNames, Session, find, machine, print, table};
use crate::{
    cli::read,
    exit::{Exit, Failure},
    output,
};

const LIST: &str = "\
Examples:
  hostler task dead list
  hostler task dead list --kind vm.create --code ATTEMPTS_EXHAUSTED";

const RETRY: &str = "\
Examples:
  hostler task dead retry 0190f1f0-0000-7000-8000-000000000001
  hostler task dead retry --kind echo
  hostler task dead retry --all";

const PURGE: &str = "\
Examples:
  hostler task dead purge 0190f1f0-0000-7000-8000-000000000001
  hostler task dead purge --code DEADLINE_EXCEEDED
  hostler task dead purge --all";

/// The verbs of dead letters.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List them, newest first
    #[command(visible_alias = "ls", after_help = LIST)]
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most this many, the newest
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show one
    #[command(after_help = "Examples:\n  hostler task dead show 0190f1f0-0000-7000-8000-000000000001")]
    Show {
        /// Its id, or enough of the beginning or the end of it
        id: String,
    },
    /// Do them again, each as a new task
    #[command(after_help = RETRY)]
    Retry(Which),
    /// Let them be: they leave the list, their history and their logs stay
    #[command(after_help = PURGE)]
    Purge(Which),
}

#[derive(clap::Args, Debug)]
struct Filter {
    /// Only those of this kind
    #[arg(long, value_parser = read::kind)]
    kind: Option<KindName>,
    /// Only those about this machine, by name or id
    #[arg(long)]
    vm: Option<String>,
    /// Only failed with this code
    #[arg(long, value_parser = read::code)]
    code: Option<Code>,
}

#[derive(clap::Args, Debug)]
#[group(id = "which", required = true, multiple = true, args = ["ids", "all", "kind", "vm", "code"])]
struct Which {
    /// Their ids, or enough of the beginning or the end of each
    #[arg(value_name = "ID", conflicts_with_all = ["all", "kind", "vm", "code"])]
    ids: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with_all = ["kind", "vm", "code"])]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

/// Runs a verb of dead letters.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    match args.verb {
        Verb::List { filter, limit } => list(filter, limit, session).await,
        Verb::Show { id } => {
            let task = find(session, &id).await?;
            print(session, &task).await?;
            Ok(Exit::Done)
        }
        Verb::Retry(which) => {
            decide(which, session, async |letters| Ok(session.client.retry_dead(letters).await?)).await
        }
        Verb::Purge(which) => {
            decide(which, session, async |letters| Ok(session.client.purge_dead(letters).await?)).await
        }
    }
}

async fn list(filter: Filter, limit: usize, session: &Session) -> Result<Exit, Failure> {
    let vm = match filter.vm {
        Some(vm) => Some(machine(session, &vm).await?),
        None => None,
    };
    let which = TaskQuery { state: None, kind: filter.kind, vm, code: filter.code };
    let tasks = session.client.dead_tasks(&which, Some(limit)).await?;
    let nodes = if tasks.is_empty() { NodeNames::default() } else { session.node_names().await };
    session.print(&tasks, || table(&tasks, &nodes, session.now()))?;
    Ok(Exit::Done)
}

/// Asks until there are no more; what was refused is said, and makes the whole a refusal.
async fn decide(
    which: Which,
    session: &Session,
    ask: impl AsyncFn(&Letters) -> Result<Answers, Failure>,
) -> Result<Exit, Failure> {
    let Which { ids, all, filter } = which;
    let mut letters = Letters { kind: filter.kind, code: filter.code, all, ..Letters::default() };
    if let Some(vm) = filter.vm {
        letters.vm = Some(machine(session, &vm).await?);
    }
    if !ids.is_empty() {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.push(find(session, &id).await?.id);
        }
        letters.tasks = Some(found);
    }
    let mut answers = Vec::new();
    loop {
        let some = ask(&letters).await?;
        let moved = some.answers.iter().any(|answer| answer.problem.is_none());
        answers.extend(some.answers);
        // Those that are refused stay on the list, and would come again.
        if !some.more || !moved {
            break;
        }
    }
    tell(session, &answers)
}

/// Prints answers, one line for each.
pub fn tell(session: &Session, answers: &[Answered]) -> Result<Exit, Failure> {
    session.print(&answers, || rows(answers))?;
    let refused = answers.iter().filter(|answer| answer.problem.is_some()).count();
    if refused > 0 {
        return Err(Failure::new(Exit::Refused, format!("{refused} of {} were refused", answers.len())));
    }
    Ok(Exit::Done)
}

fn rows(answers: &[Answered]) -> output::Table {
    let rows = answers.iter().enumerate().map(|(n, answer)| {
        let task = answer.task.as_ref();
        let why = answer.problem.as_ref().map(|problem| format!("{} [{}]", problem.detail, problem.code));
        [
            (n + 1).to_string(),
            output::or_dash(task.map(|task| task.id)),
            output::or_dash(task.map(|task| task.kind)),
            task.map_or_else(|| "refused".to_owned(), |task| task.state.to_string()),
            output::or_dash(task.and_then(|task| task.retry_of)),
            why.unwrap_or_default(),
        ]
    });
    output::table(["N", "ID", "KIND", "STATE", "RETRY OF", "WHY NOT"], rows)
}
