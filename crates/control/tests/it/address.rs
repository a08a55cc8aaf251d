//! Images from addresses: fetched, compared with what their vendor lists, refused where only the server reaches.

use std::sync::atomic::Ordering;

use hostler_model::{catalogue::KnownImage, image::Sha256Hex};
use serde_json::json;

use crate::{
    disk::{Disks, import, import_url, partials},
    harness::World,
    vendor::vendor,
};

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
    let failed = crate::disk::import(&import_url(&world, "other", other).await);
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
