//! Uploads that are broken off and gone on with.

use std::{
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use hostler_model::image::Sha256Hex;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, World};

/// A qcow2 of some 300 KiB.
fn disk(dir: &Path) -> Vec<u8> {
    let raw: Vec<u8> = (0..256u32 << 10).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let (from, to) = (dir.join("raw"), dir.join("disk.qcow2"));
    std::fs::write(&from, &raw[..300 << 10]).unwrap();
    let made =
        Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).args([&from, &to]).status().unwrap();
    assert!(made.success());
    std::fs::read(to).unwrap()
}

fn range(from: usize, until: usize, of: usize) -> String {
    format!("bytes {from}-{}/{of}", until - 1)
}

/// Sends bytes of which the connection breaks after so many.
async fn broken(world: &World, path: &str, content_range: Option<&str>, bytes: &[u8]) -> Answer {
    let pieces = vec![Ok(Bytes::copy_from_slice(bytes)), Err(std::io::Error::other("broken"))];
    let call = world.call(Method::PUT, path).body("application/octet-stream", Body::from_stream(stream::iter(pieces)));
    match content_range {
        Some(range) => call.header("content-range", range).send().await,
        None => call.send().await,
    }
}

async fn send(world: &World, path: &str, content_range: &str, bytes: &[u8]) -> Answer {
    let call = world.call(Method::PUT, path).header("prefer", "wait=60").header("content-range", content_range);
    call.body("application/octet-stream", bytes.to_vec()).send().await
}

async fn here(world: &World, sha256: &Sha256Hex) -> Value {
    world.get(&format!("/api/v1/blobs/{sha256}")).send().await.json()
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_where_it_was() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let bytes = disk(dir.path());
    let (sha256, of) = (Sha256Hex::of(&bytes), bytes.len());
    let path = format!("/api/v1/images/web/content?sha256={sha256}");
    assert_eq!(here(&world, &sha256).await, json!({"sha256": sha256, "size": 0, "complete": false}));
    assert_eq!(broken(&world, &path, None, &bytes[..100_000]).await.code(), "MALFORMED_BODY");
    assert_eq!(here(&world, &sha256).await["size"], 100_000);
    let rest = range(100_000, of, of);
    assert_eq!(broken(&world, &path, Some(&rest), &bytes[100_000..150_000]).await.code(), "MALFORMED_BODY");
    assert_eq!(here(&world, &sha256).await["size"], 150_000);
    // Another tenant has sent nothing of it.
    let foreign = world.get(&format!("/api/v1/blobs/{sha256}")).bearer(&world.foreign).send().await.json();
    assert_eq!(foreign["size"], 0);
    // A little is sent once more: what was said last holds.
    let answer = send(&world, &path, &range(140_000, of, of), &bytes[140_000..]).await;
    assert_eq!(answer.json()["import"]["state"], "succeeded", "{}", answer.text());
    assert_eq!(here(&world, &sha256).await, json!({"sha256": sha256, "size": of, "complete": true}));
    let files = std::fs::read_dir(world.folder().join("blobs")).unwrap();
    assert_eq!(files.count(), 1, "the blob, and nothing else");
}

#[tokio::test]
async fn a_blob_comes_in_pieces_also_over_a_restart() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let bytes = disk(dir.path());
    let (sha256, of) = (Sha256Hex::of(&bytes), bytes.len());
    let path = format!("/api/v1/blobs/{sha256}");
    for (from, until) in [(0, 1), (1, 90_000), (90_000, 200_000)] {
        let answer = send(&world, &path, &range(from, until, of), &bytes[from..until]).await;
        assert_eq!((answer.status, answer.json()["size"].clone()), (StatusCode::ACCEPTED, json!(until)));
    }
    // What lies there is all that a server knows of it; one that begins counts it.
    world.server.app().blobs.sweep();
    assert_eq!(here(&world, &sha256).await["size"], 200_000);
    let last = send(&world, &path, &range(200_000, of, of), &bytes[200_000..]).await;
    assert_eq!(last.status, StatusCode::CREATED, "{}", last.text());
    let import = json!({"parts": {"disk": {"blob": sha256}}});
    let answer = world.post("/api/v1/images/web/import", import).header("prefer", "wait=60").send().await;
    assert_eq!(answer.json()["import"]["state"], "succeeded", "{}", answer.text());
}

#[tokio::test]
async fn a_piece_that_does_not_fit_is_refused_and_what_was_there_stays() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let bytes = disk(dir.path());
    let (sha256, of) = (Sha256Hex::of(&bytes), bytes.len());
    let (blob, content) = (format!("/api/v1/blobs/{sha256}"), format!("/api/v1/images/web/content?sha256={sha256}"));
    send(&world, &blob, &range(0, 1000, of), &bytes[..1000]).await;
    let gap = send(&world, &blob, &range(2000, 3000, of), &bytes[2000..3000]).await;
    assert_eq!((gap.code().as_str(), &gap.json()["received"]), ("UPLOAD_CONFLICT", &json!(1000)));
    for (path, range, code) in [
        (&blob, "bytes 1000-1999/*".to_owned(), "VALIDATION_ERROR"),
        (&blob, "bytes=1000-1999".to_owned(), "VALIDATION_ERROR"),
        (&blob, format!("bytes 1000-1999/{}", 65u64 << 30), "BODY_TOO_LARGE"),
        (&content, range(1000, 2000, of), "VALIDATION_ERROR"),
    ] {
        assert_eq!(send(&world, path, &range, &bytes[1000..2000]).await.code(), code, "{range}");
    }
    let unnamed = send(&world, "/api/v1/images/web/content", &range(1000, of, of), &bytes[1000..]).await;
    assert_eq!(unnamed.code(), "VALIDATION_ERROR", "which bytes those are that go on is not said");
    assert_eq!(here(&world, &sha256).await["size"], 1000);
    // Fewer bytes than the range says.
    let short = send(&world, &blob, &range(1000, 3000, of), &bytes[1000..2000]).await;
    assert_eq!(short.code(), "MALFORMED_BODY");
    assert_eq!(here(&world, &sha256).await["size"], 2000);
}

#[tokio::test]
async fn what_brings_nothing_leaves_nothing() {
    let world = World::new().await;
    for n in 0..3 {
        let sha256 = Sha256Hex::of(format!("{n}").as_bytes());
        let blob = format!("/api/v1/blobs/{sha256}");
        assert_eq!(broken(&world, &blob, Some("bytes 0-999/2000"), b"").await.code(), "MALFORMED_BODY");
        assert_eq!(send(&world, &blob, "bytes 1000-1999/2000", &[7; 1000]).await.code(), "UPLOAD_CONFLICT");
    }
    assert_eq!(std::fs::read_dir(world.folder().join("blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn pieces_that_become_something_else_are_thrown_away() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let bytes = disk(dir.path());
    let (sha256, of) = (Sha256Hex::of(&bytes), bytes.len());
    let path = format!("/api/v1/blobs/{sha256}");
    send(&world, &path, &range(0, 1000, of), &[7; 1000]).await;
    let wrong = send(&world, &path, &range(1000, of, of), &bytes[1000..]).await;
    assert_eq!(wrong.code(), "VALIDATION_ERROR");
    assert_eq!(here(&world, &sha256).await["size"], 0);
    assert_eq!(std::fs::read_dir(world.folder().join("blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn one_sender_at_a_time_goes_on_with_a_file() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let bytes = disk(dir.path());
    let (sha256, of) = (Sha256Hex::of(&bytes), bytes.len());
    let path = format!("/api/v1/blobs/{sha256}");
    let (sender, pieces) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let slow = world.call(Method::PUT, &path).header("content-range", &range(0, of, of));
    let slow =
        slow.body("application/octet-stream", Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(pieces)));
    let slow = tokio::spawn(slow.send());
    sender.send(Ok(Bytes::copy_from_slice(&bytes[..1000]))).await.unwrap();
    while here(&world, &sha256).await["size"] != 1000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(send(&world, &path, &range(0, of, of), &bytes).await.code(), "UPLOAD_CONFLICT");
    sender.send(Ok(Bytes::copy_from_slice(&bytes[1000..]))).await.unwrap();
    drop(sender);
    assert_eq!(slow.await.unwrap().status, StatusCode::CREATED);
    assert_eq!(send(&world, &path, &range(0, of, of), &bytes).await.status, StatusCode::OK, "it was here already");
}

#[tokio::test]
async fn what_nobody_goes_on_with_is_removed_after_a_day() {
    let world = World::new().await;
    let (old, young) = (Sha256Hex::of(b"old"), Sha256Hex::of(b"young"));
    for sha256 in [&old, &young] {
        send(&world, &format!("/api/v1/blobs/{sha256}"), "bytes 0-0/2", b"x").await;
    }
    for entry in std::fs::read_dir(world.folder().join("blobs")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().ends_with(old.as_str()) {
            let day = SystemTime::now() - Duration::from_secs(25 * 3600);
            std::fs::File::options().append(true).open(entry.path()).unwrap().set_modified(day).unwrap();
        }
    }
    world.server.app().blobs.sweep();
    assert_eq!((&here(&world, &old).await["size"], &here(&world, &young).await["size"]), (&json!(0), &json!(1)));
}

#[tokio::test]
async fn bytes_are_there_for_those_only_who_have_sent_them() {
    let world = World::new().await;
    let image = world.import_tiny().await;
    let rootfs = Sha256Hex::of(b"a root disk");
    let (blob, own) = (format!("/api/v1/blobs/{rootfs}"), here(&world, &rootfs).await);
    assert_eq!(own, json!({"sha256": rootfs, "size": 11, "complete": true}));
    let foreign = |method, path: &str| world.call(method, path).bearer(&world.foreign);
    let theirs = async || foreign(Method::GET, &blob).send().await.json();
    assert_eq!(theirs().await, json!({"sha256": rootfs, "size": 0, "complete": false}), "a digest is no disk");
    let register = async || {
        let manifest = serde_json::to_value(&image.manifest).unwrap();
        foreign(Method::PUT, "/api/v1/images").json(&manifest).send().await
    };
    let import = json!({"parts": {"rootfs": {"blob": rootfs, "format": "raw"}}});
    let refused = foreign(Method::POST, "/api/v1/images/theirs/import").json(&import).send().await;
    assert_eq!((register().await.code(), refused.code()), ("VALIDATION_ERROR".into(), "NOT_FOUND".into()));

    for file in image.manifest.files.values() {
        let bytes = std::fs::read(world.folder().join("blobs").join(file.sha256.as_str())).unwrap();
        let put = foreign(Method::PUT, &format!("/api/v1/blobs/{}", file.sha256));
        assert_eq!(put.body("application/octet-stream", bytes).send().await.status, StatusCode::CREATED);
    }
    assert_eq!(theirs().await["complete"], true);
    let registered = register().await;
    assert_eq!(registered.status, StatusCode::OK, "{}", registered.text());
}
