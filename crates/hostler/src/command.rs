//! The command line as it is parsed: the verbs, and what every flag of theirs gets without being written at each.
//!
//! * A variable: the flag `--memory` of `hostler vm create` is also `HOSTLER_VM_CREATE_MEMORY`. Flags of all verbs have
//!   short ones, such as `HOSTLER_URL`. The flag wins over the variable.
//! * Completion of names, from the server ([`complete`](crate::complete)).

use clap::{Arg, ArgAction, Command, CommandFactory as _, FromArgMatches as _, builder::FalseyValueParser};

use crate::{
    Hostler, complete,
    settings::{Agent, Keys, MachineDefaults, Section, Server},
};

/// The whole command line.
pub fn command() -> Command {
    let command = dressed(Hostler::command(), "HOSTLER");
    let command = with_defaults::<Agent>(with_defaults::<Server>(command, Server::NAME), Agent::NAME);
    with_defaults::<MachineDefaults>(command, "dev")
}

/// The flags of a long-running verb say what is in force without them. To clap they have no default: what is not given
/// must be told from what is.
fn with_defaults<K: Keys>(command: Command, verb: &str) -> Command {
    let defaults = toml::Table::try_from(K::default()).unwrap_or_default();
    let told = |arg: Arg| match (defaults.get(arg.get_id().as_str()), arg.get_help()) {
        (Some(toml::Value::String(text)), _) if text.is_empty() => arg,
        (Some(toml::Value::Array(list)), _) if list.is_empty() => arg,
        (Some(toml::Value::String(text)), Some(help)) => {
            let help = format!("{help} [default: {text}]");
            arg.help(help)
        }
        (Some(value), Some(help)) => {
            let help = format!("{help} [default: {value}]");
            arg.help(help)
        }
        (None, _) | (_, None) => arg,
    };
    command.mut_subcommand(verb, |verb| verb.mut_args(told))
}

/// Reads the words of a command line. One that makes no sense, or asks for help, ends the program here.
pub fn parse() -> Hostler {
    let mut matches = command().get_matches();
    Hostler::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.format(&mut command()).exit())
}

/// `path` is what the variables of the command's flags begin with.
fn dressed(command: Command, path: &str) -> Command {
    command.mut_args(|arg| complete::names(variable(arg, path))).mut_subcommands(|sub| {
        let path = format!("{path}_{}", shouted(sub.get_name()));
        dressed(sub, &path)
    })
}

fn variable(arg: Arg, path: &str) -> Arg {
    let arg = match arg.get_action() {
        // So that 0, false, no and off mean what they say.
        ArgAction::SetTrue => arg.value_parser(FalseyValueParser::new()),
        _ => arg,
    };
    match (arg.get_long(), arg.get_env()) {
        // Said once for all in the help of the program: at every flag it would hide what matters.
        (Some(long), None) => {
            let name = format!("{path}_{}", shouted(long));
            arg.env(name).hide_env(true)
        }
        (Some(_), Some(_)) | (None, _) => arg,
    }
}

fn shouted(word: &str) -> String {
    word.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn variables(command: &Command, path: &str, found: &mut BTreeMap<String, String>) {
        for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
            let flag = format!("{path} --{}", arg.get_long().unwrap());
            let name = arg.get_env().unwrap_or_else(|| panic!("{flag} has no variable")).to_string_lossy().into_owned();
            assert!(name.starts_with("HOSTLER_"), "{flag}: {name}");
            if let Some(other) = found.insert(name.clone(), flag.clone()) {
                let same = other.rsplit(' ').next() == flag.rsplit(' ').next();
                assert!(same, "{name} means {other} and {flag}");
            }
        }
        for sub in command.get_subcommands() {
            variables(sub, &format!("{path} {}", sub.get_name()), found);
        }
    }

    #[test]
    fn the_help_of_server_and_agent_says_the_defaults() {
        let mut command = command();
        let mut help = |verb: &str| {
            command.find_subcommand_mut(verb).unwrap().render_long_help().to_string().replace("\n          ", " ")
        };
        assert!(help("server").contains("[default: 127.0.0.1:9090]"));
        assert!(help("agent").contains("[default: /var/lib/hostler/agent]"));
        assert!(!help("agent").contains("[default: ]"));
        for verb in ["server", "dev"] {
            assert!(help(verb).contains("[default: /opt/arrakis/vmlinux.bin]"), "{verb}");
        }
    }

    #[test]
    fn every_flag_has_a_variable_and_no_variable_two_meanings() {
        let mut found = BTreeMap::new();
        variables(&command(), "hostler", &mut found);
        assert_eq!(found["HOSTLER_VM_CREATE_MEMORY"], "hostler vm create --memory");
        assert_eq!(found["HOSTLER_URL"], "hostler --url");
    }

    #[test]
    fn every_verb_that_makes_tasks_takes_a_schedule() {
        let command = command();
        for path in [
            "run",
            "vm create",
            "vm start",
            "vm stop",
            "vm exec",
            "vm edit",
            "vm rename",
            "vm snapshot",
            "vm restore",
            "vm delete",
            "snapshot delete",
            "image pull",
            "image delete",
            "node refresh",
            "task submit",
            "task retry",
        ] {
            let verb = path.split(' ').fold(&command, |at, word| at.find_subcommand(word).unwrap());
            for flag in ["priority", "delay", "not-before", "queue-timeout", "deadline", "attempts"] {
                let has = verb.get_arguments().any(|arg| arg.get_long() == Some(flag));
                assert!(has, "hostler {path} has no --{flag}");
            }
        }
    }
}
