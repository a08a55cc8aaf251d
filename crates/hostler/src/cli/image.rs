//! `hostler image`: what machines are made of, and how it comes in.

mod import;

use clap::Subcommand;
use hostler_model::{
    Timestamp,
    image::{Firmware, ImageInfo},
    import::Import,
    task::Task,
};

use super::{Globals, ScheduleArgs, Session, WaitArgs, WatchArgs, succeeded};
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

const LIST: &str = "\
Examples:
  hostler image list
  hostler image list -o wide
  hostler image list -o json";

const PULL: &str = "\
Examples:
  hostler image pull debian-12                  to every node that lacks it
  hostler image pull debian-12 --node node-1
  hostler image pull debian-12 --no-wait
  hostler image pull debian-12 --not-before 2026-12-31T22:00:00Z --no-wait      when nobody needs the line";

const DELETE: &str = "\
Examples:
  hostler image delete debian-12
  hostler image delete old-name new-name
  hostler image delete debian-12 --node node-1      only from that node's cache";

const ALIAS: &str = "\
Examples:
  hostler image alias debian-latest debian-13
  hostler vm create web-1 --image debian-latest     gets what the name stands for at that moment";

const IMPORTS: &str = "\
Examples:
  hostler image imports
  hostler image imports --watch
  hostler image imports -o json";

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the images
    #[command(visible_alias = "ls", after_help = LIST)]
    List(WatchArgs),
    /// Show one image: its files, its names, where it is cached
    #[command(after_help = "Examples:\n  hostler image show tiny\n  hostler image show tiny -o yaml")]
    Show {
        /// Its name or digest
        image: String,
    },
    /// Take in an image: from the catalogue, a file, an address, or a file on the server
    #[command(after_help = import::EXAMPLES)]
    Import(import::Args),
    /// List imports, newest first
    #[command(after_help = IMPORTS)]
    Imports {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Stop an import; nothing of it is kept
    #[command(after_help = "Examples:\n  hostler image cancel 0190f1f0-0000-7000-8000-000000000001")]
    Cancel {
        /// The import's id
        import: String,
    },
    /// Bring an image to nodes before machines need it
    #[command(after_help = PULL)]
    Pull {
        /// Its name or digest
        image: String,
        /// Only to this node, by name or id
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[command(flatten)]
        schedule: ScheduleArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove names of images; with its last name, an image goes, from everywhere
    #[command(visible_alias = "rm", after_help = DELETE)]
    Delete {
        /// Names or digests
        #[arg(required = true)]
        image: Vec<String>,
        /// Only from this node's cache, by name or id
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[command(flatten)]
        schedule: ScheduleArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Let a name stand for an image from now on
    #[command(after_help = ALIAS)]
    Alias {
        /// The name
        name: String,
        /// The image, by another name or by its digest
        image: String,
    },
    /// List the well-known images that can be imported by name
    #[command(after_help = "Examples:\n  hostler image catalogue\n  hostler image import debian-12")]
    Catalogue,
}

/// Runs a verb of images.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    match args.verb {
        Verb::List(watch) => {
            let look = async || {
                let images = session.client.images().await?;
                let text = table(&images, session.now());
                Ok((images, text))
            };
            return session.view(watch, None, look).await;
        }
        Verb::Show { image } => {
            let image = session.client.image(&image).await?;
            session.print(&image, || show(&image, session.now()))?;
        }
        Verb::Import(args) => return import::run(args, &session).await,
        Verb::Imports { limit, watch } => {
            let look = async || {
                let imports = session.client.imports(Some(limit)).await?;
                let text = import_table(&imports, session.now());
                Ok((imports, text))
            };
            return session.view(watch, None, look).await;
        }
        Verb::Cancel { import } => {
            let id = session.client.import(&import).await?.id;
            let import = session.client.cancel_import(id).await?;
            session.print(&import, || format!("the import of {} is being stopped", import.name))?;
        }
        Verb::Pull { image, node, schedule, wait } => {
            return pull(&image, node.as_deref(), &schedule, &wait, &session).await;
        }
        Verb::Delete { image, node, schedule, wait } => {
            return delete(&image, node.as_deref(), &schedule, &wait, &session).await;
        }
        Verb::Alias { name, image } => {
            let image = session.client.name_image(&name, &image).await?;
            session.print(&image, || format!("{name} stands for {}", image.image.digest))?;
        }
        Verb::Catalogue => catalogue(&session).await?,
    }
    Ok(Exit::Done)
}

async fn pull(
    image: &str,
    node: Option<&str>,
    schedule: &ScheduleArgs,
    wait: &WaitArgs,
    session: &Session,
) -> Result<Exit, Failure> {
    let mut pulled = session.client.pull_image(image, node, &schedule.asked()).await?;
    let failure = ended(&mut pulled.tasks, wait, session).await?;
    let verb = if wait.no_wait() { "are fetching" } else { "were asked for" };
    session.print(&pulled, || match pulled.tasks.len() {
        0 => format!("every node that can be reached has {image}"),
        nodes => format!("{nodes} nodes {verb} {image}"),
    })?;
    failure.map_or(Ok(Exit::Done), Err)
}

/// Waits for every task; hands back the last failure, the others are told.
async fn ended(tasks: &mut [Task], wait: &WaitArgs, session: &Session) -> Result<Option<Failure>, Failure> {
    let mut last: Option<Failure> = None;
    for task in tasks.iter_mut().filter(|_| !wait.no_wait()) {
        *task = session.ended(task.clone(), Some(wait.timeout), session.tell()).await?;
        if let Err(failure) = succeeded(task.clone()) {
            last.iter().for_each(|failure| session.complain(failure));
            last = Some(failure);
        }
    }
    Ok(last)
}

/// Each by itself: one that cannot go does not save the others.
async fn delete(
    images: &[String],
    node: Option<&str>,
    schedule: &ScheduleArgs,
    wait: &WaitArgs,
    session: &Session,
) -> Result<Exit, Failure> {
    let (mut deleted, mut failures) = (Vec::new(), Vec::new());
    for name in images {
        match session.client.delete_image(name, node, &schedule.asked()).await {
            Ok(mut gone) => {
                failures.extend(ended(&mut gone.tasks, wait, session).await?);
                deleted.push((name, gone));
            }
            Err(error) => failures.push(Failure::from(error).explained(&session.client).await),
        }
    }
    if failures.is_empty() || session.is_data() {
        let values: Vec<_> = deleted.iter().map(|(_, gone)| gone).collect();
        let line = |name: &str, names: &[String]| match (node, names) {
            (Some(node), _) => format!("{name} is out of the cache of {node}\n"),
            (None, []) => format!("{name} is deleted\n"),
            (None, names) => format!("{name} stands for nothing now; the image is still called {}\n", names.join(", ")),
        };
        session
            .print(&values, || deleted.iter().map(|(name, gone)| line(name, &gone.image.names)).collect::<String>())?;
    }
    let last = failures.pop();
    failures.iter().for_each(|failure| session.complain(failure));
    last.map_or(Ok(Exit::Done), Err)
}

async fn catalogue(session: &Session) -> Result<(), Failure> {
    let known = session.client.catalogue().await?;
    session.print(&known, || {
        let rows = known.iter().map(|known| [known.name.clone(), known.title.clone(), known.url.clone()]);
        output::table(["NAME", "WHAT", "FROM"], rows).wide(&["FROM"])
    })
}

fn table(images: &[ImageInfo], now: Timestamp) -> Table {
    let rows = images.iter().map(|info| {
        let (image, defaults) = (&info.image, info.image.manifest.defaults);
        let name = if info.names.is_empty() { format!("({})", image.manifest.name) } else { info.names.join(", ") };
        [
            name,
            image.manifest.arch.clone(),
            info.format.as_str().to_owned(),
            output::bytes(info.size),
            info.vms.to_string(),
            defaults.vcpus.to_string(),
            output::mib(defaults.memory_mib),
            format!("{} GiB", defaults.disk_gib),
            image.digest.0.chars().take(12).collect(),
            info.nodes.join(", "),
            output::ago(image.created_at, now),
        ]
    });
    let header = ["NAME", "ARCH", "FORMAT", "SIZE", "VMS", "VCPUS", "MEMORY", "DISK", "DIGEST", "CACHED ON", "CREATED"];
    output::table(header, rows).wide(&["VCPUS", "MEMORY", "DISK", "CACHED ON"])
}

fn show(info: &ImageInfo, now: Timestamp) -> String {
    let (image, manifest) = (&info.image, &info.image.manifest);
    let boots = match (manifest.files.contains_key(&hostler_model::image::Part::Disk), manifest.firmware) {
        (false, _) => "a kernel of its own",
        (true, Some(Firmware::Uefi)) => "its disk, by UEFI",
        (true, Some(Firmware::Bios) | None) => "its disk, by BIOS",
    };
    let defaults = manifest.defaults;
    let sizes = format!("{} vcpus, {}, {} GiB", defaults.vcpus, output::mib(defaults.memory_mib), defaults.disk_gib);
    let mut fields = vec![
        ("names", info.names.join(", ")),
        ("digest", image.digest.to_string()),
        ("arch", manifest.arch.clone()),
        ("boots", boots.to_owned()),
        ("machines get", sizes),
        ("machines", info.vms.to_string()),
        ("cached on", info.nodes.join(", ")),
        ("created", output::ago(image.created_at, now)),
    ];
    for (part, file) in &manifest.files {
        let format = file.format.map_or("", |format| format.as_str());
        fields.push((part.file_name(), format!("{} {} sha256 {}", output::bytes(file.size), format, file.sha256)));
    }
    output::fields(fields)
}

fn import_table(imports: &[Import], now: Timestamp) -> Table {
    let rows = imports.iter().map(|import| {
        [
            import.id.to_string(),
            import.name.clone(),
            import::state(import),
            output::bytes(import.progress.bytes),
            output::ago(import.created_at, now),
            import.source.clone(),
            import.error.as_ref().map(|error| error.detail.clone()).unwrap_or_default(),
        ]
    });
    output::table(["ID", "NAME", "STATE", "BYTES", "BEGAN", "SOURCE", "WHY"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn a_list_of_images() {
        insta::assert_snapshot!(table(&[fixture::image()], fixture::NOW), @"
        NAME          ARCH    FORMAT  SIZE      VMS  DIGEST        CREATED
        latest, tiny  x86_64  raw     20.0 MiB  2    abababababab  60s ago
        ");
    }
}
