//! Images from outside: by upload, address and file; what is refused, what is stopped, what is left.

use std::{
    path::{Path, PathBuf},
    process::Command,
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
use hostler_model::{TenantId, Timestamp, catalogue::KnownImage, event::Actor, image::Sha256Hex, kind::Role};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::harness::{Answer, World};

const MIB: usize = 1 << 20;

/// Disks that qemu-img makes of one raw disk.
struct Disks(tempfile::TempDir);

impl Disks {
    fn new() -> Disks {
        let disks = Disks(tempfile::tempdir().unwrap());
        let mut raw = vec![0u8; 3 * MIB];
        raw[MIB..2 * MIB].fill(0x5a);
        std::fs::write(disks.path("raw"), raw).unwrap();
        disks
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn make(&self, format: &str) -> Vec<u8> {
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
    fn pack(&self, name: &str, packing: &str) -> Vec<u8> {
        let bytes = std::fs::read(self.path(name)).unwrap();
        if packing == "zst" {
            return zstd::stream::encode_all(&bytes[..], 3).unwrap();
        }
        let program = if packing == "gz" { "gzip" } else { packing };
        let packed = Command::new(program).arg("-c").arg(self.path(name)).output();
        packed.unwrap_or_else(|error| panic!("{program} is not installed: {error}")).stdout
    }
}

fn qemu_img(words: &[&str], paths: &[&Path]) {
    let output = Command::new("qemu-img").args(words).args(paths).output().expect("qemu-img is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn upload(world: &World, name: &str, query: &str, bytes: Vec<u8>) -> Answer {
    let path = format!("/api/v1/images/{name}/content{query}");
    let call = world.call(Method::PUT, &path).header("prefer", "wait=60");
    call.body("application/octet-stream", bytes).send().await
}

/// The import that an answer is about, which must be over.
fn import(answer: &Answer) -> Value {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["import"].clone()
}

async fn import_url(world: &World, name: &str, body: Value) -> Answer {
    world.post(&format!("/api/v1/images/{name}/import"), body).header("prefer", "wait=60").send().await
}

/// Every file in the folder of blobs that is no blob.
fn partials(world: &World) -> usize {
    let entries = std::fs::read_dir(world.folder().join("blobs")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count()
}

#[tokio::test]
async fn a_disk_in_any_format_becomes_an_image() {
    let (world, disks) = (World::new().await, Disks::new());
    for format in ["qcow2", "raw", "vmdk", "vhdx", "raw_gz", "raw_xz", "raw_zst"] {
        let bytes = disks.make(format);
        let (sha256, sent) = (Sha256Hex::of(&bytes), bytes.len());
        let query = if format == "raw" { "?format=raw".to_owned() } else { format!("?sha256={sha256}") };
        let import = import(&upload(&world, format, &query, bytes).await);
        assert_eq!(import["state"], "succeeded", "{format}: {import}");
        assert_eq!(import["progress"]["bytes"], sent, "{format}");
        let image = world.get(&format!("/api/v1/images/{format}")).send().await.json();
        assert_eq!(image["digest"], import["image"], "{format}");
        assert_eq!((image["format"].as_str(), image["vms"].as_i64()), (Some("qcow2"), Some(0)), "{image}");
        let file = &image["manifest"]["files"]["disk"];
        assert_eq!((&file["format"], &image["size"]), (&json!("qcow2"), &file["size"]));
        let blob = world.folder().join("blobs").join(file["sha256"].as_str().unwrap());
        qemu_img(&["compare", "-f", "qcow2", "-F", "raw"], &[&blob, &disks.path("raw")]);
        // What came as qcow2 is kept as its sender knows it.
        assert!(format != "qcow2" || file["sha256"] == sha256.as_str());
    }
    assert_eq!(partials(&world), 0);
    let listed = world.get("/api/v1/imports").send().await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn a_packed_disk_is_what_is_in_it() {
    let (world, disks) = (World::new().await, Disks::new());
    disks.make("qcow2");
    for packing in ["gz", "xz", "zst"] {
        let bytes = disks.pack("qcow2", packing);
        for (name, query) in [("told", ""), ("said", "?format=qcow2")] {
            let import = import(&upload(&world, &format!("{name}-{packing}"), query, bytes.clone()).await);
            assert_eq!(import["state"], "succeeded", "{packing} {query}: {import}");
        }
        let (whole, broken) = (bytes.clone(), bytes[..bytes.len() / 2].to_vec());
        let flipped: Vec<u8> =
            whole.iter().enumerate().map(|(at, b)| if at == whole.len() / 2 { !b } else { *b }).collect();
        for (bytes, query, word) in [
            (broken, "", "unpacked"),
            (flipped, "", "unpacked"),
            (whole.clone(), "?format=vmdk", "vmdk"),
            (whole, &*format!("?format=raw_{packing}"), "raw"),
        ] {
            let import = import(&upload(&world, "bad", query, bytes).await);
            assert_eq!(import["error"]["code"], "VALIDATION_ERROR", "{packing} {query}: {import}");
            assert!(import["error"]["detail"].as_str().unwrap().contains(word), "{packing} {query}: {import}");
        }
    }
    let twice = zstd::stream::encode_all(&disks.pack("qcow2", "gz")[..], 3).unwrap();
    let import = import(&upload(&world, "bad", "", twice).await);
    assert!(import["error"]["detail"].as_str().unwrap().contains("once more"), "{import}");
    assert_eq!(partials(&world), 0);
}

#[tokio::test]
async fn what_unpacks_to_more_than_an_image_may_have_is_refused() {
    let (world, disks) = (World::limited(1 << 20).await, Disks::new());
    for packing in ["gz", "xz", "zst"] {
        let bytes = disks.pack("raw", packing);
        assert!(bytes.len() < 64 << 10, "a small file of {}", bytes.len());
        let import = import(&upload(&world, "bomb", "", bytes).await);
        assert_eq!(import["error"]["code"], "BODY_TOO_LARGE", "{packing}: {import}");
    }
    assert_eq!(std::fs::read_dir(world.folder().join("blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_that_is_not_safe_or_not_what_was_said_leaves_nothing() {
    let (world, disks) = (World::new().await, Disks::new());
    let good = disks.make("qcow2");
    let backed = disks.path("backed");
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd"], &[&backed]);
    let mut huge = good.clone();
    huge[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
    for (bytes, query, code, word) in [
        (std::fs::read(&backed).unwrap(), "", "IMAGE_UNSAFE", "backing file"),
        (huge, "", "IMAGE_UNSAFE", "would have"),
        (good.clone(), "?format=raw", "VALIDATION_ERROR", "qcow2"),
        (vec![7; 4096], "", "VALIDATION_ERROR", "raw"),
        (vec![0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 5], "", "VALIDATION_ERROR", "unpacked"),
    ] {
        let import = import(&upload(&world, "bad", query, bytes).await);
        assert_eq!((&import["state"], &import["error"]["code"]), (&json!("failed"), &json!(code)), "{import}");
        assert!(import["error"]["detail"].as_str().unwrap().contains(word), "{import}");
    }
    for (name, query, code) in [
        ("bad", format!("?sha256={}", Sha256Hex::of(b"other")), "VALIDATION_ERROR"),
        ("bad", "?sha256=xyz".to_owned(), "VALIDATION_ERROR"),
        ("bad", "?format=iso".to_owned(), "VALIDATION_ERROR"),
        ("bad", "?colour=red".to_owned(), "VALIDATION_ERROR"),
        ("bad", "?vcpus=0".to_owned(), "VALIDATION_ERROR"),
        ("b%20d", String::new(), "VALIDATION_ERROR"),
        ("..", String::new(), "VALIDATION_ERROR"),
    ] {
        let answer = upload(&world, name, &query, good.clone()).await;
        assert_eq!(answer.code(), code, "{name}{query}");
    }
    assert_eq!(world.get("/api/v1/images/bad").send().await.code(), "IMAGE_NOT_FOUND");
    let blobs = std::fs::read_dir(world.folder().join("blobs")).unwrap().count();
    assert_eq!(blobs, 0);
}

/// A vendor's server: what it serves, and how often its connection breaks.
#[derive(Clone)]
struct Vendor {
    bytes: Bytes,
    breaks: Arc<AtomicUsize>,
    ranges: Arc<AtomicUsize>,
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

async fn vendor(bytes: Vec<u8>, breaks: usize) -> (String, Vendor) {
    let vendor = Vendor { bytes: bytes.into(), breaks: Arc::new(AtomicUsize::new(breaks)), ranges: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/{file}", get(serve)).with_state(vendor.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, vendor)
}

#[tokio::test]
async fn an_address_is_fetched_and_goes_on_where_it_broke() {
    let (world, disks) = (World::new().await, Disks::new());
    let bytes = disks.make("qcow2");
    let (url, vendor) = vendor(bytes.clone(), 3).await;
    let sha256 = Sha256Hex::of(&bytes);
    let body = json!({"url": format!("{url}/away?token=secret"), "sha256": sha256, "image": {"memory_mib": 512}});
    let import = import(&import_url(&world, "web", body).await);
    assert_eq!(
        (&import["state"], &import["progress"]["bytes"]),
        (&json!("succeeded"), &json!(bytes.len())),
        "{import}"
    );
    assert_eq!(vendor.ranges.load(Ordering::SeqCst), 3);
    assert!(!import.to_string().contains("secret"));
    let image = world.get("/api/v1/images/web").send().await.json();
    assert_eq!(image["manifest"]["files"]["disk"]["sha256"], sha256.as_str());
    assert_eq!(image["manifest"]["defaults"], json!({"vcpus": 1, "memory_mib": 512, "disk_gib": 10}));
    let other = json!({"url": format!("{url}/disk.qcow2"), "sha256": Sha256Hex::of(b"other")});
    let failed = crate::import::import(&import_url(&world, "other", other).await);
    assert_eq!((&failed["state"], &failed["error"]["code"]), (&json!("failed"), &json!("VALIDATION_ERROR")));
    assert_eq!(partials(&world), 0);
}

#[tokio::test]
async fn a_known_image_is_compared_with_its_vendors_list_or_its_pin() {
    let disks = Disks::new();
    let bytes = disks.make("qcow2");
    let (url, _) = vendor(bytes.clone(), 0).await;
    let known = |name: &str, list: &str| KnownImage {
        name: name.into(),
        url: format!("{url}/disk.qcow2"),
        checksums: Some(format!("{url}/{list}")),
        aliases: vec![format!("{name}.latest")],
        ..KnownImage::default()
    };
    let pinned = |name: &str, bytes: &[u8]| KnownImage {
        checksums: None,
        sha256: Some(Sha256Hex::of(bytes)),
        ..known(name, "")
    };
    let world = World::knowing(vec![
        known("ubuntu", "SHA256SUMS"),
        known("rocky", "CHECKSUM"),
        known("debian", "SHA512SUMS"),
        known("nobody", "NONE"),
        known("gone", "away"),
        pinned("own", &bytes),
        pinned("other", b"other"),
    ])
    .await;
    for name in ["ubuntu", "rocky", "debian", "own"] {
        let import = import(&import_url(&world, name, json!({"catalogue": format!("{name}.latest")})).await);
        assert_eq!(import["state"], "succeeded", "{name}: {import}");
        let image = world.get(&format!("/api/v1/images/{name}.latest")).send().await.json();
        assert_eq!(image["manifest"]["ready"], "cloud_init");
        assert_eq!(image["manifest"]["files"]["disk"]["sha256"], Sha256Hex::of(&bytes).as_str());
    }
    for (name, code) in [("nobody", "IMPORT_FAILED"), ("gone", "IMPORT_FAILED"), ("other", "VALIDATION_ERROR")] {
        let import = import(&import_url(&world, name, json!({"catalogue": name})).await);
        assert_eq!(import["error"]["code"], code, "{name}: {import}");
        assert_eq!(world.get(&format!("/api/v1/images/{name}")).send().await.code(), "IMAGE_NOT_FOUND");
    }
    assert_eq!(import_url(&world, "x", json!({"catalogue": "no-such"})).await.code(), "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn an_import_asked_for_again_under_its_key_is_the_first_one() {
    let (world, disks) = (World::new().await, Disks::new());
    let bytes = disks.make("qcow2");
    let (url, _) = vendor(bytes.clone(), 0).await;
    let ask = |name: &str, body: Value| {
        world.post(&format!("/api/v1/images/{name}/import"), body).header("idempotency-key", "k-1").send()
    };
    let body = json!({"url": format!("{url}/disk.qcow2")});
    let first = ask("web", body.clone()).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (StatusCode::ACCEPTED, ""), "{}", first.text());
    let again = ask("web", body.clone()).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (StatusCode::ACCEPTED, "true"));
    assert_eq!((&again.bytes, again.header("location")), (&first.bytes, first.header("location")));
    assert_eq!(ask("web", json!({"url": format!("{url}/away")})).await.code(), "IDEMPOTENCY_MISMATCH");
    let other = ask("other", body.clone()).await;
    assert_eq!(other.header("idempotency-replayed"), "", "a key belongs to its route");
    let waited = world.post("/api/v1/images/web/import", body).header("idempotency-key", "k-1");
    let ended = import(&waited.header("prefer", "wait=60").send().await);
    assert_eq!((&ended["id"], &ended["state"]), (&first.json()["import"]["id"], &json!("succeeded")));
    let send = |query: &str, key: &str, bytes: Vec<u8>| {
        let call = world.call(Method::PUT, &format!("/api/v1/images/sent/content{query}"));
        call.header("idempotency-key", key).header("prefer", "wait=60").body("application/octet-stream", bytes).send()
    };
    let said = format!("?vcpus=2&sha256={}", Sha256Hex::of(&bytes));
    for (key, query) in [("k-2", "?vcpus=2"), ("k-3", &*said)] {
        let first = import(&send(query, key, bytes.clone()).await);
        assert_eq!(first["state"], "succeeded", "{first}");
        assert_eq!(import(&send(query, key, bytes.clone()).await)["id"], first["id"]);
        assert_eq!(
            send(&query.replace("vcpus=2", "vcpus=3"), key, bytes.clone()).await.code(),
            "IDEMPOTENCY_MISMATCH",
            "{query}"
        );
    }
    // What the bytes will be was said: they need not come.
    assert_eq!(send(&said, "k-3", Vec::new()).await.header("idempotency-replayed"), "true");
    assert_eq!(send("?vcpus=2", "k-2", disks.make("vmdk")).await.code(), "IDEMPOTENCY_MISMATCH");
    assert_eq!(world.get("/api/v1/imports").send().await.json()["items"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_dry_import_is_judged_and_leaves_nothing() {
    let (world, disks) = (World::new().await, Disks::new());
    let root = world.folder().join("import");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("good"), disks.make("qcow2")).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd"], &[&root.join("backed")]);
    let before = world.store.log_head().await.unwrap();
    let dry = |name: &str, body: Value| world.post(&format!("/api/v1/images/{name}/import?dry_run=true"), body).send();
    let file = |name: &str| json!({"file": root.join(name)});
    let answer = dry("web", file("good")).await;
    assert_eq!((answer.status, &answer.json()["import"]["name"]), (StatusCode::OK, &json!("web")), "{}", answer.text());
    assert_eq!(dry("web", json!({"url": "http://127.0.0.1:9/disk.qcow2"})).await.status, StatusCode::OK);
    let absent = json!({"parts": {"disk": {"blob": Sha256Hex::of(b"absent")}}});
    let wrong = json!({"file": root.join("good"), "format": "vmdk"});
    for (body, code) in [
        (file("backed"), "IMAGE_UNSAFE"),
        (file("none"), "SOURCE_FORBIDDEN"),
        (wrong, "VALIDATION_ERROR"),
        (json!({"url": "http://10.0.0.1/x"}), "SOURCE_FORBIDDEN"),
        (absent, "NOT_FOUND"),
        (json!({}), "VALIDATION_ERROR"),
    ] {
        assert_eq!(dry("web", body.clone()).await.code(), code, "{body}");
    }
    let put = |query: &str, bytes: Vec<u8>| {
        let call = world.call(Method::PUT, &format!("/api/v1/images/web/content?dry_run=true{query}"));
        call.header("content-length", &bytes.len().to_string()).body("application/octet-stream", bytes).send()
    };
    assert_eq!(put("", disks.make("qcow2")).await.status, StatusCode::OK);
    assert_eq!(put("&vcpus=0", Vec::new()).await.code(), "VALIDATION_ERROR");
    assert_eq!(world.get("/api/v1/imports").send().await.json()["items"], json!([]));
    assert_eq!(world.get("/api/v1/images").send().await.json()["items"], json!([]));
    assert!(!world.folder().join("blobs").exists());
    assert_eq!(world.store.log_head().await.unwrap(), before);
}

#[tokio::test]
async fn an_address_that_only_the_server_reaches_is_refused() {
    let world = World::new().await;
    let (url, _) = vendor(vec![0; 10], 0).await;
    for (at, code) in [
        ("http://10.0.0.1/x".to_owned(), "SOURCE_FORBIDDEN"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), "SOURCE_FORBIDDEN"),
        ("http://[::1]/x".to_owned(), "SOURCE_FORBIDDEN"),
        ("http://0x0a000001/x".to_owned(), "SOURCE_FORBIDDEN"),
        (format!("{url}/inside"), "SOURCE_FORBIDDEN"),
        ("http://no-such-host.invalid/x".to_owned(), "IMPORT_FAILED"),
    ] {
        let import = import(&import_url(&world, "x", json!({"url": at})).await);
        assert_eq!((&import["state"], &import["error"]["code"]), (&json!("failed"), &json!(code)), "{at}: {import}");
    }
    for bad in [json!({"url": "file:///etc/passwd"}), json!({"url": "http://u:p@h/x"}), json!({}), json!({"url": 1})] {
        assert_eq!(import_url(&world, "x", bad.clone()).await.code(), "VALIDATION_ERROR", "{bad}");
    }
}

#[tokio::test]
async fn files_of_the_server_are_for_its_administrators_and_under_its_roots_only() {
    let (world, disks) = (World::new().await, Disks::new());
    let root = world.folder().join("import");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("disk.qcow2"), disks.make("qcow2")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
    let at = |name: &str| json!({"file": root.join(name)});
    assert_eq!(import(&import_url(&world, "file", at("disk.qcow2")).await)["state"], "succeeded");
    for outside in [at("link"), at("../hostler.db"), json!({"file": "/etc/passwd"}), at("none")] {
        assert_eq!(import_url(&world, "file", outside.clone()).await.code(), "SOURCE_FORBIDDEN", "{outside}");
    }
    let tenant = world.post("/api/v1/images/file/import", at("disk.qcow2")).bearer(world.token(Role::TenantAdmin));
    assert_eq!(tenant.send().await.code(), "FORBIDDEN");
}

#[tokio::test]
async fn parts_make_a_set_that_boots_a_kernel() {
    let (world, disks) = (World::new().await, Disks::new());
    let root = world.folder().join("import");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("rootfs"), disks.make("raw")).unwrap();
    let kernel = Sha256Hex::of(b"a kernel");
    let put = world.call(Method::PUT, &format!("/api/v1/blobs/{kernel}"));
    assert!(put.body("application/octet-stream", "a kernel").send().await.status.is_success());
    let body = json!({
        "parts": {"kernel": {"blob": kernel}, "rootfs": {"file": root.join("rootfs"), "format": "raw"}},
        "image": {"cmdline": "console=ttyS0 root=/dev/vda"},
    });
    assert_eq!(import(&import_url(&world, "set", body).await)["state"], "succeeded");
    let image = world.get("/api/v1/images/set").send().await.json();
    assert_eq!(image["manifest"]["files"]["kernel"]["sha256"], kernel.as_str());
    assert_eq!(image["manifest"]["files"]["rootfs"]["format"], "qcow2");
    let lone = json!({"parts": {"kernel": {"blob": kernel}}});
    assert_eq!(import(&import_url(&world, "lone", lone).await)["state"], "failed");
}

#[tokio::test]
async fn an_import_is_stopped_and_one_without_a_server_fails() {
    let world = World::new().await;
    let (url, _) = vendor(Vec::new(), 0).await;
    let begin = async |name: &str| {
        let answer = world.post(&format!("/api/v1/images/{name}/import"), json!({"url": format!("{url}/slow")}));
        let answer = answer.send().await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        answer.header("location").to_owned()
    };
    let ended = async |at: &str| loop {
        let import = world.get(at).send().await.json();
        if import["state"] != "running" {
            return import;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let at = begin("stopped").await;
    while world.get(&at).send().await.json()["progress"]["bytes"].as_u64().unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.post(&format!("{at}/cancel"), json!({})).send().await.status, StatusCode::OK);
    assert_eq!(ended(&at).await["state"], "cancelled");
    let at = begin("closed").await;
    world.server.close();
    let import = ended(&at).await;
    assert_eq!((&import["state"], &import["error"]["code"]), (&json!("failed"), &json!("IMPORT_FAILED")));
    while partials(&world) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn names_stand_for_images_until_they_are_deleted() {
    let (world, _agent) = World::ready().await;
    let put = |name: &str, image: &str| {
        world.call(Method::PUT, &format!("/api/v1/images/{name}")).json(&json!({"image": image}))
    };
    let alias = put("Rocky-10-GenericCloud-Base.latest", "tiny").send().await;
    assert_eq!(alias.json()["names"], json!(["Rocky-10-GenericCloud-Base.latest", "tiny"]));
    assert_eq!(put("other", "no-such").send().await.code(), "IMAGE_NOT_FOUND");
    assert_eq!(put("..", "tiny").send().await.code(), "VALIDATION_ERROR");
    assert_eq!(put(&"a".repeat(64), "tiny").send().await.code(), "VALIDATION_ERROR");
    let made = world.post("/api/v1/vms", json!({"name": "web", "image": "Rocky-10-GenericCloud-Base.latest"}));
    let digest = made.send().await.json()["vm"]["spec"]["image_digest"].clone();
    let again = world.post("/api/v1/vms", json!({"name": "web-2", "image": digest})).send().await;
    assert_eq!(again.json()["vm"]["spec"]["image_digest"], digest, "{}", again.text());
    let delete = |name: &str| world.call(Method::DELETE, &format!("/api/v1/images/{name}")).send();
    assert_eq!(delete("tiny").await.json()["image"]["names"], json!(["Rocky-10-GenericCloud-Base.latest"]));
    assert_eq!(world.get("/api/v1/images/tiny").send().await.code(), "IMAGE_NOT_FOUND");
    let info = world.get(&format!("/api/v1/images/{}", digest.as_str().unwrap())).send().await.json();
    assert_eq!((&info["digest"], &info["vms"]), (&digest, &json!(2)));
    let refused = delete("Rocky-10-GenericCloud-Base.latest").await;
    assert_eq!(refused.code(), "IMAGE_IN_USE");
    assert!(refused.text().contains("web"), "{}", refused.text());
}

#[tokio::test]
async fn an_image_is_brought_to_nodes_and_taken_from_them() {
    let (world, agent) = World::ready().await;
    let pull = |body: Value| world.post("/api/v1/images/tiny/pull", body).send();
    let pulled = pull(json!({})).await;
    assert_eq!(pulled.status, StatusCode::ACCEPTED, "{}", pulled.text());
    let task = pulled.json()["tasks"][0].clone();
    assert_eq!((&task["kind"], &task["node"]), (&json!("image.pull"), &json!(agent.identity.node)));
    let leased = agent.poll(&world, "max=5&wait_ms=0").await.pop().unwrap();
    assert_eq!(leased.params["image_digest"], pulled.json()["image"]["digest"]);
    agent.finish(&world, &leased, json!({"fetched": true, "bytes": 19})).await;
    let ended = world.get(&format!("/api/v1/tasks/{}", leased.sub)).send().await.json();
    assert_eq!((&ended["state"], &ended["output"]["bytes"]), (&json!("succeeded"), &json!(19)));
    assert_eq!(pull(json!({"node": "no-such"})).await.code(), "NODE_NOT_FOUND");
    assert_eq!(pull(json!({"nodes": "node-1"})).await.code(), "VALIDATION_ERROR");
    assert_eq!(world.post("/api/v1/images/none/pull", json!({})).send().await.code(), "IMAGE_NOT_FOUND");
    let evicted = world.call(Method::DELETE, "/api/v1/images/tiny?node=node-1").send().await;
    assert_eq!((evicted.status, &evicted.json()["tasks"][0]["kind"]), (StatusCode::ACCEPTED, &json!("image.delete")));
    assert!(world.get("/api/v1/images/tiny").send().await.status.is_success(), "only the node's copy goes");
    for kind in ["image.pull", "image.delete"] {
        let body = |image: &str| json!({"kind": kind, "params": {"image": image}, "target": {"node": "node-1"}});
        assert_eq!(world.post("/api/v1/tasks", body("none")).send().await.code(), "IMAGE_NOT_FOUND");
        assert_eq!(world.post("/api/v1/tasks", body("tiny")).send().await.status, StatusCode::ACCEPTED);
        // Another tenant's image is none, also by its digest.
        let digest = pulled.json()["image"]["digest"].as_str().unwrap().to_owned();
        let foreign = world.post("/api/v1/tasks", body(&digest)).bearer(&world.foreign);
        assert_eq!(foreign.send().await.code(), "IMAGE_NOT_FOUND");
    }
}

#[tokio::test]
async fn when_nodes_fetch_and_remove_an_image_can_be_said() {
    let (world, agent) = World::ready().await;
    let pull = |query: &str| world.post(&format!("/api/v1/images/tiny/pull?{query}"), json!({})).send();
    let pulled = pull("priority=7&delay_seconds=3600&retry_attempts=2&retry_backoff=linear&timeout_seconds=60").await;
    let task = pulled.json()["tasks"][0].clone();
    let at = |field: &str| serde_json::from_value::<Timestamp>(task[field].clone()).unwrap();
    assert!(at("not_before") >= at("created_at").plus(Duration::from_secs(3599)), "{task}");
    assert_eq!((&task["priority"], &task["timeout_seconds"], &task["max_attempts"]), (&json!(7), &json!(60), &json!(2)));
    assert_eq!(task["retry"]["backoff"], "linear");
    assert!(agent.poll(&world, "max=5&wait_ms=0").await.is_empty(), "its time has not come");
    for (query, field) in [("priority=101", "priority"), ("timeout_seconds=0", "timeout_seconds"), ("dry_run=true", "dry_run")] {
        let refused = pull(query).await;
        assert_eq!(refused.code(), "VALIDATION_ERROR", "{query}");
        assert!(refused.text().contains(field), "{query}: {}", refused.text());
    }
    let delete = |query: &str| world.call(Method::DELETE, &format!("/api/v1/images/tiny?{query}")).send();
    let evicted = delete("node=node-1&priority=-3").await.json()["tasks"][0].clone();
    assert_eq!((&evicted["kind"], &evicted["priority"]), (&json!("image.delete"), &json!(-3)));
    // What is wrong with the schedule is said before anything is deleted.
    assert_eq!(delete("queue_timeout_seconds=0").await.code(), "VALIDATION_ERROR");
    assert!(world.get("/api/v1/images/tiny").send().await.status.is_success());
    assert!(delete("queue_timeout_seconds=60").await.status.is_success());
    assert_eq!(world.get("/api/v1/images/tiny").send().await.code(), "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn a_node_goes_on_where_its_download_broke() {
    let (world, agent) = World::ready().await;
    let blob = format!("blobs/{}", Sha256Hex::of(b"a root disk"));
    for (range, status, bytes) in [
        ("bytes=2-", StatusCode::PARTIAL_CONTENT, &b"root disk"[..]),
        ("bytes=0-", StatusCode::OK, b"a root disk"),
        ("bytes=11-", StatusCode::OK, b"a root disk"),
        ("bytes=-2", StatusCode::OK, b"a root disk"),
        ("lines=2-", StatusCode::OK, b"a root disk"),
    ] {
        let answer = agent.call(&world, Method::GET, &blob).header("range", range).send().await;
        assert_eq!((answer.status, &answer.bytes[..]), (status, bytes), "{range}");
    }
    let part = agent.call(&world, Method::GET, &blob).header("range", "bytes=2-").send().await;
    assert_eq!(part.header("content-range"), "bytes 2-10/11");
}

#[tokio::test]
async fn an_image_that_nobody_needs_goes_with_its_bytes() {
    let (world, disks) = (World::new().await, Disks::new());
    let bytes = disks.make("qcow2");
    for name in ["one", "two"] {
        assert_eq!(import(&upload(&world, name, "", bytes.clone()).await)["state"], "succeeded");
    }
    let blob = world.folder().join("blobs").join(Sha256Hex::of(&bytes).as_str());
    let delete = |name: &str| world.call(Method::DELETE, &format!("/api/v1/images/{name}")).send();
    assert!(delete("one").await.status.is_success());
    assert!(blob.exists(), "the other image needs it");
    assert!(delete("two").await.status.is_success());
    assert!(!blob.exists());
}

#[tokio::test]
async fn a_tenants_images_have_a_limit() {
    let (world, disks) = (World::new().await, Disks::new());
    world.store.limit_images(TenantId::DEFAULT, 0, Actor::system()).await.unwrap();
    let answer = upload(&world, "x", "", disks.make("qcow2")).await;
    assert_eq!(answer.code(), "QUOTA_EXCEEDED");
    let sha256 = Sha256Hex::of(b"a kernel");
    let put = world.call(Method::PUT, &format!("/api/v1/blobs/{sha256}")).body("application/octet-stream", "a kernel");
    assert_eq!(put.send().await.code(), "QUOTA_EXCEEDED");
    let fetched = import_url(&world, "x", json!({"url": "http://127.0.0.1:9/x"})).await;
    assert_eq!(fetched.code(), "QUOTA_EXCEEDED");
}

#[tokio::test]
async fn an_image_that_is_refused_leaves_none_of_its_bytes() {
    let (world, disks) = (World::new().await, Disks::new());
    let large = disks.path("large");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&large, Path::new("2G")]);
    let import = import(&upload(&world, "large", "?disk_gib=1", std::fs::read(&large).unwrap()).await);
    assert_eq!(import["error"]["code"], "VALIDATION_ERROR", "{import}");
    assert_eq!(std::fs::read_dir(world.folder().join("blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn slow_senders_hold_nobody_up_and_a_tenant_has_few_imports_at_once() {
    let (world, disks) = (World::new().await, Disks::new());
    let (url, _) = vendor(Vec::new(), 0).await;
    let begin = async |name: &str| {
        let slow = world.post(&format!("/api/v1/images/{name}/import"), json!({"url": format!("{url}/slow")}));
        slow.send().await
    };
    for name in ["a", "b", "c"] {
        assert_eq!(begin(name).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(import(&upload(&world, "fast", "", disks.make("qcow2")).await)["state"], "succeeded");
    assert_eq!(begin("d").await.status, StatusCode::ACCEPTED);
    assert_eq!(begin("e").await.code(), "QUOTA_EXCEEDED");
    assert_eq!(upload(&world, "f", "", disks.make("qcow2")).await.code(), "QUOTA_EXCEEDED");
}

#[tokio::test]
async fn the_catalogue_is_told() {
    let world = World::new().await;
    let known = world.get("/api/v1/catalogue").send().await.json();
    let names: Vec<&str> =
        known["items"].as_array().unwrap().iter().map(|known| known["name"].as_str().unwrap()).collect();
    for name in
        ["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04", "rocky-9", "rocky-10", "almalinux-9", "almalinux-10"]
    {
        assert!(names.contains(&name), "{name}");
    }
}
