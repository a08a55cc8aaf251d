//! A vendor of disks, on loopback.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path as InPath, State},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hostler_model::image::Sha256Hex;
use http::{HeaderMap, StatusCode, header};

/// A vendor's server: what it serves, and how often its connection breaks.
#[derive(Clone)]
pub struct Vendor {
    bytes: Bytes,
    breaks: Arc<AtomicUsize>,
    pub ranges: Arc<AtomicUsize>,
}

async fn serve(State(vendor): State<Vendor>, InPath(file): InPath<String>, headers: HeaderMap) -> Response {
    match file.as_str() {
        "away" => return Redirect::temporary("/disk.qcow2").into_response(),
        "SHA256SUMS" | "CHECKSUM" | "SHA512SUMS" | "NONE" => {
            use sha2::Digest as _;
            let (sha256, sha512) = (Sha256Hex::of(&vendor.bytes), hex::encode(sha2::Sha512::digest(&vendor.bytes)));
            let other = "b".repeat(64);
            return match file.as_str() {
                "SHA256SUMS" => format!("{other} *ubuntu-24.04.tar.gz\n{sha256} *disk.qcow2\n"),
                "CHECKSUM" => format!(
                    "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.qcow2: 12 bytes\nSHA256 (disk.qcow2) = {sha256}\n\
                     # other.qcow2: 12 bytes\nSHA256 (other.qcow2) = {other}\n-----BEGIN PGP SIGNATURE-----\n\nabc=\n"
                ),
                "SHA512SUMS" => format!("{sha512}  disk.qcow2\n{}  disk.tar.xz\n", "c".repeat(128)),
                _ => format!("{other}  other.qcow2\n{other}  another.qcow2\n"),
            }
            .into_response();
        }
        "inside" => return Redirect::temporary("http://10.0.0.1/disk.qcow2").into_response(),
        "slow" => {
            let pieces = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[7; 1024])));
            let slowly = pieces.then(async |piece| {
                tokio::time::sleep(Duration::from_millis(20)).await;
                piece
            });
            return Body::from_stream(slowly).into_response();
        }
        _ => {}
    }
    let all = vendor.bytes.clone();
    let range =
        headers.get(header::RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-'));
    let from: usize = range.map_or(0, |from| from.parse().unwrap());
    let mut response = if vendor.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
        let half = all.slice(from..from + (all.len() - from) / 2);
        // What was sent arrives before the line breaks: a break that overtakes it leaves nothing to go on from.
        let breaks = stream::once(async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Err(std::io::Error::other("broken"))
        });
        let broken = stream::iter([Ok(half)]).chain(breaks);
        Body::from_stream(broken).into_response()
    } else {
        all.slice(from..).into_response()
    };
    if from > 0 {
        vendor.ranges.fetch_add(1, Ordering::SeqCst);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let value = format!("bytes {from}-{}/{}", all.len() - 1, all.len());
        response.headers_mut().insert(header::CONTENT_RANGE, value.parse().unwrap());
    }
    response.headers_mut().insert(header::ETAG, "\"one\"".parse().unwrap());
    response.headers_mut().insert(header::CONTENT_LENGTH, (all.len() - from).into());
    response
}

/// One that serves these bytes, and whose connections break so often.
pub async fn vendor(bytes: Vec<u8>, breaks: usize) -> (String, Vendor) {
    let vendor = Vendor { bytes: bytes.into(), breaks: Arc::new(AtomicUsize::new(breaks)), ranges: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/{file}", get(serve)).with_state(vendor.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, vendor)
}
