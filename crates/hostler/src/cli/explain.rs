//! `hostler explain`: what an error code means and what to do about it, without asking a server.

use hostler_model::Code;

use crate::{
    exit::{Exit, Failure},
    output,
};

const EXAMPLES: &str = "\
Examples:
  hostler explain NO_CAPACITY
  hostler explain guest-not-ready";

/// The flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The code, as it stands in brackets behind an error
    #[arg(value_name = "CODE")]
    code: String,
}

/// Runs the verb.
///
/// # Errors
/// For a code that does not exist.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let wanted = args.code.trim_matches(['[', ']']).to_ascii_uppercase().replace('-', "_");
    let code = Code::ALL.iter().find(|code| code.as_str() == wanted).ok_or_else(|| {
        Failure::usage(format!("there is no error code {:?}", args.code)).help("docs/errors.md lists them all")
    })?;
    output::text(&format!("{code}: {}\n{}", code.title(), code.remedy()))?;
    Ok(Exit::Done)
}
