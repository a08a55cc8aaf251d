//! Servers and agents on hosts of their own, cut off from each other by a network that loses packets without a word, and
//! joined again.
//!
//! What was under way goes on where it is, ends once, and is settled once the way is open again; nobody else does it
//! meanwhile.

use std::time::Duration;

use anyhow::{Context, Result};
use hostler_e2e::{
    fleet::{
        End::{self, Agent, At, Server},
        Fleet,
    },
    netns::Net,
};
use hostler_fixture::Postgres;
use serde_json::{Value, json};

/// A node is lost after 40 s here, one that still gets a few words through a little later; much more than that, on a machine
/// that has other work.
const UNTIL_LOST: Duration = Duration::from_secs(150);

/// How a node is seen by a server.
async fn freshness(fleet: &Fleet<'_>, node: usize) -> Result<String> {
    let (status, node) = fleet.call(0, "GET", &format!("/nodes/n{node}"), None).await?;
    Ok(node["freshness"].as_str().with_context(|| format!("{status} {node}"))?.to_owned())
}

/// Waits until all these nodes are seen so.
async fn until_all_are(fleet: &Fleet<'_>, nodes: &[usize], wanted: &str) -> Result<()> {
    fleet
        .until_within(UNTIL_LOST, &format!("nodes {nodes:?} are {wanted}"), async |fleet: &Fleet<'_>| {
            for node in nodes {
                if freshness(fleet, *node).await? != wanted {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
}

/// Submits echoes that take so long to one node, or to any. They have time: that of a task runs on from its first lease,
/// whether its node is there or not.
async fn echoes(fleet: &Fleet<'_>, node: Option<usize>, count: usize, delay_ms: u64) -> Result<Vec<String>> {
    let mut one = json!({"kind": "echo", "params": {"message": "hello", "delay_ms": delay_ms}});
    if let Some(node) = node {
        one["target"] = json!({"node": format!("n{node}")});
    }
    let (status, answer) =
        fleet.call(0, "POST", "/tasks/batch?timeout_seconds=600", Some(json!({"tasks": vec![one; count]}))).await?;
    let items = answer["answers"].as_array().with_context(|| format!("{status} {answer}"))?;
    items.iter().map(|item| Ok(item["task"]["id"].as_str().with_context(|| answer.to_string())?.to_owned())).collect()
}

async fn state(fleet: &Fleet<'_>, task: &str) -> Result<Value> {
    Ok(fleet.call(0, "GET", &format!("/tasks/{task}"), None).await?.1["state"].clone())
}

async fn until_begun(fleet: &Fleet<'_>, tasks: &[String]) -> Result<()> {
    for task in tasks {
        fleet
            .until("a task is begun", async |fleet: &Fleet<'_>| {
                Ok((state(fleet, task).await? == "running").then_some(()))
            })
            .await?;
    }
    Ok(())
}

/// How often an agent ended the work on a task, whether it could tell or not.
fn done(fleet: &Fleet<'_>, agent: usize, task: &str) -> usize {
    fleet.agent_log(agent).matches(&format!("done task.id={task}")).count()
}

/// Each was done by this agent, once, and by nobody else; and its end was written down once.
fn each_was_done_once(fleet: &Fleet<'_>, by: usize, agents: usize, tasks: &[String]) -> Result<()> {
    for task in tasks {
        let times: Vec<usize> = (0..agents).map(|agent| done(fleet, agent, task)).collect();
        let wanted: Vec<usize> = (0..agents).map(|agent| usize::from(agent == by)).collect();
        assert_eq!(times, wanted, "{task}\n{}", fleet.log());
        assert_eq!(fleet.store().endings(task)?, 1, "{task}");
    }
    Ok(())
}

/// The three ways in which a node can be cut off: altogether, from what it is told, from what it tells.
fn ways(node: usize) -> Vec<(End, End)> {
    let (told, tells) = ((Server(0), Agent(node)), (Agent(node), Server(0)));
    match node {
        0 => vec![told, tells],
        1 => vec![told],
        _ => vec![tells],
    }
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_lost_and_what_it_had_is_done_by_itself_and_once() -> Result<()> {
    const CUT: [usize; 3] = [0, 1, 2];
    const NODES: usize = 4;
    let fleet = Fleet::apart_with(Postgres::shared()?, (1, NODES), &["--node-lost-seconds=40"]).await?;
    let mut under_way = Vec::new();
    for node in CUT {
        under_way.push(echoes(&fleet, Some(node), 5, 15_000).await?);
    }
    for tasks in &under_way {
        until_begun(&fleet, tasks).await?;
    }
    for (from, to) in CUT.into_iter().flat_map(ways) {
        fleet.cut(from, to)?;
    }
    let mut waiting = Vec::new();
    for node in CUT {
        waiting.push(echoes(&fleet, Some(node), 5, 0).await?);
    }
    until_all_are(&fleet, &CUT, "stale").await?;
    until_all_are(&fleet, &CUT, "lost").await?;
    assert_eq!(freshness(&fleet, 3).await?, "fresh");
    // Whatever may be done anywhere is done by the one that is left.
    let elsewhere = echoes(&fleet, None, 10, 0).await?;
    assert!(fleet.ends(0, &elsewhere).await?.iter().all(|end| end == "succeeded"));
    each_was_done_once(&fleet, 3, NODES, &elsewhere)?;
    for (node, tasks) in under_way.iter().enumerate() {
        for task in tasks {
            assert_eq!(done(&fleet, node, task), 1, "it went on without its server\n{}", fleet.log());
            assert_ne!(state(&fleet, task).await?, "succeeded", "node {node} has no way to say so");
        }
    }
    for (from, to) in CUT.into_iter().flat_map(ways) {
        fleet.mend(from, to)?;
    }
    until_all_are(&fleet, &CUT, "fresh").await?;
    for (node, tasks) in under_way.iter().zip(&waiting).map(|(a, b)| [a.clone(), b.clone()].concat()).enumerate() {
        let ends = fleet.ends(0, &tasks).await?;
        assert!(ends.iter().all(|end| end == "succeeded"), "{ends:?}");
        each_was_done_once(&fleet, node, NODES, &tasks)?;
    }
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}

#[tokio::test]
async fn an_agent_whose_server_is_cut_off_goes_over_to_the_other() -> Result<()> {
    let fleet = Fleet::apart(Postgres::shared()?, 2, 1).await?;
    let first = echoes(&fleet, None, 5, 0).await?;
    fleet.ends(0, &first).await?;
    // It asks the first of its list, and nothing of what is sent to that comes back.
    for (from, to) in [(Server(0), Agent(0)), (Agent(0), Server(0))] {
        fleet.cut(from, to)?;
    }
    let tasks = echoes(&fleet, None, 20, 0).await?;
    let ends = fleet.ends(1, &tasks).await?;
    assert!(ends.iter().all(|end| end == "succeeded"), "{ends:?}");
    each_was_done_once(&fleet, 0, 1, &[first, tasks].concat())?;
    let given_up = "SELECT CAST(COUNT(*) AS TEXT) FROM log WHERE kind IN ('node.stale', 'node.lost')";
    assert_eq!(fleet.store().ask(given_up)?, "0", "it was heard all the time");
    for (from, to) in [(Server(0), Agent(0)), (Agent(0), Server(0))] {
        fleet.mend(from, to)?;
    }
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_cut_off_from_its_database_says_so_and_the_other_goes_on() -> Result<()> {
    let mut net = Net::new()?;
    let database = net.address_here()?;
    let postgres = Postgres::start_at(database)?;
    let fleet = Fleet::apart_in(net, &postgres, 2, 1).await?;
    // Under way in both servers when the one is cut off, which may hold what the other needs.
    let mut tasks = [fleet.echoes(0, 200).await?, fleet.echoes(1, 200).await?].concat();
    let both_ways = [(Server(0), At(database)), (At(database), Server(0))];
    for (from, to) in both_ways {
        fleet.cut(from, to)?;
    }
    fleet
        .until("the one says that it has no database", async |fleet: &Fleet<'_>| {
            let (status, answer) = fleet.echo(0).await?;
            Ok((status == 503 && answer["code"] == "UNAVAILABLE").then_some(()))
        })
        .await?;
    tasks.extend(fleet.echoes(1, 100).await?);
    assert_eq!(tasks.len(), 500);
    assert!(fleet.ends(1, &tasks).await?.iter().all(|end| end == "succeeded"));
    for (from, to) in both_ways {
        fleet.mend(from, to)?;
    }
    fleet
        .until("it has found its database", async |fleet: &Fleet<'_>| Ok((fleet.echo(0).await?.0 == 200).then_some(())))
        .await?;
    for task in &tasks {
        assert_eq!(fleet.store().endings(task)?, 1, "{task}");
    }
    let lost = "SELECT CAST(COUNT(*) AS TEXT) FROM log WHERE kind IN ('node.stale', 'node.lost')";
    assert_eq!(fleet.store().ask(lost)?, "0");
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}
