//! What the folder of blobs holds, whatever came and went.

use hostler_model::{Ids, Timestamp};

use super::*;

fn free() -> Charge {
    Room::default().charge(hostler_model::TenantId::DEFAULT, None)
}

fn name(n: u64) -> Uuid {
    Ids::seeded(n).next(Timestamp::from_micros(0))
}

#[tokio::test]
async fn a_blob_is_there_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path().join("blobs"), 5);
    let sha256 = Sha256Hex::of(b"hello");
    let error = blobs.put(&sha256, name(1), free(), &b"hullo"[..]).await.unwrap_err();
    assert!(matches!(error, Error::Refused(refusal) if refusal.code == Code::ValidationError));
    assert_eq!(blobs.size(&sha256).await.unwrap(), None);
    assert_eq!(blobs.put(&sha256, name(2), free(), &b"hello"[..]).await.unwrap(), 5);
    assert_eq!(blobs.size(&sha256).await.unwrap(), Some(5));
    let error = blobs.put(&Sha256Hex::of(b"longer"), name(3), free(), &b"longer"[..]).await.unwrap_err();
    assert!(matches!(error, Error::Refused(refusal) if refusal.code == Code::BodyTooLarge));
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
}

#[tokio::test]
async fn bytes_beyond_the_tenants_room_are_not_taken_whatever_was_announced() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path().join("blobs"), 5);
    let charge = || blobs.room.charge(hostler_model::TenantId::DEFAULT, Some(4));
    let error = blobs.receive(name(1), charge(), &b"hello"[..]).await.unwrap_err();
    assert!(matches!(error, Error::Refused(refusal) if refusal.code == Code::QuotaExceeded));
    blobs.put(&Sha256Hex::of(b"abc"), name(2), charge(), &b"abc"[..]).await.unwrap();
    let waits = blobs.receive(name(3), charge(), &b"de"[..]).await.unwrap_err();
    assert!(matches!(waits, Error::Refused(refusal) if refusal.code == Code::QuotaExceeded));
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
    let written = blobs.partial(name(4), charge()).await.unwrap();
    fs::write(written.path(), "fg").unwrap();
    assert_eq!(written.account().unwrap_err().code, Code::QuotaExceeded);
    drop(written);
    blobs.collect(std::future::ready(Ok(BTreeSet::new())), Among::These(&[Sha256Hex::of(b"abc")])).await.unwrap();
    assert_eq!(blobs.receive(name(5), charge(), &b"abcd"[..]).await.unwrap().length, 4);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_stands_still_is_not_waited_for_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path().join("blobs"), 5);
    let (_silent, from) = tokio::io::duplex(8);
    let error = blobs.receive(name(1), free(), from).await.unwrap_err();
    assert!(matches!(error, Error::Refused(refusal) if refusal.detail.contains("no bytes came")));
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_partial_file_goes_when_its_writer_is_gone_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path().to_owned(), 5);
    let ours = blobs.partial(name(1), free()).await.unwrap();
    let theirs = dir.path().join(format!("{PARTIAL}of-a-killed-server"));
    let aged = |path: &Path| {
        fs::File::options().append(true).create(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH)
    };
    aged(ours.path()).unwrap();
    aged(&theirs).unwrap();
    blobs.sweep();
    assert!(ours.path().exists() && !theirs.exists());
}

#[tokio::test]
async fn only_blobs_without_an_image_are_collected() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path().to_owned(), 5);
    let all: Vec<Sha256Hex> = [b"a", b"b", b"c"].map(|bytes| Sha256Hex::of(bytes)).to_vec();
    for (n, bytes) in [b"a", b"b", b"c"].into_iter().enumerate() {
        blobs.put(&all[n], name(n as u64), free(), &bytes[..]).await.unwrap();
    }
    for old in &all[..2] {
        fs::File::open(blobs.path(old)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    let used = || std::future::ready(Ok(BTreeSet::from([all[0].clone()])));
    assert_eq!(blobs.collect(used(), Among::Old).await.unwrap(), 1);
    assert_eq!(blobs.size(&all[1]).await.unwrap(), None);
    assert_eq!(blobs.collect(used(), Among::These(&all)).await.unwrap(), 2);
    assert_eq!(blobs.size(&all[0]).await.unwrap(), Some(1));
}
