//! `hostler task stats`: what waits, what is under way, what happened lately, how long it took.

use std::time::Duration;

use hostler_client::StatsQuery;
use hostler_model::{
    kind::KindName,
    stats::{Figures, NodeFigures, Spread, TaskStats, Waiting, Window},
};

use super::Session;
use crate::{
    cli::{WatchArgs, read},
    exit::{Exit, Failure},
    output::{self, Human, Style, Table},
};

pub const EXAMPLES: &str = "\
Examples:
  hostler task stats
  hostler task stats --watch
  hostler task stats --kind vm.create --node rack1-a
  hostler task stats -o wide               aborted, begun, tried again and stopped too
  hostler task stats -o json | jq .total.waiting_for
  hostler task stats --all-tenants         for platform administrators";

/// Of which tasks.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only those of this kind
    #[arg(long, value_parser = read::kind)]
    kind: Option<KindName>,
    /// Only those on this node, by name or id
    #[arg(long)]
    node: Option<String>,
    /// Those of every tenant; it needs a platform administrator's token
    #[arg(long)]
    all_tenants: bool,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Shows them.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let of = StatsQuery { kind: args.kind, node: args.node, all_tenants: args.all_tenants };
    let look = async || {
        let stats = session.client.task_stats(&of).await?;
        Ok((stats.clone(), Sheet(stats)))
    };
    session.view(args.watch, None, look).await
}

/// Figures as people read them.
struct Sheet(TaskStats);

impl Human for Sheet {
    fn text(&self, style: &Style) -> String {
        let TaskStats { total, kinds, nodes, .. } = &self.0;
        let mut parts = vec![now(total), lately(&total.last).text(style)];
        if !kinds.is_empty() {
            parts.push(rows("KIND", kinds.iter().map(|of| (of.kind.to_string(), &of.figures))).text(style));
        }
        if !nodes.is_empty() {
            parts.push(rows("NODE", nodes.iter().map(|of| (name(of), &of.figures))).text(style));
        }
        parts.join("\n")
    }
}

fn now(total: &Figures) -> String {
    let letters = match total.dead_letters {
        0 => "none".to_owned(),
        n => format!("{n}: `hostler task dead list` shows them"),
    };
    output::fields([
        ("queued", waiting(total.queued, &total.waiting_for)),
        (
            "oldest",
            total.oldest_queued_seconds.map(|seconds| format!("waits for {}", long(seconds))).unwrap_or_default(),
        ),
        ("running", total.running.to_string()),
        ("aborting", total.aborting.to_string()),
        ("given up", letters),
        ("waited", spread(total.wait, "half within ", ", 95 % within ")),
        ("ran", spread(total.run, "half within ", ", 95 % within ")),
    ])
}

fn waiting(queued: i64, waiting: &Waiting) -> String {
    let what = [
        (waiting.node, "for a node"),
        (waiting.turn, "for a turn"),
        (waiting.time, "for time"),
        (waiting.paused, "for a paused node"),
        (waiting.capacity, "for room"),
    ];
    let said: Vec<String> = what.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if said.is_empty() { queued.to_string() } else { format!("{queued}: {}", said.join(", ")) }
}

fn long(seconds: f64) -> String {
    output::took(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// How long the half took at most, and nearly all.
fn spread(of: Option<Spread>, half: &str, most: &str) -> String {
    of.map(|of| format!("{half}{}{most}{}", long(of.p50_seconds), long(of.p95_seconds))).unwrap_or_default()
}

fn lately(windows: &[Window]) -> Table {
    let rows = windows.iter().map(|window| {
        [
            long(window.seconds),
            window.submitted.to_string(),
            window.started.to_string(),
            window.retried.to_string(),
            window.succeeded.to_string(),
            window.failed.to_string(),
            window.cancelled.to_string(),
        ]
    });
    output::table(["IN THE LAST", "SUBMITTED", "BEGUN", "TRIED AGAIN", "SUCCEEDED", "FAILED", "CANCELLED"], rows)
}

fn name(of: &NodeFigures) -> String {
    let name = of.name.as_ref().map_or_else(|| format!("…{}", of.node.short()), ToString::to_string);
    if of.paused { format!("{name} (paused)") } else { name }
}

/// One line for each: what is there now, and what happened within the hour.
fn rows<'a>(noun: &'static str, of: impl Iterator<Item = (String, &'a Figures)>) -> Table {
    let rows = of.map(|(name, figures)| {
        let hour = figures.last.last().copied().unwrap_or_default();
        [
            name,
            figures.queued.to_string(),
            output::or_dash(figures.oldest_queued_seconds.map(long)),
            figures.running.to_string(),
            figures.aborting.to_string(),
            figures.dead_letters.to_string(),
            hour.submitted.to_string(),
            hour.started.to_string(),
            hour.retried.to_string(),
            hour.succeeded.to_string(),
            hour.failed.to_string(),
            hour.cancelled.to_string(),
            output::or_dash(Some(spread(figures.wait, "", " / ")).filter(|text| !text.is_empty())),
            output::or_dash(Some(spread(figures.run, "", " / ")).filter(|text| !text.is_empty())),
        ]
    });
    let header = [
        noun,
        "QUEUED",
        "OLDEST",
        "RUNNING",
        "ABORTING",
        "GIVEN UP",
        "SUBMITTED/H",
        "BEGUN/H",
        "TRIED AGAIN/H",
        "SUCCEEDED/H",
        "FAILED/H",
        "CANCELLED/H",
        "WAITED P50/P95",
        "RAN P50/P95",
    ];
    output::table(header, rows).wide(&["ABORTING", "SUBMITTED/H", "BEGUN/H", "TRIED AGAIN/H", "CANCELLED/H"])
}

#[cfg(test)]
mod tests {
    use hostler_model::{
        stats::{Fact, Known, Took, What},
        task::{TaskState, WaitingFor},
    };

    use super::*;
    use crate::cli::fixture;

    fn sheet(facts: &[Fact]) -> String {
        let mut stats = TaskStats::of(fixture::NOW, facts);
        for node in &mut stats.nodes {
            (node.name, node.paused) = (Some(fixture::node().name), true);
        }
        Sheet(stats).text(&Style::default())
    }

    #[test]
    fn an_empty_server_has_little_to_tell() {
        insta::assert_snapshot!(sheet(&[]), @"
        queued    0
        running   0
        aborting  0
        given up  none

        IN THE LAST  SUBMITTED  BEGUN  TRIED AGAIN  SUCCEEDED  FAILED  CANCELLED
        1 min 00 s   0          0      0            0          0       0
        5 min 00 s   0          0      0            0          0       0
        1 h 00 min   0          0      0            0          0       0
        ");
    }

    #[test]
    fn what_waits_what_runs_and_what_happened() {
        let fact = |known| Fact { kind: KindName::Echo, node: Some(fixture::node().id), known };
        let live = |state, waiting_for, tasks| Known::Live { state, waiting_for, tasks, since: fixture::NOW };
        let took = |ms| Took::of(Duration::from_millis(ms));
        let facts = [
            fact(live(TaskState::Queued, Some(WaitingFor::Paused), 2)),
            fact(live(TaskState::Queued, Some(WaitingFor::Time), 1)),
            fact(live(TaskState::Running, None, 4)),
            fact(Known::Dead(3)),
            fact(Known::Counted { what: What::Started, took: took(3), tasks: [1, 2, 40] }),
            fact(Known::Counted { what: What::Succeeded, took: took(2500), tasks: [1, 2, 36] }),
        ];
        insta::assert_snapshot!(sheet(&facts), @"
        queued    3: 1 for time, 2 for a paused node
        oldest    waits for 0 µs
        running   4
        aborting  0
        given up  3: `hostler task dead list` shows them
        waited    half within 3 ms, 95 % within 3 ms
        ran       half within 2.6 s, 95 % within 3.0 s

        IN THE LAST  SUBMITTED  BEGUN  TRIED AGAIN  SUCCEEDED  FAILED  CANCELLED
        1 min 00 s   0          1      0            1          0       0
        5 min 00 s   0          2      0            2          0       0
        1 h 00 min   0          40     0            36         0       0

        KIND  QUEUED  OLDEST  RUNNING  GIVEN UP  SUCCEEDED/H  FAILED/H  WAITED P50/P95  RAN P50/P95
        echo  3       0 µs    4        3         36           0         3 ms / 3 ms     2.6 s / 3.0 s

        NODE            QUEUED  OLDEST  RUNNING  GIVEN UP  SUCCEEDED/H  FAILED/H  WAITED P50/P95  RAN P50/P95
        local (paused)  3       0 µs    4        3         36           0         3 ms / 3 ms     2.6 s / 3.0 s
        ");
    }
}
