//! Real machines whose QEMU, and whose server and agent, are killed at any moment: each task ends once, nothing runs twice in
//! a guest, what is said of a machine is what is there, and all of it can be deleted.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use hostler_e2e::{dev::Dev, process};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::seed;

const MACHINES: [&str; 2] = ["one", "two"];
/// How much is asked for; a boot under emulation takes seconds, and most of it waits for its turn.
const WISHES: usize = 30;
/// Between one wish and the next, in milliseconds.
const CALM: std::ops::Range<u64> = 50..1500;

/// What was promised: the task of each wish, and the machine where it is a program's that counts itself there.
type Promised = BTreeMap<usize, (String, Option<&'static str>)>;

struct Storm {
    dev: Dev,
    dice: StdRng,
    promised: Promised,
    deaths: usize,
}

impl Storm {
    async fn wish(&mut self, number: usize) -> Result<()> {
        let machine = MACHINES[self.dice.random_range(0..MACHINES.len())];
        let line = format!("echo {number} >> /root/ran && sync");
        let (verb, body) = match self.dice.random_range(0..12) {
            0 => ("stop", json!({})),
            1..4 => ("start", json!({})),
            4 => ("reboot", json!({})),
            5 => ("pause", json!({})),
            6 => ("resume", json!({})),
            _ => ("exec", json!({"argv": ["sh", "-c", line]})),
        };
        let (status, answer) = self.dev.post(&format!("/api/v1/vms/{machine}/{verb}"), body).await?;
        match status {
            202 => {
                let task = answer["task"]["id"].as_str().with_context(|| answer.to_string())?;
                self.promised.insert(number, (task.to_owned(), (verb == "exec").then_some(machine)));
                // Otherwise machines would only ever be on their way to something.
                if self.dice.random_bool(0.3) {
                    self.dev.ended_task(task).await?;
                }
            }
            // Nothing to do, or not in the state that it is in.
            200 | 409 => {}
            _ => bail!("{verb} {machine}: {status} {answer}"),
        }
        Ok(())
    }

    async fn strike(&mut self) -> Result<()> {
        let qemus = self.dev.qemus();
        match self.dice.random_range(0..10) {
            0..3 if !qemus.is_empty() => process::kill(qemus[self.dice.random_range(0..qemus.len())]),
            3 => {
                self.dev.kill()?;
                self.dev.start().await?;
            }
            _ => return Ok(()),
        }
        self.deaths += 1;
        Ok(())
    }

    /// Every task ended, once; which programs are said to have run well.
    async fn ends(&mut self) -> Result<BTreeMap<usize, &'static str>> {
        let mut ran = BTreeMap::new();
        for (number, (task, machine)) in self.promised.clone() {
            let ended = self.dev.ended_task(&task).await?;
            assert_eq!(self.dev.store().endings(&task)?, 1, "{ended}");
            if let (Some(machine), true) = (machine, ended["state"] == "succeeded") {
                assert_eq!(ended["output"]["exit_code"], 0, "{ended}");
                ran.insert(number, machine);
            }
        }
        Ok(ran)
    }

    /// Waits until what is said of a machine is what is there, and gets it to run, whatever became of it.
    async fn runs(&mut self, machine: &str) -> Result<()> {
        let path = format!("/api/v1/vms/{machine}");
        for _ in 0..4 {
            let vm = self
                .dev
                .until("nothing is under way, and its state is known", async |dev| {
                    let vm = dev.get(&path).await?.1;
                    Ok((vm["task"].is_null() && vm["state"] != "unknown").then_some(vm))
                })
                .await?;
            let verb = match vm["state"].as_str() {
                Some("running") => return Ok(()),
                Some("paused") => "resume",
                _ => "start",
            };
            // Between the look and the wish its end may have been noticed.
            let (_, answer) = self.dev.post(&format!("{path}/{verb}"), json!({})).await?;
            if let Some(task) = answer["task"]["id"].as_str() {
                self.dev.ended_task(task).await?;
            }
        }
        bail!("{machine} does not run: {:?}\n{}", self.dev.get(&path).await?, self.dev.log())
    }
}

#[tokio::test]
async fn machines_whose_qemu_is_killed_at_any_moment_are_what_is_said_of_them() -> Result<()> {
    let seed = seed()?;
    eprintln!("HOSTLER_SEED={seed}");
    let mut dev = Dev::started(&[]).await?;
    for machine in MACHINES {
        dev.machine(machine).await?;
    }
    let dice = StdRng::seed_from_u64(seed);
    let mut storm = Storm { dev, dice, promised: Promised::new(), deaths: 0 };
    for number in 0..WISHES {
        storm.wish(number).await?;
        sleep(Duration::from_millis(storm.dice.random_range(CALM))).await;
        storm.strike().await?;
    }
    let ran = storm.ends().await?;
    eprintln!("{} deaths, {} tasks, {} programs ran", storm.deaths, storm.promised.len(), ran.len());
    assert!(storm.deaths > 3 && storm.promised.len() > 5, "that is no storm");
    for machine in MACHINES {
        storm.runs(machine).await?;
        let lines = storm.dev.says(machine, "cat /root/ran 2>/dev/null || true").await?;
        let count = |number: usize| lines.lines().filter(|line| *line == number.to_string()).count();
        for number in 0..WISHES {
            assert!(count(number) <= 1, "{number} ran again in {machine}:\n{lines}");
        }
        for (number, _) in ran.iter().filter(|(_, at)| **at == machine) {
            assert_eq!(count(*number), 1, "{number} is said to have run in {machine}:\n{lines}");
        }
    }
    assert_eq!(storm.dev.qemus().len(), MACHINES.len());
    storm.dev.assert_well().await?;
    for machine in MACHINES {
        storm.dev.done("DELETE", &format!("/api/v1/vms/{machine}"), None).await?;
    }
    assert_eq!(storm.dev.qemus(), [0; 0]);
    let left: Value = storm.dev.get("/api/v1/quota").await?.1;
    assert_eq!(left["book"]["used"]["vms"], 0, "{left}");
    storm.dev.assert_well().await
}
