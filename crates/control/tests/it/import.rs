//! Images from outside: by upload and file; what is refused, what is stopped, what is left.

use std::{path::Path, time::Duration};

use hostler_model::{
    TenantId,
    image::Sha256Hex,
    role::Role,
    tenant::{Limits, UNLIMITED},
};
use hostler_store::EditTenant;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    disk::{Disks, import, import_url, partials, qemu_img, upload},
    harness::World,
    vendor::vendor,
};

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
async fn a_tenants_images_have_a_limit() {
    let (world, disks) = (World::new().await, Disks::new());
    let none = Limits { images_gib: 0, ..UNLIMITED };
    world.store.edit_tenant(EditTenant::of_system(TenantId::DEFAULT, none.into())).await.unwrap().unwrap();
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
