//! What a node says of an attempt's end, as it signs it, and what is shown of that to whoever wants to verify it.
//!
//! ```text
//! said    {"fence":{…},"output":{…},"result":"succeeded","task":"…"}: compact, the keys of every object in their order
//! digest  sha256 of that, as base64url; the node's signature is over the digests of results that it reported together
//! ```

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{fence::Fence, id::TaskId, task::End};

/// What a node says: that this attempt of this task ended so.
pub fn said(task: TaskId, fence: Fence, end: &End) -> Value {
    let mut said = serde_json::json!(end);
    said["task"] = serde_json::json!(task);
    said["fence"] = serde_json::json!(fence);
    said
}

/// The digest of what was said.
pub fn digest(said: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(said.to_string()))
}

/// What a node said of a task's last attempt that it reported, and what proves that it did.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskProof {
    /// What it said: task, attempt, and how that ended.
    #[schema(value_type = Object)]
    pub said: Value,
    /// A compact JWS (ES256, `typ` `hostler-results+jwt`). Among its claim `results` is the digest of `said`: the sha256, as
    /// base64url, of its JSON without spaces and with the keys of every object sorted. `x5t#S256` names the certificate.
    pub signed: String,
    /// The node's certificate, PEM: of the authority whose certificate is `ca.pem` in the server's folder. It names node and
    /// enrolment.
    pub certificate_pem: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Ids, Timestamp};

    #[test]
    fn what_is_said_is_the_same_text_for_everybody() {
        let task: TaskId = Ids::seeded(1).next(Timestamp::from_micros(1));
        let fence = Fence { store_epoch: 1, attempt: 2 };
        let output = json!({"z": 0.1, "a": {"y": 1, "b": "\u{e9}"}});
        let said = said(task, fence, &End::Succeeded { output });
        let text = format!(
            "{{\"fence\":{},\"output\":{{\"a\":{{\"b\":\"\u{e9}\",\"y\":1}},\"z\":0.1}},\"result\":\"succeeded\",\"task\":\"{task}\"}}",
            json!(fence)
        );
        assert_eq!(said.to_string(), text);
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(digest(&read), digest(&said));
    }
}
