//! Layers: the files that a machine's disk is made of. Each stands on the one before it, the first on the image; only
//! the newest is written to.
//!
//! ```text
//! image ◄── disk.qcow2 ◄── disk-1.qcow2 ◄── disk-2.qcow2    the machine writes the newest: the highest number
//!                 ▲               ▲                         a snapshot is a layer that nothing writes any more
//!                 └── disk-3.qcow2 (restored from the first snapshot: now the newest)
//! ```
//!
//! A layer keeps its name for life: QEMU opens a file again by its name when it stops writing it. An empty layer above
//! the one that a dead QEMU wrote says the same as that one, so whenever an agent dies the newest layer is the right one
//! to start from. Whether a layer is needed is read from the files each time, and never remembered. One that no snapshot
//! names, and that one other layer stands on, becomes part of that one ([`super::flatten`]): so a disk has hardly more
//! layers than its machine has snapshots.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{folder::Folder, qcow2};
use crate::host::file::{present, sync_folder};

/// The most layers that a disk may have: QEMU keeps a table and two open files for each, and a read may look through all.
pub(super) const MOST: usize = 48;

const FIRST: &str = "disk.qcow2";

/// The number in a layer's name; the first has none.
fn number(name: &str) -> Option<u64> {
    match name {
        FIRST => Some(0),
        name => {
            let digits = name.strip_prefix("disk-")?.strip_suffix(".qcow2")?;
            digits.parse().ok().filter(|n: &u64| *n > 0 && n.to_string() == digits)
        }
    }
}

fn name(number: u64) -> String {
    match number {
        0 => FIRST.to_owned(),
        n => format!("disk-{n}.qcow2"),
    }
}

impl Folder {
    /// The layer that the machine writes, or the first that it will.
    pub(super) fn disk(&self) -> io::Result<PathBuf> {
        Ok(self.layer(&name(self.layers()?.last().copied().unwrap_or_default())))
    }

    /// A layer that is not there yet and will be the newest.
    pub(super) fn next_disk(&self) -> io::Result<PathBuf> {
        Ok(self.layer(&name(self.layers()?.last().map_or(0, |last| last + 1))))
    }

    /// The numbers of the layers there are, in ascending order.
    fn layers(&self) -> io::Result<BTreeSet<u64>> {
        let Some(entries) = present(fs::read_dir(self.base()))? else { return Ok(BTreeSet::new()) };
        let mut numbers = BTreeSet::new();
        for entry in entries {
            numbers.extend(entry?.file_name().to_str().and_then(number));
        }
        Ok(numbers)
    }

    /// The layer of this name.
    pub(super) fn layer(&self, name: &str) -> PathBuf {
        self.base().join(name)
    }

    /// The layers from this one down to the last that is the machine's own.
    ///
    /// # Errors
    /// Of the file system, and for what is no chain of ours.
    pub(super) fn chain(&self, top: &Path) -> io::Result<Vec<PathBuf>> {
        let mut chain: Vec<PathBuf> = Vec::new();
        let mut next = Some(top.to_owned());
        while let Some(layer) = next.filter(|layer| layer.parent() == Some(self.base())) {
            if chain.contains(&layer) || chain.len() > 2 * MOST {
                let detail = format!("the layers of {} stand on each other in a circle", top.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
            }
            next = qcow2::read_header(&layer)?.backing;
            chain.push(layer);
        }
        Ok(chain)
    }

    /// A layer that is none of these and not the newest, and on which exactly one other stands: that one, and it. The
    /// highest of them comes first, so that what is copied is copied once.
    pub(super) fn next_to_flatten(&self, named: &[PathBuf]) -> io::Result<Option<(PathBuf, PathBuf)>> {
        let layers: Vec<PathBuf> = self.layers()?.into_iter().map(|number| self.layer(&name(number))).collect();
        let mut above: BTreeMap<PathBuf, Vec<&PathBuf>> = BTreeMap::new();
        for layer in &layers {
            if let Some(below) = qcow2::read_header(layer)?.backing {
                above.entry(below).or_default().push(layer);
            }
        }
        let mut idle = layers.iter().rev().filter(|layer| !named.contains(layer));
        Ok(idle.find_map(|lower| match above.get(lower).map(Vec::as_slice) {
            Some([upper]) => Some(((*upper).clone(), lower.clone())),
            _ => None,
        }))
    }

    /// Removes the layers on which none of these stands; says which. First those that stay are made lasting: what one
    /// stands on may have changed a moment ago.
    pub(super) fn sweep_layers(&self, needed: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
        let mut kept = BTreeSet::new();
        for top in needed {
            kept.extend(self.chain(top)?);
        }
        let mut removed: Vec<PathBuf> = self.layers()?.into_iter().map(|number| self.layer(&name(number))).collect();
        removed.retain(|layer| !kept.contains(layer));
        if removed.is_empty() {
            return Ok(removed);
        }
        for layer in kept {
            fs::File::open(layer)?.sync_all()?;
        }
        for layer in &removed {
            present(fs::remove_file(layer))?;
        }
        sync_folder(self.base())?;
        Ok(removed)
    }
}

/// What a layer's file takes on the host's disk, in bytes.
pub(super) fn bytes(layer: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(layer)?.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use hostler_model::{VmId, image::DiskFormat};

    use super::*;

    /// A folder whose layers stand on each other as these pairs say; 0 stands on an image.
    fn folder(dir: &Path, pairs: &[(u64, Option<u64>)]) -> Folder {
        let folder = Folder::new(dir, &dir.join("run"), VmId(uuid::Uuid::nil()));
        fs::create_dir_all(folder.base()).unwrap();
        fs::write(dir.join("image"), [0; 4096]).unwrap();
        for (layer, below) in pairs {
            let (base, format) = match below {
                Some(below) => (folder.layer(&name(*below)), DiskFormat::Qcow2),
                None => (dir.join("image"), DiskFormat::Raw),
            };
            qcow2::create_overlay(&folder.layer(&name(*layer)), &base, format, 1 << 30).unwrap();
        }
        folder
    }

    #[test]
    fn the_newest_is_the_one_with_the_highest_number() {
        let dir = tempfile::tempdir().unwrap();
        let made = folder(dir.path(), &[]);
        assert!(made.disk().unwrap().ends_with("disk.qcow2") && made.next_disk().unwrap().ends_with("disk.qcow2"));
        let made = folder(dir.path(), &[(0, None), (9, Some(0)), (10, Some(9))]);
        for other in ["disk-.qcow2", "disk-011.qcow2", "disk-12.part", "disk--1.qcow2", "disk-99.qcow2.part"] {
            fs::write(made.layer(other), "").unwrap();
        }
        assert!(made.disk().unwrap().ends_with("disk-10.qcow2"));
        assert!(made.next_disk().unwrap().ends_with("disk-11.qcow2"));
    }

    #[test]
    fn a_layer_goes_when_nothing_stands_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = folder(dir.path(), &[(0, None), (1, Some(0)), (2, Some(1)), (3, Some(0)), (4, Some(3))]);
        let layer = |n| made.layer(&name(n));
        assert_eq!(made.chain(&layer(2)).unwrap(), [layer(2), layer(1), layer(0)]);
        assert_eq!(made.sweep_layers(&[layer(4), layer(1)]).unwrap(), [layer(2)]);
        assert_eq!(made.sweep_layers(&[layer(4)]).unwrap(), [layer(1)]);
        assert!(layer(0).exists() && layer(3).exists() && layer(4).exists());
    }

    #[test]
    fn only_what_no_snapshot_names_and_one_layer_stands_on_is_flattened() {
        let dir = tempfile::tempdir().unwrap();
        let made = folder(dir.path(), &[(0, None), (1, Some(0)), (2, Some(1)), (3, Some(1)), (4, Some(3))]);
        let layer = |n| made.layer(&name(n));
        let next = |named: &[u64]| made.next_to_flatten(&named.iter().map(|n| layer(*n)).collect::<Vec<_>>()).unwrap();
        assert_eq!(next(&[2]), Some((layer(4), layer(3))), "the highest first");
        assert_eq!(next(&[2, 3]), Some((layer(1), layer(0))), "and not the second, on which two stand");
        assert_eq!(next(&[2, 0, 3]), None);
    }

    #[test]
    fn a_damaged_layer_removes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let made = folder(dir.path(), &[(0, None), (1, Some(0))]);
        fs::write(made.layer(&name(2)), "nothing").unwrap();
        made.sweep_layers(&[made.disk().unwrap()]).unwrap_err();
        assert!(made.layer(&name(0)).exists() && made.layer(&name(1)).exists());
    }

    #[test]
    fn a_circle_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let made = folder(dir.path(), &[(1, Some(2)), (2, Some(1))]);
        assert_eq!(made.chain(&made.layer(&name(1))).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
