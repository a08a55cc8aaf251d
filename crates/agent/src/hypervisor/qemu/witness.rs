//! A layer that QEMU writes, held open by us too: the host tells each who has a file open then what it could not write of
//! it, once; to who opens it later it says nothing, and QEMU's own flush through its monitor does not say it either.
//!
//! ```text
//! open ──a byte is written──► synced, as often as one likes: the host has all of it
//!                                 └── it has not: noted (`unsure`), and no layer of the machine's disk is removed any more
//! ```
//!
//! What a file's tables say is read from the host's memory, where what could not be written may look whole: that alone
//! permits no removal. An error while no agent lives is not seen here; the guest that writes is told of it.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{blocking, folder::Folder};

/// One layer, from before the first byte is written until nothing is written any more.
#[derive(Debug)]
pub(super) struct Witness {
    folder: Folder,
    layer: PathBuf,
    file: File,
    lost: Mutex<bool>,
}

impl Witness {
    pub(super) fn open(folder: &Folder, layer: &Path) -> io::Result<Witness> {
        let file = File::open(layer)?;
        Ok(Witness { folder: folder.clone(), layer: layer.to_owned(), file, lost: Mutex::new(false) })
    }

    /// Makes lasting all that was written to the layer. It blocks.
    ///
    /// # Errors
    /// When the host could not write something since this was opened; then always.
    pub(super) fn sync(&self) -> io::Result<()> {
        // One at a time: each error is told once.
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if *lost {
            return Err(unsure(&self.folder, &self.layer));
        }
        let Err(error) = self.file.sync_all() else { return Ok(()) };
        *lost = true;
        if let Err(noted) = self.folder.write_unsure(&self.layer) {
            tracing::error!(vm.id = %self.folder.id(), error = %noted, "that a disk was not wholly written cannot be noted");
        }
        Err(io::Error::new(error.kind(), format!("{error}; {}", unsure(&self.folder, &self.layer))))
    }
}

/// Those of a disk that is being flattened.
#[derive(Default, Debug)]
pub(super) struct Witnesses(BTreeMap<PathBuf, Arc<Witness>>);

impl Witnesses {
    /// The layer's, as it was opened first.
    pub(super) async fn of(&mut self, folder: &Folder, layer: &Path) -> io::Result<Arc<Witness>> {
        if let Some(witness) = self.0.get(layer) {
            return Ok(Arc::clone(witness));
        }
        let (of, opened) = (folder.clone(), layer.to_owned());
        let witness = Arc::new(blocking(move || Witness::open(&of, &opened)).await?);
        self.0.insert(layer.to_owned(), Arc::clone(&witness));
        Ok(witness)
    }

    /// A layer that is gone: its room is free once nobody has it open.
    pub(super) fn forget(&mut self, layer: &Path) {
        self.0.remove(layer);
    }

    /// All of them. It blocks.
    pub(super) fn sync(self) -> io::Result<()> {
        // Each is to say what it knows.
        let synced: Vec<_> = self.0.into_values().map(|witness| witness.sync()).collect();
        synced.into_iter().collect()
    }
}

/// Refuses where it is not known that the host has all that was written to the machine's disk.
pub(super) fn refuse_if_unsure(folder: &Folder) -> io::Result<()> {
    match folder.unsure()? {
        Some(layer) => Err(unsure(folder, &layer)),
        None => Ok(()),
    }
}

fn unsure(folder: &Folder, layer: &Path) -> io::Error {
    io::Error::other(format!(
        "the host could not write all of {}, so no layer of this disk is removed; look at the node's kernel log and its \
         disk, and once the machine's own disk is known to be whole, remove {}",
        layer.display(),
        folder.unsure_path().display()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hostler_model::{VmId, image::DiskFormat};

    use super::{super::snapshot::sweep, *};
    use crate::hypervisor::qemu::qcow2;

    #[tokio::test]
    async fn what_the_host_could_not_write_keeps_every_layer_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path(), &dir.path().join("run"), VmId(uuid::Uuid::nil()));
        fs::create_dir_all(folder.base()).unwrap();
        fs::write(dir.path().join("image"), [0; 4096]).unwrap();
        for name in ["disk.qcow2", "disk-1.qcow2"] {
            qcow2::create_overlay(&folder.layer(name), &dir.path().join("image"), DiskFormat::Raw, 1 << 30).unwrap();
        }
        let mut witnesses = Witnesses::default();
        witnesses.of(&folder, &folder.layer("disk-1.qcow2")).await.unwrap().sync().unwrap();
        refuse_if_unsure(&folder).unwrap();
        // A file that cannot be made lasting.
        let bad = witnesses.of(&folder, Path::new("/dev/null")).await.unwrap();
        bad.sync().unwrap_err();
        assert!(bad.sync().unwrap_err().to_string().contains("/dev/null"), "the host would not say it again");
        assert!(refuse_if_unsure(&folder).unwrap_err().to_string().contains("/dev/null"), "nor to the next agent");
        sweep(&folder).unwrap();
        assert!(folder.layer("disk.qcow2").exists(), "nothing stands on it, and it stays");
        fs::remove_file(folder.unsure_path()).unwrap();
        sweep(&folder).unwrap();
        assert!(!folder.layer("disk.qcow2").exists() && folder.layer("disk-1.qcow2").exists());
        witnesses.sync().unwrap_err();
    }
}
