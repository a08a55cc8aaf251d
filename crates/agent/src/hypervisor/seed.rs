//! The NoCloud seed: a small FAT volume labelled `cidata`, from which cloud-init in the guest takes what the machine is
//! to become at its first boot. Pure: bytes in, the volume's bytes out; the same seed gives the same volume.
//!
//! ```text
//! meta-data        instance-id (the VM's id: cloud-init acts once per id, so a restart changes nothing), local-hostname
//! user-data        what the user sent, byte for byte; empty where nothing was, because NoCloud wants the file
//! vendor-data      likewise, where there is any
//! network-config   version 2, where there is any
//! ```
//!
//! Never here: what is in those files, and who may see it.

use std::{
    fmt,
    io::{self, Cursor, Write},
};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use hostler_model::VmId;
use serde_json::{Value, json};

use crate::redact::blot;

/// The label by which cloud-init finds the volume, padded as FAT has it.
const LABEL: [u8; 11] = *b"cidata     ";

/// The smallest volume, and what a larger one is a multiple of.
const MIB: usize = 1 << 20;

/// What the volume keeps for itself (tables, root folder, names, half-used clusters), amply.
const OVERHEAD: usize = 256 << 10;

/// What a guest is told at its first boot.
#[derive(Clone, PartialEq)]
pub struct Seed {
    /// The host name that it is to have.
    pub hostname: String,
    /// For cloud-init, as it was sent.
    pub user_data: Vec<u8>,
    /// For cloud-init, beside it.
    pub vendor_data: Option<Vec<u8>>,
    /// cloud-init's network configuration, version 2; without one the guest asks by DHCP.
    pub network: Option<Value>,
}

/// Sizes only: user-data may hold secrets.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seed")
            .field("hostname", &self.hostname)
            .field("user_data_bytes", &self.user_data.len())
            .field("vendor_data_bytes", &self.vendor_data.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

impl Seed {
    /// What a guest said, without the words that it was told.
    pub fn hide(&self, text: &str) -> String {
        let told = [Some(&self.user_data), self.vendor_data.as_ref()].into_iter().flatten();
        told.fold(text.to_owned(), |text, told| blot(&text, &String::from_utf8_lossy(told)))
    }

    /// The volume for this machine.
    ///
    /// # Errors
    /// None that a caller could cause: the volume is as large as its files need.
    pub fn volume(&self, vm: VmId) -> io::Result<Vec<u8>> {
        let files = self.files(vm)?;
        let content: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut volume = Cursor::new(vec![0; (content + OVERHEAD).next_multiple_of(MIB)]);
        format_volume(
            &mut volume,
            FormatVolumeOptions::new().fat_type(FatType::Fat16).bytes_per_cluster(512).volume_label(LABEL),
        )
        .map_err(|error| io::Error::other(format!("the volume cannot be formatted: {error}")))?;
        {
            let file_system = FileSystem::new(&mut volume, FsOptions::new())?;
            for (name, bytes) in &files {
                file_system.root_dir().create_file(name)?.write_all(bytes)?;
            }
            file_system.unmount()?;
        }
        Ok(volume.into_inner())
    }

    /// JSON is YAML, which is what cloud-init reads.
    fn files(&self, vm: VmId) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
        let meta_data = json!({"instance-id": vm, "local-hostname": self.hostname});
        let mut files =
            vec![("meta-data", serde_json::to_vec_pretty(&meta_data)?), ("user-data", self.user_data.clone())];
        files.extend(self.vendor_data.clone().map(|bytes| ("vendor-data", bytes)));
        if let Some(network) = &self.network {
            files.push(("network-config", serde_json::to_vec_pretty(network)?));
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn seed(user_data: Vec<u8>) -> Seed {
        let network = json!({"version": 2, "ethernets": {"eth0": {"dhcp4": true}}});
        Seed {
            hostname: "web-1".to_owned(),
            user_data,
            vendor_data: Some(b"#cloud-config\n{}\n".to_vec()),
            network: Some(network),
        }
    }

    fn read(volume: &[u8]) -> Vec<(String, Vec<u8>)> {
        let file_system = FileSystem::new(Cursor::new(volume.to_vec()), FsOptions::new()).unwrap();
        assert_eq!(file_system.volume_label(), "cidata");
        assert_eq!(file_system.read_volume_label_from_root_dir().unwrap().as_deref(), Some("cidata"));
        let entries: Vec<_> = file_system.root_dir().iter().map(Result::unwrap).collect();
        let bytes = |entry: &fatfs::DirEntry<'_, _>| {
            let mut bytes = Vec::new();
            entry.to_file().read_to_end(&mut bytes).unwrap();
            bytes
        };
        entries.iter().map(|entry| (entry.file_name(), bytes(entry))).collect()
    }

    #[test]
    fn what_was_sent_lies_there_byte_for_byte() {
        let id: VmId = "01900000-0000-7000-8000-000000000042".parse().unwrap();
        let every_byte: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
        for user_data in [Vec::new(), b"#!/bin/sh\r\necho \xff\0\n".to_vec(), every_byte] {
            let volume = seed(user_data.clone()).volume(id).unwrap();
            assert_eq!(volume.len() % MIB, 0);
            let files = read(&volume);
            let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["meta-data", "user-data", "vendor-data", "network-config"]);
            assert_eq!(files[1].1, user_data);
            let meta_data: Value = serde_json::from_slice(&files[0].1).unwrap();
            assert_eq!(meta_data, json!({"instance-id": id.to_string(), "local-hostname": "web-1"}));
            let network: Value = serde_json::from_slice(&files[3].1).unwrap();
            assert_eq!(network["ethernets"]["eth0"]["dhcp4"], true);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_volume() {
        let id: VmId = "01900000-0000-7000-8000-000000000042".parse().unwrap();
        assert_eq!(seed(vec![7; 5000]).volume(id).unwrap(), seed(vec![7; 5000]).volume(id).unwrap());
    }

    #[test]
    fn what_is_in_it_is_not_shown() {
        assert!(!format!("{:?}", seed(b"hunter2".to_vec())).contains("hunter2"));
    }
}
