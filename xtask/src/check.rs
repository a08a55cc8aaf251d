//! Holds the lines of the map: which crate may import which, and, inside the server, which folder may use which.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Who may import whom, among our own crates. `e2e`, `simulation` and `xtask` see all. A crate that is not listed is refused, so that
/// a new one has to be given its place here.
const CRATES: &[(&str, &[&str])] = &[
    ("hostler-model", &[]),
    ("hostler-db", &[]),
    ("hostler-fixture", &[]),
    ("hostler-broker", &["hostler-model"]),
    ("hostler-trust", &["hostler-model"]),
    ("hostler-link", &["hostler-model"]),
    ("hostler-store", &["hostler-model", "hostler-db"]),
    ("hostler-control", &["hostler-model", "hostler-broker", "hostler-trust", "hostler-store"]),
    ("hostler-agent", &["hostler-model", "hostler-broker", "hostler-trust", "hostler-db", "hostler-link"]),
    ("hostler-client", &["hostler-model", "hostler-link"]),
    (
        "hostler",
        &[
            "hostler-model",
            "hostler-broker",
            "hostler-trust",
            "hostler-link",
            "hostler-db",
            "hostler-store",
            "hostler-control",
            "hostler-agent",
            "hostler-client",
        ],
    ),
];

/// Words that must not stand in a folder's sources: (folder, word, why).
const WORDS: &[(&str, &str, &str)] = &[
    ("crates/model/src", "tokio::", "the model has no async"),
    ("crates/model/src", "async fn", "the model has no async"),
    ("crates/model/src", "std::fs", "the model does no IO"),
    ("crates/model/src", "SystemTime::now", "time comes in as a value"),
    ("crates/store/src", "SystemTime::now", "time comes in as a value"),
    ("crates/store/src", "jiff::Timestamp::now", "time comes in as a value"),
    ("crates/control/src/app", "crate::http", "http calls app, not the other way round"),
    ("crates/control/src/app", "axum::", "app knows no HTTP"),
    ("crates/control/src/loops.rs", "crate::http", "loops call app"),
    ("crates/control/src/http", "hostler_db", "http does not know the database"),
    ("crates/hostler/src/cli", "hostler_store", "the client's verbs speak HTTP"),
    ("crates/hostler/src/cli", "hostler_control", "the client's verbs speak HTTP"),
];

/// Checks everything, and names every line that breaks a rule.
pub(crate) fn run() -> Result<()> {
    let root = root()?;
    let mut broken = crates(&root)?;
    for (folder, word, why) in WORDS {
        broken.extend(word_in(&root, folder, word, why)?);
    }
    if broken.is_empty() {
        eprintln!("imports run one way: {} crates, {} folder rules", CRATES.len(), WORDS.len());
        return Ok(());
    }
    broken.sort();
    bail!("imports against the direction:\n  {}", broken.join("\n  "))
}

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies in the repository's root")?.to_owned())
}

fn crates(root: &Path) -> Result<Vec<String>> {
    let allowed: BTreeMap<&str, &[&str]> = CRATES.iter().copied().collect();
    let mut broken = Vec::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let manifest = entry?.path().join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        let parsed: toml::Table = text.parse().with_context(|| manifest.display().to_string())?;
        let name = parsed["package"]["name"].as_str().context("a package has a name")?.to_owned();
        if name == "hostler-e2e" || name == "hostler-simulation" {
            continue;
        }
        let Some(may) = allowed.get(name.as_str()) else {
            broken.push(format!("{name} has no place in the map (xtask/src/check.rs)"));
            continue;
        };
        let uses = parsed.get("dependencies").and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys());
        broken.extend(
            uses.filter(|used| used.starts_with("hostler-") && !may.contains(&used.as_str()))
                .map(|used| format!("{name} must not import {used}")),
        );
    }
    Ok(broken)
}

fn word_in(root: &Path, folder: &str, word: &str, why: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in sources(&root.join(folder))? {
        let text = fs::read_to_string(&file)?;
        // Tests may reach where the code may not.
        let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        for (number, line) in code.enumerate() {
            if line.contains(word) && !line.trim_start().starts_with("//") {
                let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
                found.push(format!("{shown}:{} says {word}: {why}", number + 1));
            }
        }
    }
    Ok(found)
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    let mut out = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        bail!("{} is not there: xtask/src/check.rs names a folder that moved", folder.display());
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            out.extend(sources(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    Ok(out)
}
