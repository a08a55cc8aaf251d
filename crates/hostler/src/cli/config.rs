//! `hostler config`: what the configuration says, whence, and whether it is right.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Globals;
use crate::{
    exit::{Exit, Failure},
    output::{self, Human as _, Table},
    server,
    settings::{
        Agent, FILE, FileArgs, Server, example,
        layers::{File, InForce, in_force, of_process},
    },
};

/// The verbs of the configuration.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

const SHOW: &str = "\
Examples:
  hostler config show
  HOSTLER_SERVER_LISTEN=127.0.0.1:8080 hostler config show
  hostler config show --config ./hostler.toml -o json";

const CHECK: &str = "\
Examples:
  hostler config check
  hostler config check --config ./hostler.toml
  sudo -u hostler hostler config check          files are looked at as the server will";

#[derive(Subcommand, Debug)]
enum Verb {
    /// Print what is in force, and whence: a variable, the file or the default
    #[command(after_help = SHOW)]
    Show(FileArgs),
    /// Look for mistakes in the file and the variables, and at the files that they name
    ///
    /// What a server would refuse at its start is refused here: also a file that is not there, or that this user cannot
    /// read. Run it as the user that the server runs as. A message broker that is named is called.
    #[command(after_help = CHECK)]
    Check(FileArgs),
    /// Print a file with every key, what it is for and its default
    #[command(after_help = "Examples:\n  hostler config example > /etc/hostler/hostler.toml")]
    Example,
}

/// Runs a verb of the configuration. No server of ours is asked.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    match args.verb {
        Verb::Show(which) => {
            let all = everything(&which)?;
            let format = globals.output.output;
            let text =
                if format.is_data() { format.document(&all)? } else { table(&all).text(&globals.output.style()) };
            output::text(&text)?;
        }
        Verb::Check(which) => {
            let broker = check(&which).await?;
            let named = which.config.map_or_else(|| FILE.to_owned(), |path| path.display().to_string());
            output::text(&format!("{named} and the variables make sense"))?;
            if let Some(seen) = broker {
                output::text(&format!("the broker at {seen}"))?;
            }
        }
        Verb::Example => output::text(&example::text())?,
    }
    Ok(Exit::Done)
}

/// As the server looks at it when it starts; and at its broker, without which it would start and wait. What was seen there.
async fn check(which: &FileArgs) -> Result<Option<String>, Failure> {
    everything(which)?;
    let settings = of_process(&File::read(which)?)?;
    server::examine(&settings)?;
    server::reach_broker(&settings).await
}

/// What is in force, and whence, without passwords.
pub fn everything(which: &FileArgs) -> Result<Vec<InForce>, Failure> {
    let file = File::read(which)?;
    let mut all = in_force::<Server>(&file)?;
    all.extend(in_force::<Agent>(&file)?);
    Ok(all.into_iter().map(redacted).collect())
}

/// An address may carry a password, and so may the words of a command.
fn redacted(mut one: InForce) -> InForce {
    one.value = match one.value {
        Value::Array(words) if one.key.ends_with("_command") => match &words[..] {
            [] | [_] => Value::Array(words),
            [first, ..] => json!([first, "(redacted)"]),
        },
        Value::Array(items) => items.into_iter().map(without_password).collect(),
        value if one.key == "server.database" => database(value),
        value => without_password(value),
    };
    one
}

/// What comes before the `@` of an address is nobody's business, and neither is its query.
fn without_password(value: Value) -> Value {
    let Some((scheme, rest)) = value.as_str().and_then(|text| text.split_once("://")) else { return value };
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?(redacted)"));
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://(redacted)@{host}{query}").into(),
        None => format!("{scheme}://{rest}{query}").into(),
    }
}

/// PostgreSQL's other form has its words in any order, in quotes or not: it is not taken apart.
fn database(value: Value) -> Value {
    match value.as_str() {
        Some(text) if !text.is_empty() && !text.contains("://") => "(redacted)".into(),
        Some(_) | None => without_password(value),
    }
}

fn table(all: &[InForce]) -> Table {
    let rows = all.iter().map(|one| {
        let value = one.value.as_str().map_or_else(|| one.value.to_string(), str::to_owned);
        [one.key.clone(), if value.is_empty() { "-".to_owned() } else { value }, one.from.to_string()]
    });
    output::table(["KEY", "VALUE", "FROM"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::layers::Source;

    #[test]
    fn a_password_is_not_shown() {
        let one = |value: &str| InForce { key: "agent.server".into(), value: value.into(), from: Source::Default };
        assert_eq!(redacted(one("https://u:secret@h:1")).value, "https://(redacted)@h:1");
        assert_eq!(redacted(one("amqp://u:s@cret@h:1/v")).value, "amqp://(redacted)@h:1/v");
        assert_eq!(redacted(one("https://h:1")).value, "https://h:1");
        assert_eq!(redacted(one("postgres://u:p@ss@h/d")).value, "postgres://(redacted)@h/d");
        assert_eq!(redacted(one("postgres://h/d?user=u&password=p")).value, "postgres://h/d?(redacted)");
        let of = |key: &str, value: Value| {
            redacted(InForce { key: key.into(), value, from: Source::Default }).value.to_string()
        };
        for (key, value) in [
            ("server.database", json!("host=db user=h password=geheim")),
            ("server.database", json!("password='geheim'")),
            ("server.master_key_command", json!(["kms", "--token", "geheim"])),
            ("server.master_key_command", json!(["kms", "https://u:geheim@kms"])),
            ("server.names", json!(["https://u:geheim@h"])),
        ] {
            assert!(!of(key, value.clone()).contains("geheim"), "{key} {value}");
        }
        assert_eq!(of("server.master_key_command", json!(["kms"])), r#"["kms"]"#);
        assert_eq!(of("server.database", json!("")), r#""""#);
    }

    #[tokio::test]
    async fn a_file_that_is_named_and_cannot_be_used_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (config, kernel) = (dir.path().join("hostler.toml"), dir.path().join("kernel"));
        let said = async |keys: String| {
            std::fs::write(&config, format!("[server]\n{keys}")).unwrap();
            check(&FileArgs { config: Some(config.clone()) }).await.err().map(|failure| failure.lines()[0].1.clone())
        };
        let named = format!("default_kernel = {kernel:?}\ndefault_rootfs = {kernel:?}\n");
        let why = said(named.clone()).await.unwrap();
        assert!(why.starts_with("server.default_kernel: ") && why.contains("No such file"), "{why}");
        std::fs::write(&kernel, "a kernel").unwrap();
        assert_eq!(said(named).await, None);
        assert!(said("default_ready = \"soon\"\n".to_owned()).await.unwrap().starts_with("server.default_ready: "));
        assert!(said("default_vcpus = 1000\n".to_owned()).await.unwrap().starts_with("server.default_vcpus: "));
        assert!(said("image_source_allow = [\"everywhere\"]\n".to_owned()).await.unwrap().contains("everywhere"));
        std::fs::write(dir.path().join("catalogue"), "no JSON").unwrap();
        let catalogue = format!("image_catalogue = {:?}\n", dir.path().join("catalogue"));
        assert!(said(catalogue).await.unwrap().contains("catalogue"));
    }

    #[test]
    fn what_is_in_force_is_a_table() {
        let file = File::parse("f.toml", "[server]\nnames = [\"a\", \"b\"]\n").unwrap();
        let all = in_force::<Server>(&file).unwrap();
        let text = table(&all).to_string();
        assert!(text.lines().any(|line| line.starts_with("server.names") && line.ends_with("f.toml")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("server.listen") && line.ends_with("default")), "{text}");
    }
}
