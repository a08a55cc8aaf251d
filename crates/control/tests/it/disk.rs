//! Disks to be made images of, and how they come in.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use http::{Method, StatusCode};
use serde_json::Value;

use crate::harness::{Answer, World};

const MIB: usize = 1 << 20;

/// Disks that qemu-img makes of one raw disk.
pub struct Disks(tempfile::TempDir);

impl Disks {
    pub fn new() -> Disks {
        let disks = Disks(tempfile::tempdir().unwrap());
        let mut raw = vec![0u8; 3 * MIB];
        raw[MIB..2 * MIB].fill(0x5a);
        std::fs::write(disks.path("raw"), raw).unwrap();
        disks
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn make(&self, format: &str) -> Vec<u8> {
        let to = self.path(format);
        if let Some(packing) = format.strip_prefix("raw_") {
            return self.pack("raw", packing);
        }
        if format != "raw" {
            qemu_img(&["convert", "-q", "-f", "raw", "-O", format], &[&self.path("raw"), &to]);
        }
        std::fs::read(to).unwrap()
    }
}

impl Disks {
    /// One of the disks, by gzip (`gz`), xz or zstd (`zst`).
    pub fn pack(&self, name: &str, packing: &str) -> Vec<u8> {
        let bytes = std::fs::read(self.path(name)).unwrap();
        if packing == "zst" {
            return zstd::stream::encode_all(&bytes[..], 3).unwrap();
        }
        let program = if packing == "gz" { "gzip" } else { packing };
        let packed = Command::new(program).arg("-c").arg(self.path(name)).output();
        packed.unwrap_or_else(|error| panic!("{program} is not installed: {error}")).stdout
    }
}

pub fn qemu_img(words: &[&str], paths: &[&Path]) {
    let output = Command::new("qemu-img").args(words).args(paths).output().expect("qemu-img is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Sends a disk, and waits until it was judged.
pub async fn upload(world: &World, name: &str, query: &str, bytes: Vec<u8>) -> Answer {
    let path = format!("/api/v1/images/{name}/content{query}");
    let call = world.call(Method::PUT, &path).header("prefer", "wait=60");
    call.body("application/octet-stream", bytes).send().await
}

/// The import that an answer is about, which must be over.
pub fn import(answer: &Answer) -> Value {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["import"].clone()
}

/// Asks for an import, and waits for its end.
pub async fn import_url(world: &World, name: &str, body: Value) -> Answer {
    world.post(&format!("/api/v1/images/{name}/import"), body).header("prefer", "wait=60").send().await
}

/// Every file in the folder of blobs that is no blob.
pub fn partials(world: &World) -> usize {
    let entries = std::fs::read_dir(world.folder().join("blobs")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count()
}
