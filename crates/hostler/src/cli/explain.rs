//! `hostler explain`: what an error code means and what to do about it, without asking a server.

use hostler_model::Code;

use crate::{
    exit::{Exit, Failure},
    nearest::did_you_mean,
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
        let known: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let help = did_you_mean(&wanted, &known).unwrap_or_else(|| "docs/errors.md lists them all".to_owned());
        Failure::usage(format!("there is no error code {:?}", args.code)).help(help)
    })?;
    output::text(&format!("{code}: {}\n{}", code.title(), code.remedy()))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_is_mistyped_is_recognised() {
        let explain = |code: &str| run(&Args { code: code.to_owned() });
        assert_eq!(explain("no-capacity").unwrap(), Exit::Done);
        assert_eq!(explain("NO_CAPACIT").unwrap_err().lines()[1].1, "did you mean NO_CAPACITY?");
    }
}
