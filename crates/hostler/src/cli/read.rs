//! What people write in flags, and what it means.

use std::{str::FromStr, time::Duration};

use hostler_model::{
    Code, Refusal,
    forward::Protocol,
    kind::KindName,
    patch::Patch,
    snapshot::SnapshotState,
    task::TaskState,
    unit::{parse_gib, parse_mib},
    vm::VmState,
};
use serde::de::{DeserializeOwned, IntoDeserializer, value};
use serde_json::Value;

use crate::nearest::did_you_mean;

fn words(refusal: Refusal) -> String {
    refusal.detail
}

/// `256M`, `2GiB`, or a number of MiB.
pub fn memory(text: &str) -> Result<i64, String> {
    parse_mib(text).map_err(words)
}

/// `10G`, or a number of GiB.
pub fn disk(text: &str) -> Result<i64, String> {
    parse_gib(text).map_err(words)
}

/// A name, a kind, an id: whatever the model reads.
pub fn model<T: FromStr<Err = Refusal>>(text: &str) -> Result<T, String> {
    text.parse().map_err(words)
}

/// A kind of task.
pub fn kind(text: &str) -> Result<KindName, String> {
    text.parse().map_err(|refusal: Refusal| {
        let known: Vec<&str> = KindName::ALL.iter().map(|kind| kind.as_str()).collect();
        match did_you_mean(text, &known) {
            Some(meant) => format!("there is no such kind of task; {meant}"),
            None => refusal.detail,
        }
    })
}

/// `10m`, `1h30m`, `500ms`, or a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|time| Duration::try_from(time).ok())
        .ok_or_else(|| "a time is written like 30s, 10m or 1h30m".to_owned())
}

/// `8080`, or `5353/udp`.
pub fn port(text: &str) -> Result<(u16, Protocol), String> {
    let (port, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((port, "tcp")) => (port, Protocol::Tcp),
        Some((port, "udp")) => (port, Protocol::Udp),
        Some(_) => ("", Protocol::Tcp),
    };
    port.parse().map(|port| (port, protocol)).map_err(|_| "write the host's port, such as 8080 or 5353/udp".to_owned())
}

/// A time to live, or `never`.
pub fn ttl(text: &str) -> Result<Patch<u64>, String> {
    if text == "never" {
        return Ok(Patch::Remove);
    }
    duration(text).map(|time| Patch::Set(time.as_secs().max(1))).map_err(|words| format!("{words}, or never"))
}

/// A whole number of seconds, as the API counts a program's time: 1 s to 1 h.
pub fn seconds(text: &str) -> Result<u32, String> {
    let time = duration(text)?;
    // Half a second is not nothing.
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(seconds).ok().filter(|s| (1..=3600).contains(s)).ok_or_else(|| "it is between 1s and 1h".to_owned())
}

/// `key=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write key=value".to_owned()),
    }
}

/// `key=value`, where a value that reads as JSON is JSON and any other is a text.
pub fn param(text: &str) -> Result<(String, Value), String> {
    let (key, value) = pair(text)?;
    Ok((key, serde_json::from_str(&value).unwrap_or(Value::String(value))))
}

/// A JSON object.
pub fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(_) => Err("it is JSON, but not an object such as {\"message\": \"hi\"}".to_owned()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

fn state<T: DeserializeOwned>(text: &str, all: &[&str]) -> Result<T, String> {
    let read: Result<T, value::Error> = T::deserialize(text.into_deserializer());
    read.map_err(|_| format!("the states are {}", all.join(", ")))
}

/// A task's state.
pub fn task_state(text: &str) -> Result<TaskState, String> {
    state(text, &TaskState::ALL.map(TaskState::as_str))
}

/// A refusal's or a failed task's code, in any case.
pub fn code(text: &str) -> Result<Code, String> {
    let spelled = text.to_ascii_uppercase().replace('-', "_");
    Code::ALL
        .iter()
        .copied()
        .find(|code| code.as_str() == spelled)
        .ok_or_else(|| "a code looks like GUEST_NOT_READY; `hostler task list` shows those of failed tasks".to_owned())
}

/// A machine's state.
pub fn vm_state(text: &str) -> Result<VmState, String> {
    state(text, &VmState::ALL.map(VmState::as_str))
}

/// A snapshot's state.
pub fn snapshot_state(text: &str) -> Result<SnapshotState, String> {
    state(text, &SnapshotState::ALL.map(SnapshotState::as_str))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("45"), Ok(Duration::from_secs(45)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "soon", "-5s", "m", "1.5.2s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(seconds("500ms"), Ok(1));
        assert!(seconds("0").is_err() && seconds("2h").is_err());
    }

    #[test]
    fn a_value_that_reads_as_json_is_json() {
        assert_eq!(param("message=hi").unwrap(), ("message".into(), json!("hi")));
        assert_eq!(param("delay_ms=5").unwrap(), ("delay_ms".into(), json!(5)));
        assert_eq!(param("argv=[\"ls\"]").unwrap(), ("argv".into(), json!(["ls"])));
        assert_eq!(param("message=\"5\"").unwrap(), ("message".into(), json!("5")));
        assert_eq!(pair("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(pair("=b").is_err() && pair("a").is_err());
        assert!(object("[1]").is_err() && object("{").is_err());
    }

    #[test]
    fn a_state_is_one_of_those_there_are() {
        assert_eq!(task_state("failed"), Ok(TaskState::Failed));
        assert_eq!(vm_state("running"), Ok(VmState::Running));
        assert_eq!(kind("ecko").unwrap_err(), "there is no such kind of task; did you mean echo?");
        assert!(kind("explode").unwrap_err().contains("there are"));
        assert!(vm_state("lost").unwrap_err().contains("provisioning"));
    }
}
