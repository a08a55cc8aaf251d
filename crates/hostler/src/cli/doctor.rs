//! `hostler doctor`: everything that must be well, line by line, with what to do about what is not.
//!
//! The server examines its store; what is around it is looked at from here: the way to it, the token's file, and on the
//! same machine what the agent needs of the host ([`host`]).

mod work;

use hostler_client::{Client, Health, Submit};
use hostler_model::{
    Clock, Timestamp,
    api::NewVm,
    image::ImageInfo,
    node::{Freshness, Node},
};
use serde::Serialize;

use super::{Globals, host};
use crate::{
    context::Context,
    exit::{Exit, Failure},
    output::{self, paint},
};

const EXAMPLES: &str = "\
Examples:
  hostler doctor
  hostler doctor -o json";

/// Nothing needs to be said.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

/// How a thing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Well.
    Ok,
    /// It works, but could be better.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Finding {
    name: String,
    verdict: Verdict,
    /// What was seen.
    seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    /// Something that is well.
    pub fn ok(name: &str, seen: impl Into<String>) -> Finding {
        Finding { name: name.to_owned(), verdict: Verdict::Ok, seen: seen.into(), advice: None }
    }

    /// Something that could be better.
    pub fn warn(name: &str, seen: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Warn, advice: Some(advice.into()), ..Finding::ok(name, seen) }
    }

    /// Something that does not work.
    pub fn fail(name: &str, seen: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Fail, ..Finding::warn(name, seen, advice) }
    }

    /// Something that an error kept us from.
    pub fn of(name: &str, failure: &Failure) -> Finding {
        let mut lines = failure.lines().into_iter().map(|(_, text)| text);
        let seen = lines.next().unwrap_or_default();
        Finding::fail(name, seen, lines.next().unwrap_or_default())
    }
}

/// Looks at everything.
pub async fn run(_: Args, globals: &Globals) -> Result<Exit, Failure> {
    let findings = examine(globals).await;
    let format = globals.output.output;
    if format.is_data() {
        output::text(&format.document(&findings)?)?;
    } else {
        output::text(&table(&findings))?;
    }
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

async fn examine(globals: &Globals) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut here = true;
    match globals.server.context() {
        Ok(context) => {
            here = context.is_local();
            match context.client() {
                Ok(client) => findings.extend(server(&context, &client).await),
                Err(failure) => findings.push(Finding::of("server", &failure)),
            }
            findings.extend(host::token(context.token_file.as_deref()));
        }
        Err(failure) => {
            findings.push(Finding::of("server", &failure));
            findings.extend(host::port());
        }
    }
    if here {
        findings.extend(host::examine(globals.server.data().ok().as_deref()));
    }
    findings
}

async fn server(context: &Context, client: &Client) -> Vec<Finding> {
    let health = match client.health().await {
        Ok(health) => health,
        Err(error) => return vec![Finding::of("server", &error.into())],
    };
    let ours = env!("CARGO_PKG_VERSION");
    let now = Clock::system().now();
    let mut findings = vec![match &health.version {
        Some(theirs) if !theirs.contains(ours) => Finding::warn(
            "server",
            format!("{} answers; it is version {theirs}, this is {ours}", context.url),
            "use the same version on both ends",
        ),
        Some(theirs) => Finding::ok("server", format!("{} answers, version {theirs}", context.url)),
        None => Finding::ok("server", format!("{} answers", context.url)),
    }];
    findings.extend(clock(&health, now));
    if let Err(error) = client.ready().await {
        findings.push(Finding::of("ready", &error.into()));
    }
    findings.extend(store(client).await);
    match client.nodes().await {
        Ok(found) => {
            findings.extend(nodes(&found));
            findings.extend(versions(&found, health.version.as_deref()));
        }
        Err(error) => findings.push(Finding::of("nodes", &error.into())),
    }
    match client.images().await {
        Ok(found) => findings.push(images(&found, usual_image(client).await.as_deref())),
        Err(error) => findings.push(Finding::of("images", &error.into())),
    }
    findings.extend(work::examine(client, now).await);
    findings
}

/// Tokens, certificates and deadlines are compared across clocks.
fn clock(health: &Health, now: Timestamp) -> Option<Finding> {
    let theirs = health.date?;
    // The header has whole seconds, and the answer was a moment on its way.
    let apart = now.since(theirs).max(theirs.since(now)).as_secs();
    let advice = "set both clocks by NTP: `timedatectl` says whether this one is";
    Some(match apart {
        0..=3 => Finding::ok("clock", "it agrees with the server's"),
        4..=30 => Finding::warn("clock", format!("{apart} s apart from the server's"), advice),
        _ => Finding::fail("clock", format!("{apart} s apart from the server's"), advice),
    })
}

/// Agents may be one version behind the server, and are better not.
fn versions(nodes: &[Node], server: Option<&str>) -> Option<Finding> {
    let server = server?;
    let other = |node: &&Node| !server.contains(&node.facts.agent_version);
    let others: Vec<String> =
        nodes.iter().filter(other).map(|node| format!("{} {}", node.name, node.facts.agent_version)).collect();
    if others.is_empty() {
        return Some(Finding::ok("agents", "all of the server's version"));
    }
    let seen = format!("of another version than the server ({server}): {}", others.join(", "));
    Some(Finding::warn("agents", seen, "upgrade them: machines go on meanwhile"))
}

async fn store(client: &Client) -> Vec<Finding> {
    let diagnosis = match client.doctor().await {
        Ok(diagnosis) => diagnosis,
        Err(error) => return vec![Finding::of("store", &error.into())],
    };
    let finding = |check: hostler_model::api::Check| {
        let verdict = if check.ok { Verdict::Ok } else { Verdict::Fail };
        Finding { verdict, ..Finding::ok(&check.name, check.detail) }
    };
    diagnosis.checks.into_iter().map(finding).collect()
}

fn nodes(nodes: &[Node]) -> Vec<Finding> {
    if nodes.is_empty() {
        return vec![Finding::fail(
            "nodes",
            "there is none: nothing can run",
            "start an agent, or `hostler dev`, which has one",
        )];
    }
    nodes.iter().map(node).collect()
}

fn node(node: &Node) -> Finding {
    let name = format!("node {}", node.name);
    let seen = format!("{}, {}, {}", node.state, node.freshness.as_str(), node.facts.acceleration);
    match node.freshness {
        Freshness::Fresh if node.state.takes_tasks() => Finding::ok(&name, seen),
        Freshness::Fresh => Finding::warn(&name, seen, "an operator must approve it before it gets tasks"),
        Freshness::Stale => {
            Finding::warn(&name, seen, "its agent was not heard for a while: look at its log, and at the network")
        }
        Freshness::Lost => Finding::fail(&name, seen, "its agent is not heard any more: is it running?"),
    }
}

/// The image of machines that name none, as far as the server says: it may be another one's to make machines.
async fn usual_image(client: &Client) -> Option<String> {
    match client.create_vm(&NewVm::default(), &Submit::dry()).await {
        Ok(submitted) => Some(submitted.vm?.spec.image),
        Err(error) => Some(error.problem()?.facts.get("image")?.as_str()?.to_owned()),
    }
}

fn images(images: &[ImageInfo], usual: Option<&str>) -> Finding {
    let Some(usual) = usual else { return Finding::ok("images", images.len().to_string()) };
    if images.iter().any(|image| image.names.iter().any(|name| name == usual)) {
        return Finding::ok("images", format!("{}, {usual} among them", images.len()));
    }
    let advice = match usual {
        "tiny" => {
            "`make image` builds it; `hostler dev --images target/images` takes it in. Until then name another with --image"
        }
        _ => "`hostler image import` brings it, server.default_image of the configuration names another",
    };
    Finding::warn("images", format!("{usual} is missing, the image of machines that name none"), advice)
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { name, verdict, seen, advice } in findings {
        let mark = match verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        text += &format!("{}  {name:width$}  {seen}\n", paint::state(mark));
        if let Some(advice) = advice.as_ref().filter(|advice| !advice.is_empty()) {
            text += &format!("      {:width$}  → {advice}\n", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn every_finding_is_a_line_and_what_to_do_another() {
        let mut lost = fixture::node();
        lost.freshness = Freshness::Lost;
        let findings =
            [node(&fixture::node()), node(&lost), images(&[], Some("tiny")), images(&[fixture::image()], Some("tiny"))];
        insta::assert_snapshot!(anstream::adapter::strip_str(&table(&findings)), @"
        ok    node local  ready, fresh, tcg
        FAIL  node local  ready, lost, tcg
                          → its agent is not heard any more: is it running?
        warn  images      tiny is missing, the image of machines that name none
                          → `make image` builds it; `hostler dev --images target/images` takes it in. Until then name another with --image
        ok    images      1, tiny among them
        ");
    }

    #[test]
    fn without_a_node_nothing_is_well() {
        assert_eq!(nodes(&[])[0].verdict, Verdict::Fail);
    }
}
