//! A server of images that answers when it is told to.

use std::convert::Infallible;

use hostler_link::{Body, Link};
use hostler_model::NodeId;
use http::{Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::*;

/// A manifest was asked for: whether it is to be had.
type Asked = oneshot::Sender<bool>;

fn manifest() -> Manifest {
    let file = |bytes: &[u8]| json!({ "sha256": Sha256Hex::of(bytes), "size": bytes.len() });
    serde_json::from_value(json!({
        "name": "tiny", "arch": "x86_64", "files": { "kernel": file(b"kernel"), "rootfs": file(b"rootfs") },
        "cmdline": "", "defaults": { "vcpus": 1, "memory_mib": 128, "disk_gib": 1 }, "ready": "guest_agent",
    }))
    .unwrap()
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
    let images = Images::new(dir.to_owned());
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

#[test]
fn what_a_killed_agent_had_begun_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".abc.7.part")).unwrap();
    fs::create_dir(dir.path().join("kept")).unwrap();
    Images::new(dir.path().to_owned());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["kept"]);
}
