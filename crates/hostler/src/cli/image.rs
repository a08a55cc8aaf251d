//! `hostler image`: what machines are made of.

use clap::Subcommand;
use hostler_model::{Timestamp, image::Image};

use super::Globals;
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

/// The verbs of images.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the images
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler image list\n  hostler image list -o json")]
    List,
}

/// Runs a verb of images.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let Verb::List = args.verb;
    let session = globals.session()?;
    let images = session.client.images().await?;
    session.print(&images, || table(&images, session.now()))?;
    Ok(Exit::Done)
}

fn table(images: &[Image], now: Timestamp) -> Table {
    let rows = images.iter().map(|image| {
        let manifest = &image.manifest;
        let defaults = manifest.defaults;
        [
            manifest.name.clone(),
            manifest.arch.clone(),
            output::bytes(manifest.files.values().map(|file| file.size).sum()),
            defaults.vcpus.to_string(),
            output::mib(defaults.memory_mib),
            format!("{} GiB", defaults.disk_gib),
            image.digest.0.chars().take(12).collect(),
            output::ago(image.created_at, now),
        ]
    });
    output::table(["NAME", "ARCH", "SIZE", "VCPUS", "MEMORY", "DISK", "DIGEST", "CREATED"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn a_list_of_images() {
        insta::assert_snapshot!(table(&[fixture::image()], fixture::NOW), @"
        NAME  ARCH    SIZE      VCPUS  MEMORY   DISK   DIGEST        CREATED
        tiny  x86_64  20.0 MiB  1      256 MiB  1 GiB  abababababab  60s ago
        ");
    }
}
