//! `hostler run`: a machine, a command, gone. Progress goes to stderr, what the program writes to stdout.
//!
//! ```text
//! create ──► exec ──► delete (with --rm) ──► the program's exit code
//!    │         │         ▲
//!    └─ failed, Ctrl-C ──┘
//! ```
//!
//! With `--rm` whatever was made is deleted on every way out; a second Ctrl-C leaves without waiting for that. With
//! `--no-wait` the machine is waited for, because a program needs one that runs; the program's end is not.

use hostler_client::Submit;
use hostler_model::{
    Code,
    api::NewExec,
    name::Name,
    task::{Task, TaskState},
    vm::Vm,
};

use super::{
    Globals, NoWaitArgs, ScheduleArgs, Session, exec,
    exec::ProgramArgs,
    read, succeeded,
    vm::{DELETION, Shape, first_boot},
};
use crate::{
    exit::{Exit, Failure},
    interrupt::Interrupt,
    output::note,
    watch::{Tell, Watched, status, watch},
};

const EXAMPLES: &str = "\
Examples:
  hostler run --rm -- uname -a
  hostler run --rm --memory 512M -- sh -c 'free -m; exit 3'
  hostler run --rm --image debian -- cloud-init status
  hostler run --name web-1 -- hostname          the machine stays
  hostler run --no-wait --ttl 2h -- make        come back once it runs; the machine goes by itself
  hostler run --rm --priority high --queue-timeout 1m -- make test      made before others, or not at all";

/// What to run, in what.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Delete the machine afterwards, whatever happened
    #[arg(long)]
    rm: bool,

    /// The machine's name; made from its id where there is none
    #[arg(long, value_parser = read::model::<Name>)]
    name: Option<Name>,

    #[command(flatten)]
    shape: Shape,

    #[command(flatten)]
    program: ProgramArgs,

    // Of the machine's making: the program is run as soon as that is done.
    #[command(flatten)]
    schedule: ScheduleArgs,

    #[command(flatten)]
    wait: NoWaitArgs,
}

/// Makes a machine, runs a program in it, and with `--rm` deletes it.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    if args.rm && args.wait.no_wait() {
        return Err(Failure::usage(
            "--rm deletes the machine when the program has ended, and --no-wait does not wait for that",
        )
        .help("let the machine go by itself with --ttl TIME, or leave one of the two out"));
    }
    // Read first: what is wrong with it needs no machine to be said.
    let (exec, vm) = (args.program.exec()?, args.shape.vm(args.name)?);
    let mut interrupt = Interrupt::listen()?;
    // From here on Ctrl-C is heard only between calls: the answer says which machine there is to delete.
    let made = session.client.create_vm(&vm, &args.schedule.submit()).await?;
    let Some(vm) = made.vm else {
        return Err(Failure::new(
            Exit::Unreachable,
            format!("the server made task {} without a machine", made.task.id),
        ));
    };
    let ended = used(&session, &vm, made.task, &exec, args.wait.no_wait(), &mut interrupt).await;
    if !args.rm {
        note(format_args!("{0} stays; `hostler vm delete {0}` ends it", vm.name));
        return ended;
    }
    let gone = delete(&session, &vm, &mut interrupt).await;
    match (ended, gone) {
        (Ok(Exit::Guest(0)) | Ok(Exit::Done), Err(failure)) => Err(failure),
        (ended, Err(failure)) => {
            session.complain(&failure);
            ended
        }
        (Ok(exit), Ok(())) => Ok(exit),
        (Err(failure), Ok(())) => {
            note(format_args!("{} is deleted", vm.name));
            Err(failure)
        }
    }
}

async fn used(
    session: &Session,
    vm: &Vm,
    made: Task,
    exec: &NewExec,
    no_wait: bool,
    interrupt: &mut Interrupt,
) -> Result<Exit, Failure> {
    note(&vm.name);
    let made = succeeded(wait(session, made, interrupt, session.tell()).await?)?;
    first_boot::is_ready(Some(vm), &made)?;
    let submitted = session.client.exec(&vm.id.to_string(), exec, &Submit::default()).await?;
    if no_wait {
        return exec::begun(session, &submitted.task);
    }
    let task = succeeded(wait(session, submitted.task, interrupt, Tell::Nothing).await?)?;
    exec::finish(session, task)
}

async fn wait(session: &Session, task: Task, interrupt: &mut Interrupt, tell: Tell) -> Result<Task, Failure> {
    match watch(&session.client, task, None, interrupt, tell).await? {
        Watched::Ended(task) | Watched::TimedOut(task) => Ok(task),
        Watched::Signalled(task, signal) => {
            Err(Failure::new(Exit::Signalled(signal), format!("interrupted during {} ({})", task.kind, status(&task))))
        }
    }
}

async fn delete(session: &Session, vm: &Vm, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let stays = |failure: Failure| failure.help(format!("`hostler vm delete {}` ends the machine", vm.name));
    let submitted = match session.client.delete_vm(&vm.id.to_string(), &Submit::default()).await {
        Ok(submitted) => submitted,
        // A machine that could not be made and was undone is gone already.
        Err(error) if error.problem().is_some_and(|problem| problem.code == Code::VmNotFound) => return Ok(()),
        Err(error) => return Err(stays(error.into())),
    };
    match watch(&session.client, submitted.task, Some(DELETION), interrupt, session.tell()).await? {
        Watched::Ended(task) if task.state == TaskState::Succeeded => Ok(()),
        Watched::Ended(task) => Err(stays(Failure::of_task(&task))),
        Watched::TimedOut(task) => Err(stays(super::goes_on(&task, Exit::TimedOut, "time is over"))),
        Watched::Signalled(task, signal) => Err(super::goes_on(&task, Exit::Signalled(signal), "interrupted")),
    }
}
