//! `hostler completions SHELL`: what a shell needs to complete our command line.
//!
//! The shell asks this program, which knows its verbs and flags, and asks the server for names. A server that does not
//! answer within a second completes nothing, and says nothing.

use std::{ffi::OsStr, io, time::Duration};

use clap::Arg;
use clap_complete::{
    CompleteEnv, CompletionCandidate,
    engine::ArgValueCompleter,
    env::{Bash, EnvCompleter, Fish, Zsh},
};

use crate::{
    command::command,
    context::ServerArgs,
    exit::{Exit, Failure},
    nearest::{self, Noun},
    output,
};

/// The variable by which the shell's script asks.
const VARIABLE: &str = "HOSTLER_COMPLETE";
/// Who presses Tab does not wait longer.
const PATIENCE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  hostler completions bash > ~/.local/share/bash-completion/completions/hostler
  hostler completions zsh > ~/.zfunc/_hostler          with ~/.zfunc in fpath
  hostler completions fish > ~/.config/fish/completions/hostler.fish";

/// For which shell.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the shell's script.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    output::text(&script(args.shell)?)?;
    Ok(Exit::Done)
}

fn script(shell: Shell) -> io::Result<String> {
    let shell: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "hostler", "hostler", "hostler", &mut script)?;
    String::from_utf8(script).map_err(io::Error::other)
}

/// Answers the shell and ends the program, if it is the shell who asks.
pub fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Gives an argument that names a thing the names there are.
pub fn names(arg: Arg) -> Arg {
    let noun = match arg.get_id().as_str() {
        "vm" => Noun::Vm,
        "node" => Noun::Node,
        "image" => Noun::Image,
        "snapshot" => Noun::Snapshot,
        _ => return arg,
    };
    arg.add(ArgValueCompleter::new(move |begun: &OsStr| candidates(noun, begun)))
}

fn candidates(noun: Noun, begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    let known = known(noun).unwrap_or_default();
    known.into_iter().filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
}

/// From the server that the environment names: the flags of the line are not known here.
fn known(noun: Noun) -> Option<Vec<String>> {
    hostler_trust::install_crypto();
    let client = ServerArgs::of_environment().context().ok()?.client().ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, nearest::names(noun, None, &client)).await.ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_a_script_that_asks_this_program() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell).unwrap();
            assert!(script.contains(VARIABLE) && script.contains("hostler"), "{shell:?}: {script}");
        }
    }
}
