//! `hostler task proof` and `hostler task verify`: what a node said of a task, signed, and whether it did. What verifies needs no
//! server: the proof, and the certificate of the authority that somebody kept.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use hostler_model::proof::TaskProof;
use hostler_trust::{NodeIdentity, result};
use serde_json::json;

use super::{Globals, Session, Which, find};
use crate::{
    exit::{Exit, Failure},
    output,
};

/// For its help.
pub const EXAMPLES: &str = "\
Examples:
  hostler task proof 000000000001 -o json >proof.json
  hostler task verify --ca ca.pem proof.json             without a server, with the certificate that you kept";

/// What is verified, and by what.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The authority's certificate, PEM, as you kept it: `ca.pem` of the server's folder
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// What `hostler task proof -o json` printed; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Shows what a node said.
pub async fn show(which: &Which, session: &Session) -> Result<Exit, Failure> {
    let id = find(session, &which.id).await?.id;
    let proof = session.client.task_proof(id).await?;
    session.print(&proof, || {
        output::fields([
            ("said", proof.said.to_string()),
            ("signed", proof.signed.clone()),
            ("certificate", proof.certificate_pem.clone()),
        ])
    })?;
    Ok(Exit::Done)
}

/// Says whose word a proof is.
pub fn verify(args: &Args, globals: &Globals) -> Result<Exit, Failure> {
    let ca = read(&args.ca)?;
    let refused = |why: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{}: {why}", args.file.display()));
    let proof: TaskProof = serde_json::from_str(&read(&args.file)?).map_err(|error| refused(&error))?;
    let NodeIdentity { node, enrolment } = result::verify(&proof, &ca).map_err(|error| refused(&error))?;
    let verified = json!({"node": node, "enrolment": enrolment, "said": proof.said});
    let said = [("node", node.to_string()), ("enrolment", enrolment.to_string()), ("said", proof.said.to_string())];
    let format = globals.output.output;
    output::text(&if format.is_data() { format.document(&verified)? } else { output::fields(said) })?;
    Ok(Exit::Done)
}

fn read(path: &Path) -> Result<String, Failure> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    read.map_err(|error| Failure::new(Exit::Failed, format!("{} cannot be read: {error}", path.display())))
}
