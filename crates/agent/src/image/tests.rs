//! A server of images that answers when it is told to, and breaks off when it is told to.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use hostler_db::Mode;
use hostler_link::{Body, Link};
use hostler_model::NodeId;
use http::{Request, Response, StatusCode, header};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::*;

/// A manifest was asked for: whether it is to be had.
type Asked = oneshot::Sender<bool>;

fn manifest_of(rootfs: &[u8], format: &str) -> Manifest {
    let file = |bytes: &[u8]| json!({ "sha256": Sha256Hex::of(bytes), "size": bytes.len() });
    let mut root = file(rootfs);
    root["format"] = json!(format);
    serde_json::from_value(json!({
        "name": "tiny", "arch": "x86_64", "files": { "kernel": file(b"kernel"), "rootfs": root },
        "cmdline": "", "defaults": { "vcpus": 1, "memory_mib": 128, "disk_gib": 1 }, "ready": "guest_agent",
    }))
    .unwrap()
}

fn manifest() -> Manifest {
    manifest_of(b"rootfs", "raw")
}

async fn answer(path: String, asked: mpsc::UnboundedSender<Asked>) -> Response<Body> {
    if path.contains("/images/") {
        let (tell, told) = oneshot::channel();
        asked.send(tell).unwrap();
        if told.await.unwrap() {
            return Response::new(serde_json::to_vec(&manifest()).unwrap().into());
        }
    }
    match ["kernel", "rootfs"].into_iter().find(|part| path.ends_with(Sha256Hex::of(part.as_bytes()).as_str())) {
        Some(part) => Response::new(part.into()),
        None => {
            let mut no = Response::new(Body::default());
            *no.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            no
        }
    }
}

fn cache(dir: &Path) -> (Images, mpsc::UnboundedReceiver<Asked>) {
    let (asked, heard) = mpsc::unbounded_channel();
    let link = Link::service(tower::service_fn(move |request: Request<Body>| {
        let answer = answer(request.uri().path().to_owned(), asked.clone());
        async move { Ok::<_, Infallible>(answer.await) }
    }));
    let images = Images::new(dir.to_owned(), Mode::Threads);
    images.fetch_from(Server::new(NodeId(uuid::Uuid::nil()), link));
    (images, heard)
}

#[tokio::test]
async fn who_comes_after_a_failed_fetch_waits_with_those_who_waited_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (images, mut asked) = cache(dir.path());
    let digest = manifest().digest();
    let get = || {
        let (images, digest) = (images.clone(), digest.clone());
        tokio::spawn(async move { images.get(&digest, |_| ()).await })
    };
    let first = get();
    let answer = asked.recv().await.unwrap();
    let second = get();
    // The runtime has one thread, so it has got as far as it can.
    tokio::task::yield_now().await;
    answer.send(false).unwrap();
    assert!(first.await.unwrap().is_err());
    let answer = asked.recv().await.unwrap();
    let third = get();
    tokio::task::yield_now().await;
    assert!(asked.try_recv().is_err(), "two fetch the same image at once");
    answer.send(true).unwrap();
    let image = second.await.unwrap().unwrap();
    assert_eq!(third.await.unwrap().unwrap().dir, image.dir);
    assert!(asked.try_recv().is_err(), "it was fetched again");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(images.0.flights.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_image_that_lacks_a_file_is_not_cached_and_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let (images, mut asked) = cache(dir.path());
    let digest = manifest().digest();
    let break_it: [fn(&Path); 3] = [
        |_| (),
        |dir| fs::remove_file(dir.join("rootfs")).unwrap(),
        |dir| fs::write(dir.join("kernel"), "ker").unwrap(),
    ];
    for break_it in break_it {
        break_it(&dir.path().join(&digest.0));
        assert!(images.list().is_empty());
        let (image, ()) =
            tokio::join!(images.get(&digest, |_| ()), async { asked.recv().await.unwrap().send(true).unwrap() });
        assert_eq!(fs::read(image.unwrap().dir.join("rootfs")).unwrap(), b"rootfs");
        assert_eq!(images.list(), std::slice::from_ref(&digest.0));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }
}

/// A server whose connection breaks so often, and which remembers where it was asked to go on.
#[derive(Clone, Default)]
struct Frail {
    breaks: Arc<AtomicUsize>,
    from: Arc<Mutex<Vec<u64>>>,
}

fn frail(dir: &Path, rootfs: Vec<u8>, format: &'static str, frail: &Frail) -> Images {
    let frail = frail.clone();
    let link = Link::service(tower::service_fn(move |request: Request<Body>| {
        let answer = frail.answer(&request, &rootfs, format);
        async move { Ok::<_, Infallible>(answer) }
    }));
    let images = Images::new(dir.to_owned(), Mode::Threads);
    images.fetch_from(Server::new(NodeId(uuid::Uuid::nil()), link));
    images
}

impl Frail {
    fn answer(&self, request: &Request<Body>, rootfs: &[u8], format: &str) -> Response<Body> {
        let path = request.uri().path();
        if path.contains("/images/") {
            return Response::new(serde_json::to_vec(&manifest_of(rootfs, format)).unwrap().into());
        }
        let all = if path.ends_with(Sha256Hex::of(b"kernel").as_str()) { b"kernel" } else { rootfs };
        let range = request.headers().get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
        let from = range.map_or(0, |range| range["bytes=".len()..range.len() - 1].parse::<usize>().unwrap());
        self.from.lock().unwrap().push(from as u64);
        let mut pieces = vec![Ok(bytes::Bytes::copy_from_slice(&all[from..]))];
        if all == rootfs && self.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            let half = bytes::Bytes::copy_from_slice(&all[from..from + (all.len() - from) / 2]);
            pieces = vec![Ok(half), Err(io::Error::other("the connection is gone"))];
        }
        let mut response = Response::new(Body::wrap_stream(futures_util::stream::iter(pieces)));
        if from > 0 {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_that_breaks_goes_on_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let (server, rootfs) = (Frail::default(), vec![7; 1000]);
    server.breaks.store(3, Ordering::SeqCst);
    let images = frail(dir.path(), rootfs.clone(), "raw", &server);
    let image = images.get(&manifest_of(&rootfs, "raw").digest(), |_| ()).await.unwrap();
    assert_eq!(fs::read(image.dir.join("rootfs")).unwrap(), rootfs);
    assert_eq!(*server.from.lock().unwrap(), [0, 0, 500, 750, 875]);
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_agent_had_begun_is_gone_on_with_and_not_believed() {
    let rootfs = vec![7; 1000];
    let digest = manifest_of(&rootfs, "raw").digest();
    for (begun, asked) in [(vec![7; 400], vec![0, 400]), (vec![8; 400], vec![0, 400]), (vec![7; 2000], vec![0, 0])] {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join(format!(".{digest}.part"));
        fs::create_dir(&part).unwrap();
        fs::write(part.join("rootfs"), &begun).unwrap();
        let server = Frail::default();
        let images = frail(dir.path(), rootfs.clone(), "raw", &server);
        let got = images.get(&digest, |_| ()).await;
        assert_eq!(*server.from.lock().unwrap(), asked);
        // Bytes that are wrong are found out at the end; the next attempt begins anew.
        assert_eq!(got.is_err(), begun[0] == 8);
        let image = images.get(&digest, |_| ()).await.unwrap();
        assert_eq!(fs::read(image.dir.join("rootfs")).unwrap(), rootfs);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }
}

#[tokio::test]
async fn a_disk_that_must_not_be_opened_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut rootfs = vec![0; 1000];
    rootfs[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
    rootfs[8..16].copy_from_slice(&512u64.to_be_bytes());
    let images = frail(dir.path(), rootfs.clone(), "qcow2", &Frail::default());
    let failure = images.get(&manifest_of(&rootfs, "qcow2").digest(), |_| ()).await.unwrap_err();
    assert_eq!((failure.code, failure.retryable), (Code::ImageUnsafe, false), "{failure}");
    assert!(failure.detail.contains("backing file"), "{failure}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_image_in_use_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let images = frail(dir.path(), vec![7; 10], "raw", &Frail::default());
    let digest = manifest_of(&[7; 10], "raw").digest();
    let used = |used: &[&ImageDigest]| std::future::ready(Ok(used.iter().map(|digest| (*digest).clone()).collect()));
    let image = images.get(&digest, |_| ()).await.unwrap();
    assert_eq!(images.remove(&digest, used(&[])).await.unwrap_err().code, Code::ImageInUse, "it is being used");
    drop(image);
    assert_eq!(images.remove(&digest, used(&[&digest])).await.unwrap_err().code, Code::ImageInUse);
    assert!(images.remove(&digest, used(&[])).await.unwrap());
    assert!(!images.remove(&digest, used(&[])).await.unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_nobody_goes_on_with_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".abc.part", ".old.part", ".def.gone", "kept"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let old = fs::File::open(dir.path().join(".old.part")).unwrap();
    old.set_modified(SystemTime::now() - STALE * 2).unwrap();
    Images::new(dir.path().to_owned(), Mode::Threads);
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".abc.part", "kept"]);
}
