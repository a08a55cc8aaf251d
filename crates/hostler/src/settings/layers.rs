//! Flags, variables, the file and the defaults, put on each other.

use std::{fmt, fs, io, path::Path};

use clap::FromArgMatches as _;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Agent, FILE, FileArgs, Keys, Names, PLAIN, Section, Server};
use crate::{
    command::command,
    exit::{Exit, Failure},
    nearest::did_you_mean,
};

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Source {
    /// A flag or a variable of this process.
    Given(String),
    /// The configuration file.
    File(String),
    /// Nothing said otherwise.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Given(what) | Source::File(what) => f.write_str(what),
            Source::Default => f.write_str("default"),
        }
    }
}

/// A key that is in force.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct InForce {
    /// `server.listen`.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Whence it is.
    pub from: Source,
}

/// The file's two sections, as they stand there.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct File {
    path: String,
    sections: Map<String, Value>,
}

impl File {
    /// Reads the file that is named, or the usual one where there is one.
    pub fn read(which: &FileArgs) -> Result<File, Failure> {
        let path = which.config.as_deref().unwrap_or(Path::new(FILE));
        match fs::read_to_string(path) {
            Ok(text) => File::parse(&path.display().to_string(), &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && which.config.is_none() => Ok(File::default()),
            Err(error) => Err(Failure::usage(format!("the configuration {} cannot be read: {error}", path.display()))
                .help("--config and HOSTLER_CONFIG name another file")),
        }
    }

    /// Reads a file's text: every section and key must be known, every value of its key's type.
    pub fn parse(path: &str, text: &str) -> Result<File, Failure> {
        let broken = |what: String| Failure::usage(format!("{path}: {what}"));
        let help = "`hostler config example` prints a file with every key";
        let table: toml::Table = toml::from_str(text).map_err(|error| broken(error.to_string()).help(help))?;
        let value = serde_json::to_value(table).map_err(|error| broken(error.to_string()).help(help))?;
        let Value::Object(sections) = value else { return Err(broken("there are no sections in it".to_owned())) };
        let file = File { path: path.to_owned(), sections };
        known(&file.sections, &[Server::NAME, Agent::NAME], "section").map_err(|e| broken(e.0).help(e.1))?;
        file.check::<Server>()?;
        file.check::<Agent>()?;
        Ok(file)
    }

    fn section<S: Section>(&self) -> Result<Map<String, Value>, Failure> {
        match self.sections.get(S::NAME) {
            Some(Value::Object(keys)) => Ok(keys.clone()),
            Some(_) => Err(Failure::usage(format!("{}: {} is not a section", self.path, S::NAME))
                .help(format!("write it as [{}], with its keys below", S::NAME))),
            None => Ok(Map::new()),
        }
    }

    fn check<S: Section>(&self) -> Result<(), Failure> {
        let keys = self.section::<S>()?;
        let names: Vec<&str> = S::keys().iter().map(|key| key.name).collect();
        known(&keys, &names, "key")
            .map_err(|(what, help)| Failure::usage(format!("{}: [{}]: {what}", self.path, S::NAME)).help(help))?;
        for (key, value) in keys {
            let mut one = object(&S::default());
            one.insert(key.clone(), value);
            serde_json::from_value::<S>(one.into()).map_err(|error| {
                Failure::usage(format!("{}: {}.{key}: {error}", self.path, S::NAME))
                    .help("`hostler config example` shows how each key is written")
            })?;
        }
        Ok(())
    }
}

/// Refuses what is not one of the names: what is wrong, and what may have been meant.
fn known(found: &Map<String, Value>, names: &[&str], what: &str) -> Result<(), (String, String)> {
    match found.keys().find(|key| !names.contains(&key.as_str())) {
        None => Ok(()),
        Some(stray) => {
            let help = did_you_mean(stray, names).unwrap_or_else(|| format!("there are {}", names.join(", ")));
            Err((format!("there is no {what} {stray:?}"), help))
        }
    }
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        // A section is a struct: it is written as an object.
        Ok(_) | Err(_) => Map::new(),
    }
}

/// Keys of a verb that reads no file: what was given wins over the default.
pub fn given<K: Keys>(given: &K::Flags) -> Result<K, Failure> {
    put_on(given, Map::new(), &variables).map_err(|error| Failure::usage(error.to_string()))
}

/// A section as this process would have it, were it that verb.
pub fn of_process<S: Section>(file: &File) -> Result<S, Failure> {
    merged(&of_environment::<S>()?, file)
}

/// A section as it is in force: what was given wins over the file, and the file over the defaults.
pub fn merged<S: Section>(given: &S::Flags, file: &File) -> Result<S, Failure> {
    let written = file.section::<S>()?;
    put_on(given, written, &variables).map_err(|error| Failure::usage(format!("[{}]: {error}", S::NAME)))
}

fn put_on<K: Keys>(
    given: &K::Flags,
    written: Map<String, Value>,
    variables: &Variables<'_>,
) -> Result<K, serde_json::Error> {
    let mut all = object(&K::default());
    all.extend(written);
    all.extend(said_plainly::<K>(variables));
    all.extend(object(given));
    serde_json::from_value(all.into())
}

/// Every key of a section that is in force, and whence it is. The flags of another command cannot be seen from here;
/// the variables can.
pub fn in_force<S: Section>(file: &File) -> Result<Vec<InForce>, Failure> {
    let given = object(&of_environment::<S>()?);
    let (written, plainly) = (file.section::<S>()?, said_plainly::<S>(&variables));
    let all = object(&of_process::<S>(file)?);
    let told = |key: &super::Key| InForce {
        key: format!("{}.{}", S::NAME, key.name),
        value: all.get(key.name).cloned().unwrap_or_default(),
        from: if given.contains_key(key.name) {
            Source::Given(set_variable::<S>(key.name))
        } else if let (true, Some(name)) = (plainly.contains_key(key.name), plain(key.name)) {
            Source::Given(name.to_owned())
        } else if written.contains_key(key.name) {
            Source::File(file.path.clone())
        } else {
            Source::Default
        },
    };
    Ok(S::keys().iter().map(told).collect())
}

/// The variable of a key.
pub fn variable<S: Section>(key: &str) -> String {
    format!("HOSTLER_{}_{}", S::NAME, key).to_ascii_uppercase()
}

/// The variable without a prefix that means a key, if one does.
pub fn plain(key: &str) -> Option<&'static str> {
    PLAIN.iter().find(|(named, _)| *named == key).map(|(_, name)| *name)
}

/// How variables are looked up.
type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

fn variables(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What those variables say.
fn said_plainly<K: Keys>(variables: &Variables<'_>) -> Map<String, Value> {
    let said = |key: &super::Key| Some((key.name.to_owned(), Value::from(variables(plain(key.name)?)?)));
    K::keys().iter().filter_map(said).collect()
}

/// The variable that a key's value is from: its own, or for the data folder the one of all verbs.
fn set_variable<S: Section>(key: &str) -> String {
    let own = variable::<S>(key);
    if key == "data" && std::env::var_os(&own).is_none() { "HOSTLER_DATA".to_owned() } else { own }
}

/// What the variables say, as the verb itself would read them.
fn of_environment<S: Section>() -> Result<S::Flags, Failure> {
    let wrong = |error: clap::Error| Failure::new(Exit::Usage, error.to_string().trim_start_matches("error: ").trim());
    let matches = command().try_get_matches_from(["hostler", S::NAME]).map_err(wrong)?;
    match matches.subcommand_matches(S::NAME) {
        Some(verb) => S::Flags::from_arg_matches(verb).map_err(wrong),
        None => Ok(S::Flags::default()),
    }
}

/// Names with commas between them.
pub fn names(text: &str) -> Result<Names, String> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) { Err("write NAME,NAME".to_owned()) } else { Ok(Names(names)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{AgentFlags, MachineDefaultFlags, MachineDefaults, ServerFlags};

    fn refusal(text: &str) -> String {
        let failure = File::parse("hostler.toml", text).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        failure.lines().into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_is_given_wins_over_the_file_and_the_file_over_the_default() {
        let file = File::parse("f", "[server]\nlisten = \"127.0.0.1:1\"\nlease_seconds = 5\n").unwrap();
        let given = ServerFlags { listen: Some("127.0.0.1:2".parse().unwrap()), ..ServerFlags::default() };
        let server: Server = merged(&given, &file).unwrap();
        assert_eq!((server.listen.port(), server.lease_seconds), (2, 5));
        assert_eq!(server.agents_listen, Server::default().agents_listen);
        assert_eq!(merged::<Agent>(&AgentFlags::default(), &file).unwrap(), Agent::default());
    }

    #[test]
    fn what_the_file_does_not_know_is_refused_with_what_may_be_meant() {
        assert_eq!(
            refusal("[server]\nlisen = \"127.0.0.1:1\"\n"),
            "hostler.toml: [server]: there is no key \"lisen\"; did you mean listen?"
        );
        assert_eq!(refusal("[sever]\n"), "hostler.toml: there is no section \"sever\"; did you mean server?");
        assert!(refusal("[agent]\nspeed = 1\n").contains("there are server, transport, amqp"));
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_by_its_key() {
        assert!(refusal("[server]\nlease_seconds = \"long\"\n").starts_with("hostler.toml: server.lease_seconds:"));
        assert!(refusal("[agent]\ndriver = \"xen\"\n").contains("agent.driver"));
        assert!(refusal("[server\n").contains("hostler.toml"));
        assert!(refusal("server = 5\n").contains("[server]"));
    }

    #[test]
    fn whence_each_key_is_can_be_seen() {
        let file = File::parse("/etc/x.toml", "[agent]\nname = \"n1\"\n").unwrap();
        let all = in_force::<Agent>(&file).unwrap();
        let name = all.iter().find(|one| one.key == "agent.name").unwrap();
        assert_eq!((&name.value, name.from.to_string()), (&Value::from("n1"), "/etc/x.toml".to_owned()));
        let run = all.iter().find(|one| one.key == "agent.driver").unwrap();
        assert_eq!((&run.value, &run.from), (&Value::from("qemu"), &Source::Default));
    }

    #[test]
    fn a_plain_variable_wins_over_the_file_and_gives_way_to_what_is_given() {
        let file = File::parse("f", "[server]\ndefault_kernel = \"/file\"\ndefault_rootfs = \"/file\"\n").unwrap();
        let machines = MachineDefaultFlags { default_rootfs: Some("/given".into()), ..MachineDefaultFlags::default() };
        let given = ServerFlags { machines: machines.clone(), ..ServerFlags::default() };
        let set = |name: &str| name.starts_with("DEFAULT_").then(|| "/plain".to_owned());
        let files = |of: MachineDefaults| {
            [of.default_kernel, of.default_rootfs, of.default_initramfs].map(|path| path.display().to_string())
        };
        let server: Server = put_on(&given, file.section::<Server>().unwrap(), &set).unwrap();
        assert_eq!(files(server.machines), ["/plain", "/given", "/plain"]);
        // As flags of a verb that reads no file.
        assert_eq!(files(put_on(&machines, Map::new(), &set).unwrap()), ["/plain", "/given", "/plain"]);
        assert!(said_plainly::<Agent>(&set).is_empty());
    }

    #[test]
    fn a_list_in_a_flag_has_commas() {
        assert_eq!(names("a, b").unwrap(), Names(vec!["a".into(), "b".into()]));
        assert!(names("a,,b").is_err());
    }
}
