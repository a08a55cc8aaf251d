//! What `doctor` says of tasks: those that wait or run for too long, and those that were given up.

use std::time::Duration;

use hostler_client::{Client, ClientError, TaskQuery};
use hostler_model::{
    Code, Timestamp,
    task::{Task, TaskState, WaitingFor},
};

use super::Finding;
use crate::{output, watch::status};

/// A task that waits longer than this for its node, or takes longer to stop, is worth a look.
const LONG: Duration = Duration::from_secs(5 * 60);
/// What was given up longer ago than this has been seen.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// As many of each are looked at.
const REACH: usize = 500;

/// Looks at the tasks of a server.
pub async fn examine(client: &Client, now: Timestamp) -> Vec<Finding> {
    let found = async {
        let mut open = Vec::new();
        for state in [TaskState::Queued, TaskState::Running, TaskState::Aborting] {
            open.extend(client.tasks(&TaskQuery { state: Some(state), ..TaskQuery::default() }, Some(REACH)).await?);
        }
        let dead = TaskQuery { code: Some(Code::AttemptsExhausted), ..TaskQuery::default() };
        let dead = client.tasks(&dead, Some(REACH)).await?;
        Ok::<_, ClientError>(vec![stuck(&open, now), given_up(&dead, now)])
    };
    found.await.unwrap_or_else(|error| vec![Finding::of("tasks", &error.into())])
}

/// Whether a task does not get on.
fn is_stuck(task: &Task, now: Timestamp) -> bool {
    match task.state {
        TaskState::Queued => task.waiting_for == Some(WaitingFor::Node) && now.since(task.created_at) > LONG,
        TaskState::Running => task.deadline.is_some_and(|deadline| now > deadline),
        TaskState::Aborting => now.since(task.deadline.unwrap_or(task.created_at)) > LONG,
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => false,
    }
}

fn stuck(open: &[Task], now: Timestamp) -> Finding {
    let mut stuck: Vec<&Task> = open.iter().filter(|task| is_stuck(task, now)).collect();
    stuck.sort_by_key(|task| task.created_at);
    let Some(oldest) = stuck.first() else {
        return Finding::ok("tasks under way", format!("{}, none of them stuck", open.len()));
    };
    let seen = format!(
        "{} of {} do not get on; the oldest is {} {}, made {} ({})",
        stuck.len(),
        open.len(),
        oldest.kind,
        oldest.id,
        output::ago(oldest.created_at, now),
        status(oldest)
    );
    let id = oldest.id;
    let advice = match oldest.state {
        TaskState::Aborting => {
            format!("see `hostler node list` for its node; where that is dead for good, `hostler task force {id}`")
        }
        _ => format!("see `hostler node list` for its node, and `hostler task show {id}`"),
    };
    Finding::warn("tasks under way", seen, advice)
}

fn given_up(dead: &[Task], now: Timestamp) -> Finding {
    let recent = |task: &&Task| task.finished_at.is_some_and(|ended| now.since(ended) <= RECENT);
    match dead.iter().filter(recent).count() {
        0 => Finding::ok("tasks given up", "none within a day"),
        count => Finding::warn(
            "tasks given up",
            format!("{count} within a day, their attempts used up"),
            "`hostler task list --code ATTEMPTS_EXHAUSTED` shows them; mend what they failed of, then `hostler task retry ID`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{doctor::Verdict, fixture};

    #[test]
    fn a_task_that_waits_long_for_its_node_is_pointed_out() {
        let mut task = fixture::task("queued");
        task.waiting_for = Some(WaitingFor::Node);
        assert_eq!(stuck(&[task.clone()], fixture::NOW).verdict, Verdict::Ok);
        let later = fixture::NOW.plus(LONG);
        let finding = stuck(&[fixture::task("running"), task], later);
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.seen.starts_with("1 of 2"), "{finding:?}");
    }

    #[test]
    fn what_was_given_up_within_a_day_is_pointed_out() {
        assert_eq!(given_up(&[fixture::failed_task()], fixture::NOW).verdict, Verdict::Warn);
        assert_eq!(given_up(&[fixture::failed_task()], fixture::NOW.plus(RECENT)).verdict, Verdict::Ok);
    }
}
