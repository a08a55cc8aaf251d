//! A secret that is handed in is written nowhere in the clear: it is looked for in everything that servers and agents write,
//! in the database and its backup, in what the API tells, and in the command line of every process.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use hostler_e2e::{dev::binary, fleet::Fleet};
use hostler_fixture::Postgres;
use serde_json::json;

/// What is planted, and looked for. Nothing else has these words.
const CANARY: &str = "canary-7c1f0e52-sings-of-nothing";

fn holds(bytes: &[u8]) -> bool {
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    // As it is, and as PostgreSQL, JSON and base64 of any alignment would write it.
    let base64 = ["Y2FuYXJ5LTdjMWYwZTUy", "NhbmFyeS03YzFmMGU1Mi", "jYW5hcnktN2MxZjBlNTIt"];
    let needles = [CANARY, &hex, base64[0], base64[1], base64[2]];
    needles.iter().any(|needle| bytes.windows(needle.len()).any(|window| window == needle.as_bytes()))
}

/// The files below a folder that hold it.
fn found(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            out.extend(found(&path)?);
        } else if kind.is_file() && holds(&fs::read(&path)?) {
            out.push(path);
        }
    }
    Ok(out)
}

/// The files below a folder that others than their owner may open.
fn exposed(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            out.extend(exposed(&path)?);
        } else if meta.is_file() && meta.permissions().mode() & 0o077 != 0 {
            out.push(path);
        }
    }
    Ok(out)
}

/// Whether some process was started with it.
fn in_a_command_line() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| holds(&line))
}

fn run(words: &[&str]) -> Result<()> {
    let output = Command::new(binary()?).args(words).env("HOSTLER_CONFIG", "/dev/null").output()?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(!holds(&output.stdout) && !holds(&output.stderr), "{words:?} prints it");
    Ok(())
}

async fn planted_and_looked_for(fleet: &Fleet<'_>) -> Result<()> {
    // A machine's first boot, a program that reads it, and a task that fails with it.
    let machine = json!({"name": "web", "image": "tiny", "user_data": format!("#cloud-config\n# {CANARY}\n")});
    let (status, made) = fleet.call(0, "POST", "/vms", Some(machine)).await?;
    assert_eq!((status, &made["task"]["state"]), (200, &json!("succeeded")), "{made}");
    let program = json!({"argv": ["true"], "stdin": CANARY});
    let (status, ran) = fleet.call(0, "POST", "/vms/web/exec", Some(program)).await?;
    assert_eq!(status, 200, "{ran}");
    assert_eq!(fleet.call(0, "POST", "/nodes/n0/pause", Some(json!({}))).await?.0, 200);
    let waits = json!({"argv": ["cat"], "stdin": CANARY});
    let (status, waiting) = fleet.caller().call(0, "POST", "/vms/web/exec", &[], Some(waits)).await?;
    assert_eq!(status, 202, "{waiting}");
    assert!(!in_a_command_line());

    // What is told: tasks, machines, events, the audit.
    for path in ["/tasks?limit=100", "/vms", "/vms/web", "/audit?limit=500", "/audit/export?limit=500"] {
        let (status, told) = fleet.call(0, "GET", path, None).await?;
        assert_eq!(status, 200, "{path}: {told}");
        // A program's own output is its owner's: the simulated one says nothing.
        assert!(!holds(told.to_string().as_bytes()), "{path}: {told}");
    }
    assert!(!holds(fleet.log().as_bytes()), "{}", fleet.log());

    // What is written: every folder, and a backup of the database.
    let backup = fleet.folder("backup").display().to_string();
    let data = format!("--data={}", fleet.folder("server-0").display());
    match fleet.store().flag() {
        Some(database) => run(&["backup", &database, &backup])?,
        None => run(&[&data, "backup", &backup])?,
    }
    let bundle = fleet.folder("bundle").display().to_string();
    run(&[&data, "support-bundle", &bundle])?;
    assert!(fs::read_to_string(format!("{bundle}/missing.txt"))?.lines().all(|line| line.contains(".log: ")));
    for table in ["secrets", "tasks", "log", "idempotency", "vms", "data_keys"] {
        let rows = match fleet.store().flag() {
            Some(_) => {
                fleet.store().ask(&format!("SELECT COALESCE(string_agg(CAST(x AS TEXT), ' '), '') FROM {table} x"))?
            }
            // A file is looked through as it is.
            None => String::new(),
        };
        assert!(!holds(rows.as_bytes()), "{table}");
    }
    let home = fleet.folder("backup").parent().context("a home")?.to_owned();
    assert_eq!(found(&home)?, Vec::<PathBuf>::new());
    // What is sealed, and what is not, is its owner's alone: databases, journals, machines, backups.
    for folder in ["server-0", "agent-0", "ca", "backup"] {
        assert_eq!(exposed(&fleet.folder(folder))?, Vec::<PathBuf>::new());
    }
    assert!(fs::metadata(&backup)?.permissions().mode() & 0o077 == 0);
    // Were it there, it would be found.
    let witness = home.join("witness");
    fs::write(&witness, CANARY)?;
    assert_eq!(found(&home)?, [witness]);
    // It is there all the same: sealed, for who may have it.
    let sealed = fleet.store().ask("SELECT text FROM secrets LIMIT 1")?;
    assert!(sealed.contains("s1."), "{sealed}");
    // And what opens it is in no backup.
    let master = fs::read_to_string(fleet.folder("master.key"))?;
    let key = master.trim().split(' ').next_back().context("a key")?;
    let holds_key = |bytes: Vec<u8>| bytes.windows(key.len()).any(|window| window == key.as_bytes());
    for entry in fs::read_dir(&backup)? {
        assert!(!holds_key(fs::read(entry?.path())?));
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_is_written_nowhere_over_a_file() -> Result<()> {
    planted_and_looked_for(&Fleet::over_a_file(1).await?).await
}

#[tokio::test]
async fn a_secret_is_written_nowhere_over_postgresql() -> Result<()> {
    planted_and_looked_for(&Fleet::started(Postgres::shared()?, 1, 1).await?).await
}
