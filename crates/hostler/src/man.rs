//! `hostler man DIR`: a manual page for the program and each verb, made of their help.

use std::{fs, path::PathBuf};

use crate::{
    command::command,
    exit::{Exit, Failure},
    output,
};

/// Where to.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  hostler man /usr/local/share/man/man1\n  hostler man /tmp/pages && man /tmp/pages/hostler-vm-create.1"
)]
pub struct Args {
    /// The folder; made if need be
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Writes the pages.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, format!("the pages cannot be written to {}: {error}", args.folder.display()))
            .help("name a folder that can be written")
    };
    fs::create_dir_all(&args.folder).map_err(failed)?;
    clap_mangen::generate_to(command().disable_help_subcommand(true), &args.folder).map_err(failed)?;
    let pages = fs::read_dir(&args.folder).map_err(failed)?.count();
    output::text(&format!("{pages} pages in {}", args.folder.display()))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_examples() {
        let dir = tempfile::tempdir().unwrap();
        run(&Args { folder: dir.path().to_owned() }).unwrap();
        let page = fs::read_to_string(dir.path().join("hostler-vm-create.1")).unwrap();
        assert!(page.contains("hostler vm create web"), "{page}");
        assert!(dir.path().join("hostler.1").is_file());
    }
}
