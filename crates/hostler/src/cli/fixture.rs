//! Fixed things for the tests of what is printed.

use hostler_model::{Timestamp, event::Entry, image::ImageInfo, node::Node, snapshot::Snapshot, task::Task, vm::Vm};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// 2026-01-01T00:01:00Z, a minute after everything happened.
pub const NOW: Timestamp = Timestamp::from_micros(1_767_225_660_000_000);
const THEN: &str = "2026-01-01T00:00:00Z";
const TENANT: &str = "00000000-0000-7000-8000-000000000001";
const NODE: &str = "0190f1f0-0000-7000-8000-00000000000a";
const VM: &str = "0190f1f0-0000-7000-8000-00000000000b";

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the fixture is as the model says")
}

pub fn task(state: &str) -> Task {
    read(json!({
        "id": "0190f1f0-0000-7000-8000-000000000001", "tenant": TENANT, "kind": "echo", "target": {},
        "params": {"message": "hi", "delay_ms": 0}, "state": state, "fence": {"store_epoch": 1, "attempt": 0},
        "max_attempts": 3, "created_by": TENANT, "created_at": THEN, "not_before": THEN,
        "queue_deadline": "2026-01-01T00:15:00Z",
    }))
}

pub fn failed_task() -> Task {
    Task {
        kind: "vm.create".parse().unwrap(),
        target: read(json!({"vm": VM})),
        node: Some(NODE.parse().unwrap()),
        error: Some(read(json!({"code": "GUEST_NOT_READY", "detail": "the guest did not answer within 120 s"}))),
        phases: read(json!([{"phase": "image", "ms": 12.0}, {"phase": "boot", "ms": 120_003.5}])),
        started_at: Some(read(json!("2026-01-01T00:00:01Z"))),
        finished_at: Some(read(json!("2026-01-01T00:00:04.5Z"))),
        ..task("failed")
    }
}

pub fn vm(name: &str, state: &str) -> Vm {
    read(json!({
        "id": VM, "tenant": TENANT, "name": name, "state": state, "ready": state == "running", "node": NODE, "epoch": 1,
        "generation": 1, "observed_generation": 1, "created_at": THEN, "updated_at": THEN,
        "spec": {
            "image": "tiny", "image_digest": "ab".repeat(32), "vcpus": 1, "memory_mib": 256, "disk_gib": 1,
            "ready_timeout_seconds": 120, "labels": {"tier": "web", "app": "shop"},
        },
    }))
}

pub fn snapshot(name: &str, memory: bool) -> Snapshot {
    read(json!({
        "id": "0190f1f0-0000-7000-8000-00000000000d", "tenant": TENANT, "vm": VM, "name": name, "state": "ready",
        "memory": memory, "written": {"disk_bytes": 3_000_000, "memory_bytes": if memory { 98_000_000 } else { 0 }},
        "node": NODE, "spec": vm("web-1", "running").spec, "created_at": THEN, "updated_at": THEN,
    }))
}

pub fn node() -> Node {
    read(json!({
        "id": NODE, "name": "local", "state": "ready", "freshness": "fresh", "last_seen": THEN, "created_at": THEN,
        "facts": {
            "hypervisor": "QEMU 10.0.2", "acceleration": "tcg", "acceleration_reason": "the processor reports neither vmx nor svm",
            "kernel": "6.12.0", "agent_version": "0.1.0", "capacity": {"vcpus": 2, "memory_mib": 8192, "disk_gib": 50, "vms": 100},
            "capabilities": ["vm.*", "echo"], "images": ["ab".repeat(32)],
        },
        "book": {"used": {"vcpus": 1, "memory_mib": 256, "disk_gib": 1, "vms": 1}, "held": {"memory_mib": 1}},
        "schedulable": {"vcpus": 8, "memory_mib": 8192, "disk_gib": 50, "vms": 100},
    }))
}

pub fn image() -> ImageInfo {
    read(json!({
        "digest": "ab".repeat(32), "tenant": TENANT, "created_at": THEN,
        "names": ["latest", "tiny"], "format": "raw", "size": 21_000_000, "vms": 2, "nodes": ["local"],
        "manifest": {
            "name": "tiny", "arch": "x86_64", "cmdline": "console=ttyS0", "ready": "guest_agent",
            "defaults": {"vcpus": 1, "memory_mib": 256, "disk_gib": 1},
            "files": {
                "kernel": {"sha256": "cd".repeat(32), "size": 12_000_000},
                "rootfs": {"sha256": "ef".repeat(32), "size": 9_000_000, "format": "raw"},
            },
        },
    }))
}

pub fn entry() -> Entry {
    read(json!({
        "seq": 42, "at": THEN, "class": "event", "kind": "task.queued", "noun": "task",
        "subject": "0190f1f0-0000-7000-8000-000000000001", "data": {"kind": "echo"},
    }))
}
