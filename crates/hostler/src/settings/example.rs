//! The configuration file that is shipped: every key with what it is for and its default, made of the code.

use std::fmt::Write as _;

use super::{
    Agent, Section, Server,
    layers::{plain, variable},
};

const HEAD: &str = "\
# hostler's configuration: of `hostler server` and `hostler agent` on this host.
#
# Each key is also a flag (server.listen is `hostler server --listen`) and a variable, named with it.
# A flag wins over its variable, the variable over this file, and this file over the default.
# `hostler config show` prints what is in force and whence, `hostler config check` looks for mistakes.
";

/// Its text.
pub fn text() -> String {
    format!("{HEAD}{}{}", section::<Server>(), section::<Agent>())
}

fn section<S: Section>() -> String {
    let mut text = format!("\n[{}]\n", S::NAME);
    let defaults = toml::Table::try_from(S::default()).unwrap_or_default();
    for key in S::keys() {
        text += "\n";
        for line in key.doc {
            let _ = writeln!(text, "#{line}");
        }
        let or = plain(key.name).map(|name| format!(", or {name}")).unwrap_or_default();
        let _ = writeln!(text, "# ({}{or})", variable::<S>(key.name));
        let value = defaults.get(key.name).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "#{} = {value}", key.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Keys as _, layers::File};

    #[test]
    fn the_file_that_is_shipped_is_the_one_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/hostler.toml");
        let shipped = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(shipped, text(), "write it anew: hostler config example > packaging/hostler.toml");
    }

    #[test]
    fn its_keys_can_be_taken_as_they_stand() {
        let uncommented: String = text()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.contains(" = ") && !key.starts_with(' ') => format!("{key}\n"),
                Some(_) | None => format!("{line}\n"),
            })
            .collect();
        File::parse("example", &uncommented).unwrap();
        assert!(uncommented.contains("\nlisten = \"127.0.0.1:9090\"\n"), "{uncommented}");
        assert_eq!(uncommented.matches(" = ").count(), Server::keys().len() + Agent::keys().len());
    }
}
