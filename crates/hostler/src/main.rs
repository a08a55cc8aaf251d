//! hostler: a control plane for virtual machines, in one binary.
//!
//! This file is the list of verbs. Each family of verbs is a file in [`cli`]; `dev` runs the server and the agent.

mod agent;
mod backup;
mod broker;
mod bundle;
mod cli;
mod command;
mod complete;
mod context;
#[cfg(feature = "crash-points")]
mod crash;
mod default_image;
mod dev;
mod driver;
mod exit;
mod folder;
mod interrupt;
mod line;
mod man;
mod nearest;
mod oidc;
mod output;
mod server;
mod service;
mod settings;
mod terminal;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    cli::Globals,
    exit::{Exit, Failure},
};

const EXAMPLES: &str = "\
Examples:
  hostler dev                        a server and an agent, here and now
  hostler run --rm -- uname -a       a machine, a command, gone
  hostler vm create web-1            a machine that stays
  hostler doctor                     what is wrong, and what to do about it

Each flag has a variable: --url is HOSTLER_URL, and --memory of `vm create` is HOSTLER_VM_CREATE_MEMORY. The flag wins.
Exit codes: 0 done, 1 the task failed, 2 usage, 3 refused, 4 unreachable, 5 timed out;
`vm exec` and `run` end with the code of the program in the guest.";

/// hostler looks after hosts: a control plane for virtual machines
#[derive(Parser, Debug)]
#[command(name = "hostler", version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct Hostler {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Run a server and an agent in one process, for this machine
    Dev(dev::Args),
    /// Run the server: the API, the database, the agents' listener
    Server(Box<server::Args>),
    /// Run the agent: this host's machines, for a server
    Agent(agent::Args),
    /// Make a machine, run a program in it
    Run(cli::run::Args),
    /// Machines: create, list, show, exec, snapshot, restore, delete
    Vm(cli::vm::Args),
    /// Snapshots of machines: list, show, delete
    Snapshot(cli::snapshot::Args),
    /// Tasks: list, show, watch, submit, cancel, retry
    Task(cli::task::Args),
    /// Hosts: list, show, token, approve, cordon, label, drain, revoke, remove
    Node(cli::node::Args),
    /// The keys that sign tasks: list, stage, activate, retire, revoke; and the master key
    Key(cli::key::Args),
    /// Images: import, list, show, alias, pull, delete
    Image(cli::image::Args),
    /// What happened, and what happens
    #[command(visible_alias = "events")]
    Event(cli::event::Args),
    /// Who did what: list, export, verify
    Audit(cli::audit::Args),
    /// Nodes, machines and tasks on one screen, as they change
    Top(cli::top::Args),
    /// Look at everything that must be well, and say what is not
    Doctor(cli::doctor::Args),
    /// Copy the server's database while it is in use
    Backup(backup::BackupArgs),
    /// Put a copy of the server's database back
    Restore(backup::RestoreArgs),
    /// Gather what somebody needs who is asked for help, without secrets
    SupportBundle(bundle::Args),
    /// The configuration of server and agent: show, check, example
    Config(cli::config::Args),
    /// Log in to a server: its address and a token become a context
    Login(cli::login::Args),
    /// Who you are to the server, and what you may
    #[command(after_help = "Examples:\n  hostler whoami\n  hostler whoami -o json")]
    Whoami,
    /// Credentials of people and programs: create, list, revoke
    Token(cli::token::Args),
    /// Accounts of programs: create, list, delete
    #[command(visible_alias = "service-accounts")]
    ServiceAccount(cli::service_account::Args),
    /// Tenants and their limits: create, list, show, edit, delete
    #[command(visible_alias = "tenants")]
    Tenant(cli::tenant::Args),
    /// Quotas: show, set, reserve, list, release, recalculate
    Quota(cli::quota::Args),
    /// Servers by name: list, use, add, show, remove, rename
    Context(cli::context::Args),
    /// Print what a shell needs to complete this command line
    Completions(complete::Args),
    /// Write manual pages
    Man(man::Args),
    /// What an error code means, and what to do about it
    Explain(cli::explain::Args),
}

impl Verb {
    async fn run(self, globals: &Globals) -> Result<Exit, Failure> {
        match self {
            Verb::Dev(args) => dev::run(args, globals).await,
            Verb::Server(args) => server::run(*args).await,
            Verb::Agent(args) => agent::run(args).await,
            Verb::Run(args) => cli::run::run(args, globals).await,
            Verb::Vm(args) => cli::vm::run(args, globals).await,
            Verb::Snapshot(args) => cli::snapshot::run(args, globals).await,
            Verb::Task(args) => cli::task::run(args, globals).await,
            Verb::Node(args) => cli::node::run(args, globals).await,
            Verb::Key(args) => cli::key::run(args, globals).await,
            Verb::Image(args) => cli::image::run(args, globals).await,
            Verb::Event(args) => cli::event::run(args, globals).await,
            Verb::Audit(args) => cli::audit::run(args, globals).await,
            Verb::Top(args) => cli::top::run(args, globals).await,
            Verb::Doctor(args) => cli::doctor::run(args, globals).await,
            Verb::Backup(args) => backup::backup(&args, globals),
            Verb::Restore(args) => backup::restore(&args, globals).await,
            Verb::Login(args) => cli::login::run(args, globals).await,
            Verb::Whoami => cli::whoami::run(globals).await,
            Verb::Token(args) => cli::token::run(args, globals).await,
            Verb::ServiceAccount(args) => cli::service_account::run(args, globals).await,
            Verb::Tenant(args) => cli::tenant::run(args, globals).await,
            Verb::SupportBundle(args) => bundle::run(args, globals).await,
            Verb::Quota(args) => cli::quota::run(args, globals).await,
            Verb::Context(args) => cli::context::run(args, globals),
            Verb::Config(args) => cli::config::run(args, globals).await,
            Verb::Completions(args) => complete::run(&args),
            Verb::Man(args) => man::run(&args),
            Verb::Explain(args) => cli::explain::run(&args),
        }
    }

    /// Whether its files, and those of the programs that it runs, are for its own user only.
    fn is_private(&self) -> bool {
        matches!(self, Verb::Dev(_) | Verb::Server(_) | Verb::Agent(_) | Verb::Backup(_) | Verb::Restore(_))
    }

    /// The long-running ones work on all processors; the others mostly wait, and start sooner on one.
    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        let mut builder = match self {
            Verb::Dev(_) | Verb::Server(_) | Verb::Agent(_) => tokio::runtime::Builder::new_multi_thread(),
            _ => tokio::runtime::Builder::new_current_thread(),
        };
        builder.enable_all().build()
    }
}

fn main() -> ExitCode {
    complete::answer();
    let Hostler { globals, verb } = command::parse();
    hostler_trust::install_crypto();
    if verb.is_private() {
        rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    }
    let result = match verb.runtime() {
        Ok(runtime) => runtime.block_on(async {
            match verb.run(&globals).await {
                Ok(exit) => Ok(exit),
                Err(failure) => Err(globals.explained(failure).await),
            }
        }),
        Err(error) => Err(Failure::new(Exit::Failed, format!("the program cannot begin: {error}"))),
    };
    result
        .unwrap_or_else(|failure| {
            failure.tell_as(globals.output.output);
            failure.exit
        })
        .into()
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command::command().debug_assert();
    }

    #[test]
    fn every_verb_has_examples() {
        fn leaves(command: &clap::Command, path: &str) {
            if command.get_name() == "dev" {
                return;
            }
            if command.has_subcommands() {
                command.get_subcommands().for_each(|sub| leaves(sub, &format!("{path} {}", sub.get_name())));
                return;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(path), "`{path} --help` has no example of itself");
        }
        leaves(&command::command(), "hostler");
    }

    fn parse(line: &str) -> Result<Hostler, clap::Error> {
        Hostler::from_arg_matches(&command::command().try_get_matches_from(line.split(' '))?)
    }

    #[test]
    fn the_lines_of_the_readme_are_understood() {
        for line in [
            "hostler run --rm -- uname -a",
            "hostler run --rm --image tiny --memory 256M -- sh -c exit",
            "hostler vm create",
            "hostler vm create web-1 --vcpus 2 --memory 2GiB --disk 10 --label a=b --label c=d --node n1 --timeout 10m",
            "hostler vm create --no-wait --dry-run -o json",
            "hostler vm list --state running -o json",
            "hostler vm exec web-1 --timeout 5s -i -- cat -n",
            "hostler vm delete a b c --no-wait",
            "hostler vm snapshot web-1 --memory --name before",
            "hostler vm restore web-1 before --timeout 5m",
            "hostler snapshot list --vm web-1 --state ready",
            "hostler snapshot delete before --vm web-1",
            "hostler task list --state failed --kind echo --vm web-1 --limit 5",
            "hostler task submit echo --param message=hi --param delay_ms=5",
            "hostler task submit vm.exec --vm web-1 --params {\"argv\":[\"ls\"]}",
            "hostler event --follow --after 7 --subject 0190f1f0-0000-7000-8000-000000000001",
            "hostler -o json --url http://127.0.0.1:1 node show n1",
            "hostler events",
            "hostler vm list --watch -o wide --no-headers",
            "hostler vm delete a --no-wait --timeout 5m",
            "hostler --context prod node list -o yaml",
            "hostler context add prod --url https://hostler.example.com --token-file token",
            "hostler completions fish",
            "hostler login prod --url https://hostler.example.com --token-file token",
            "hostler token create build --for ci --role operator --scope vm:read --scope task:read --expires 90d --jwt",
            "hostler token revoke 0190f1f0-0000-7000-8000-000000000001 --with-made",
            "hostler service-account create ci --role operator",
            "hostler --tenant acme vm list",
            "hostler man /tmp/man",
            "hostler server --listen 127.0.0.1:0 --insecure-listen --names a,b --data /d --config /c",
            "hostler agent --server https://h:9091 --join-token-file /t --driver sim --run /r",
            "hostler config show --config /c -o yaml",
            "hostler node token --pending web-1",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_the_server_is_asked() {
        for line in [
            "hostler vm create Web_1",
            "hostler vm create --memory 1.5G",
            "hostler vm create --disk 1500M",
            "hostler vm create --vcpus two",
            "hostler vm create --label novalue",
            "hostler vm create --timeout soon",
            "hostler vm exec web-1 uname",
            "hostler vm exec web-1 --",
            "hostler vm delete",
            "hostler run --rm",
            "hostler task submit explode",
            "hostler task submit echo --param a=1 --params {}",
            "hostler task list --state lost",
            "hostler event --after soon",
            "hostler completions tcsh",
            "hostler context add Prod",
            "hostler vm lisst",
            "hostler token create x --scope moon:read",
            "hostler token create x --role king",
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line} was understood"));
            assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()), "{line}");
        }
    }
}
