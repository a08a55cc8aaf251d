//! `kill -9` of the server and of the agent at every named point that a task passes on its way by the broker: it ends once,
//! under its first attempt, and nothing is left in a queue.
//!
//! A point that is never reached fails its test: the process must really die there.

use anyhow::Result;

use crate::scene::{Scene, id};

const SERVER: &[&str] = &[
    "store.submit.after_commit",
    "store.confirm.before_commit",
    "store.confirm.after_commit",
    "store.lease.before_commit",
    "store.lease.after_commit",
    "store.settle.before_commit",
    "store.settle.after_commit",
];
const AGENT: &[&str] = &[
    "agent.offered.before_commit",
    "agent.offered.after_commit",
    "agent.accept.before_commit",
    "agent.accept.after_commit",
    "agent.finish.before_commit",
    "agent.finish.after_commit",
    "agent.report.before",
    "agent.report.after",
];

#[tokio::test]
async fn a_server_that_is_killed_at_any_point_of_an_offers_way_loses_nothing() -> Result<()> {
    let mut scene = Scene::with_agent().await?;
    for point in SERVER {
        scene.pair.arm("server", point)?;
        // Where the answer got lost the task may be there all the same.
        let submitted = scene.echo(&["--no-wait"]);
        scene.pair.killed_itself("server").await?;
        scene.pair.start_server().await?;
        let tasks = scene.pair.json(&["task", "list", "--kind", "echo", "--limit", "1"])?;
        let ended = scene.until(&tasks[0], "succeeded").await?;
        if let Ok(task) = submitted {
            assert_eq!(task["id"], ended["id"], "{point}");
        }
        assert_eq!(ended["fence"]["attempt"], 1, "{point}: {ended}");
        let done = format!("done task.id={}", id(&ended)?);
        assert_eq!(scene.pair.log().matches(&done).count(), 1, "{point}:\n{}", scene.pair.log());
    }
    let node = scene.pair.json(&["node", "show", "n1"])?;
    scene.empty(&node).await
}

#[tokio::test]
async fn an_agent_that_is_killed_at_any_point_of_an_offers_way_goes_on_with_it() -> Result<()> {
    let mut scene = Scene::with_agent().await?;
    for point in AGENT {
        scene.pair.arm("agent", point)?;
        let task = scene.echo(&["--no-wait"])?;
        scene.pair.killed_itself("agent").await?;
        scene.pair.start_agent().await?;
        let ended = scene.until(&task, "succeeded").await?;
        assert_eq!(ended["fence"]["attempt"], 1, "{point}: {ended}");
    }
    let node = scene.pair.json(&["node", "show", "n1"])?;
    scene.empty(&node).await
}
