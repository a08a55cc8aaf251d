//! `hostler vm exec`: a program in a guest, as if it ran here: its output is ours, and so is its exit code.

use std::io::{self, Read as _};

use hostler_model::{
    api::NewExec,
    kind::{OUTPUT_LIMIT, VmExecOutput},
    task::Task,
};
use serde::Deserialize;

use super::{NoWaitArgs, ScheduleArgs, Session, read, succeeded};
use crate::{
    exit::{Exit, Failure},
    output::{self, note},
    watch::Tell,
};

/// How it is used.
pub const EXAMPLES: &str = "\
Examples:
  hostler vm exec web-1 -- uname -a
  hostler vm exec web-1 -- sh -c 'df -h | tail -n +2'
  echo hello | hostler vm exec web-1 -i -- cat
  hostler vm exec web-1 --timeout 5m -- apk update
  hostler vm exec web-1 --no-wait --timeout 1h -- make      come back at once; `hostler task show` has its output";

/// Which program, where.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The machine's name or id
    vm: String,

    #[command(flatten)]
    program: ProgramArgs,

    #[command(flatten)]
    schedule: ScheduleArgs,

    #[command(flatten)]
    wait: NoWaitArgs,
}

/// A program and how it is run.
#[derive(clap::Args, Debug)]
pub struct ProgramArgs {
    /// Let the program read our stdin, to its end, at most 64 KiB
    #[arg(short = 'i', long)]
    pub stdin: bool,

    /// End the program after this time, 1 h at most [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = read::seconds)]
    pub timeout: Option<u32>,

    /// The program and its arguments; no shell reads them
    #[arg(last = true, required = true, value_name = "ARGV")]
    pub argv: Vec<String>,
}

impl ProgramArgs {
    /// As the API takes it. Reads stdin, if it is to.
    pub fn exec(self) -> Result<NewExec, Failure> {
        let stdin = if self.stdin { whole(io::stdin().lock())? } else { String::new() };
        Ok(NewExec { argv: self.argv, stdin: stdin.into(), timeout_seconds: self.timeout })
    }
}

/// All of it, if it can travel.
fn whole(input: impl io::Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let most = OUTPUT_LIMIT as u64;
    input
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("stdin cannot be read: {error}")))?;
    if bytes.len() > OUTPUT_LIMIT {
        return Err(Failure::usage("stdin is longer than 64 KiB, the most that travels with a program")
            .help("send it in pieces, or let the program fetch it"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage("stdin is not UTF-8 text, and only text travels with a program")
            .help("send it through base64, and decode it in the guest: `base64 FILE | hostler vm exec VM -i -- sh -c 'base64 -d > FILE'`")
    })
}

/// Runs a program in a machine.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let exec = args.program.exec()?;
    let submitted = session.client.exec(&args.vm, &exec, &args.schedule.submit()).await?;
    if args.wait.no_wait() {
        return begun(session, &submitted.task);
    }
    // The task has a deadline: it ends.
    let task = session.ended(submitted.task, None, Tell::Nothing).await?;
    finish(session, succeeded(task)?)
}

/// That a program is to run, and by which task its end can be seen.
pub fn begun(session: &Session, task: &Task) -> Result<Exit, Failure> {
    session.print(task, || {
        output::fields([
            ("task", format!("{} {}", task.id, task.state)),
            ("try", format!("hostler task watch {}", task.id)),
        ])
    })?;
    Ok(Exit::Done)
}

/// Hands out what the program wrote, and ends as it did.
pub fn finish(session: &Session, task: Task) -> Result<Exit, Failure> {
    let output = task.output.as_ref().and_then(|output| VmExecOutput::deserialize(output).ok()).ok_or_else(|| {
        Failure::new(Exit::Unreachable, format!("the output of task {} cannot be read", task.id))
            .help(format!("`hostler task show {} -o json` shows it as it is", task.id))
    })?;
    if session.is_data() {
        session.data(&output)?;
        return Ok(exit(&output));
    }
    output::guest(&output.stdout, &output.stderr)?;
    for (name, cut) in [("stdout", output.stdout_truncated), ("stderr", output.stderr_truncated)] {
        if cut {
            note(format_args!("warning: {name} was longer than 64 KiB; the rest is lost"));
        }
    }
    Ok(exit(&output))
}

/// As a shell tells it: the program's code, or 128 and the signal.
fn exit(output: &VmExecOutput) -> Exit {
    let code = match (output.exit_code, output.signal) {
        (Some(code), _) => code & 0xff,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    Exit::Guest(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(exit_code: Option<i32>, signal: Option<i32>) -> VmExecOutput {
        VmExecOutput {
            exit_code,
            signal,
            stdout: String::new(),
            stderr: String::new(),
            stdout_truncated: false,
            stderr_truncated: false,
        }
    }

    #[test]
    fn the_guests_code_is_ours() {
        let codes = [(Some(0), None), (Some(7), None), (Some(256 + 3), None), (None, Some(9)), (None, None)];
        let exits = codes.map(|(code, signal)| exit(&output(code, signal)).code());
        assert_eq!(exits, [0, 7, 3, 137, 255]);
    }

    #[test]
    fn stdin_travels_whole_or_not_at_all() {
        assert_eq!(whole(&b"hi"[..]).unwrap(), "hi");
        assert!(whole(&vec![b'x'; OUTPUT_LIMIT][..]).is_ok());
        assert_eq!(whole(&vec![b'x'; OUTPUT_LIMIT + 1][..]).unwrap_err().exit, Exit::Usage);
        assert_eq!(whole(&b"\xff"[..]).unwrap_err().exit, Exit::Usage);
    }
}
