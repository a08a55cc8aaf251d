//! A machine's snapshots, as they lie in its folder: they go with it.
//!
//! ```text
//! <data>/vms/<vm id>/snapshots/<id>/   begun.json (first of all) · memory · efi-vars.fd · snapshot.json (last: it is whole)
//!                                      leaving.json (what snapshot.json becomes: removed, but for its layer of the disk)
//! ```
//!
//! The disk of a snapshot is a layer beside the machine's own (see [`super::layer`]). All IO here blocks.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use hostler_model::{SnapshotId, vm::VmSpec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{folder::Folder, layer};
use crate::{
    host::file::{present, sync_folder, write_durably},
    hypervisor::SnapshotMade,
};

const WHOLE: &str = "snapshot.json";
const BEGUN: &str = "begun.json";
const LEAVING: &str = "leaving.json";

/// That a snapshot was begun: whether the machine's processors ran then, and are to run again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) running: bool,
}

/// A snapshot that is whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotFile {
    /// The layer of the disk, by its name in the machine's folder.
    pub(super) layer: String,
    /// The length of the layer's file: a shorter one was cut.
    #[serde(default)]
    pub(super) layer_length: u64,
    /// What the machine was made of.
    pub(super) spec: VmSpec,
    /// Of a snapshot with memory: what may load it.
    pub(super) memory: Option<MemoryFile>,
    /// What was said of it when it was made.
    pub(super) made: SnapshotMade,
}

/// What a saved memory needs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct MemoryFile {
    /// The file's length: a shorter one was cut.
    pub(super) bytes: u64,
    /// The CRC-32 of its bytes; nothing in a snapshot of an older agent.
    #[serde(default)]
    pub(super) crc: Option<u32>,
    /// The hypervisor that wrote it, such as `qemu 7.2.22`.
    pub(super) hypervisor: String,
    /// The machine as the command line describes it: the same is needed to load it.
    pub(super) hardware: Vec<String>,
}

/// One snapshot's folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Shelf {
    path: PathBuf,
}

impl Shelf {
    pub(super) fn new(folder: &Folder, id: SnapshotId) -> Shelf {
        Shelf { path: shelves(folder).join(id.to_string()) }
    }

    /// Every snapshot of which there is anything.
    pub(super) fn list(folder: &Folder) -> io::Result<Vec<(SnapshotId, Shelf)>> {
        let Some(entries) = present(fs::read_dir(shelves(folder)))? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse::<SnapshotId>().ok());
            all.extend(id.map(|id| (id, Shelf { path: entry.path() })));
        }
        Ok(all)
    }

    /// Makes the folder anew, with what must be known should the agent die.
    pub(super) fn begin(&self, begun: Begun) -> io::Result<()> {
        self.remove()?;
        DirBuilder::new().mode(0o700).recursive(true).create(&self.path)?;
        write_durably(&self.path.join(BEGUN), &serde_json::to_vec(&begun)?)?;
        self.path.parent().map_or(Ok(()), sync_folder)
    }

    pub(super) fn begun(&self) -> io::Result<Option<Begun>> {
        self.read(BEGUN)
    }

    pub(super) fn memory(&self) -> PathBuf {
        self.path.join("memory")
    }

    pub(super) fn firmware_vars(&self) -> PathBuf {
        self.path.join("efi-vars.fd")
    }

    /// Makes it whole, and lasting.
    pub(super) fn complete(&self, file: &SnapshotFile) -> io::Result<()> {
        for part in [self.memory(), self.firmware_vars()] {
            if let Some(part) = present(File::open(part))? {
                part.sync_all()?;
            }
        }
        write_durably(&self.path.join(WHOLE), &serde_json::to_vec_pretty(file)?)
    }

    /// What it is, once it is whole.
    pub(super) fn whole(&self) -> io::Result<Option<SnapshotFile>> {
        self.read(WHOLE)
    }

    pub(super) fn is_whole(&self) -> io::Result<bool> {
        self.path.join(WHOLE).try_exists()
    }

    /// Removes all of it but the record of its layer, which is to be made part of what stands on it. From here on it
    /// cannot be restored. Says whether it was whole.
    pub(super) fn leave(&self) -> io::Result<bool> {
        let was = present(fs::rename(self.path.join(WHOLE), self.path.join(LEAVING)))?.is_some();
        if was {
            sync_folder(&self.path)?;
        }
        for part in [self.memory(), self.firmware_vars()] {
            present(fs::remove_file(part))?;
        }
        Ok(was)
    }

    /// What it was, while only its layer is left of it.
    pub(super) fn leaving(&self) -> io::Result<Option<SnapshotFile>> {
        self.read(LEAVING)
    }

    /// Whether there is something of it that takes room: it is whole, or its layer is left.
    pub(super) fn is_there(&self) -> io::Result<bool> {
        Ok(self.is_whole()? || self.path.join(LEAVING).try_exists()?)
    }

    /// Removes it; says whether there was anything. First it ceases to be whole.
    pub(super) fn remove(&self) -> io::Result<bool> {
        if present(fs::remove_file(self.path.join(WHOLE)))?.is_some() {
            sync_folder(&self.path)?;
        }
        let was = present(fs::remove_dir_all(&self.path))?.is_some();
        if let (true, Some(shelves)) = (was, self.path.parent()) {
            sync_folder(shelves)?;
        }
        Ok(was)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let bytes = present(fs::read(self.path.join(name)))?;
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{name} is damaged: {error}"));
        bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(damaged)).transpose()
    }
}

fn shelves(folder: &Folder) -> PathBuf {
    folder.base().join("snapshots")
}

/// The layers that the machine's snapshots stand on.
///
/// # Errors
/// Of the file system, and for a snapshot that cannot be read: what it needs is not known.
pub(super) fn layers(folder: &Folder) -> io::Result<Vec<PathBuf>> {
    let mut layers = Vec::new();
    for (_, shelf) in Shelf::list(folder)? {
        layers.extend(shelf.whole()?.map(|file| folder.layer(&file.layer)));
    }
    Ok(layers)
}

/// How much of the disk each snapshot that is whole answers for, in bytes: its own layer, and below that what no snapshot
/// names any more and was not answered for by an older one. What only the machine stands on is the machine's. A snapshot
/// that is being removed answers for its layer as long as that is there; `gone` no longer does.
pub(super) fn shares(folder: &Folder, gone: SnapshotId) -> io::Result<Vec<(SnapshotId, u64)>> {
    let (mut whole, mut named) = (Vec::new(), BTreeSet::new());
    for (id, shelf) in Shelf::list(folder)? {
        if let Some(file) = shelf.whole()? {
            named.insert(folder.layer(&file.layer));
            whole.push((id, folder.layer(&file.layer)));
        } else if id != gone {
            named.extend(shelf.leaving()?.map(|file| folder.layer(&file.layer)));
        }
    }
    whole.sort_unstable();
    let (mut shares, mut taken) = (Vec::new(), BTreeSet::new());
    for (id, top) in whole {
        let mut bytes = 0;
        for layer in folder.chain(&top)? {
            if layer != top && (named.contains(&layer) || !taken.insert(layer.clone())) {
                break;
            }
            bytes += layer::bytes(&layer)?;
        }
        shares.push((id, bytes));
    }
    Ok(shares)
}

/// The CRC-32 of a file's bytes: it tells damage, not intent. At some GiB/s it costs less than to read the file.
pub(super) fn crc(path: &Path) -> io::Result<u32> {
    let (mut file, mut piece, mut crc) = (File::open(path)?, vec![0; 1 << 20], crc32fast::Hasher::new());
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(crc.finalize()),
            read => crc.update(&piece[..read]),
        }
    }
}

/// Copies a small file durably enough to be renamed into place.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let part = to.with_extension("part");
    fs::copy(from, &part)?;
    File::open(&part)?.sync_all()?;
    fs::rename(&part, to)
}
