//! Text that may hold secrets: user-data, what a program reads. It never travels in a task. Once a task is written down
//! its parameters have a reference in place of the text; the node that has the task's lease fetches the text by it, and
//! everybody else sees only how long it was and its digest.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Value, json};

use crate::{
    error::{Code, Refusal},
    id::SecretId,
    image::Sha256Hex,
};

/// A text that is kept apart, and by what it is fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// By which it is fetched.
    pub id: SecretId,
    /// The text.
    pub text: String,
}

/// Never the text.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).field("bytes", &self.text.len()).finish()
    }
}

/// Refuses parameters in which a reference stands where a text belongs: whoever asks sends texts, and could otherwise
/// name another's.
///
/// # Errors
/// With the field.
pub fn refuse_references(sensitive: &[&str], params: &Value) -> Result<(), Refusal> {
    match sensitive.iter().find(|pointer| params.pointer(pointer).is_some_and(Value::is_object)) {
        Some(pointer) => Err(Refusal::field(&field(pointer), "this must be text")),
        None => Ok(()),
    }
}

/// Takes the texts out of filled parameters and leaves references. Nothing is kept of an empty text.
pub fn take_apart(sensitive: &[&str], params: &mut Value, mut id: impl FnMut() -> SecretId) -> Vec<Secret> {
    let mut kept = Vec::new();
    for pointer in sensitive {
        let Some(place) = params.pointer_mut(pointer) else { continue };
        if let Value::String(text) = place
            && !text.is_empty()
        {
            let secret = Secret { id: id(), text: std::mem::take(text) };
            *place = json!(SecretRef::of(secret.id, &secret.text));
            kept.push(secret);
        }
    }
    kept
}

/// Puts the texts back in place of their references, for a task that is asked for once more.
///
/// # Errors
/// When a text is no longer kept.
pub fn put_back(sensitive: &[&str], params: &mut Value, kept: Vec<Secret>) -> Result<(), Refusal> {
    let mut kept: BTreeMap<SecretId, String> = kept.into_iter().map(|secret| (secret.id, secret.text)).collect();
    for pointer in sensitive {
        let Some(place) = params.pointer_mut(pointer).filter(|place| place.is_object()) else { continue };
        let text = SecretRef::deserialize(&*place).ok().and_then(|reference| kept.remove(&reference.secret));
        let Some(text) = text else {
            let detail = format!("the text of {} is no longer kept; send the whole request once more", field(pointer));
            return Err(Refusal::new(Code::TaskStateConflict, detail).with("field", field(pointer)));
        };
        *place = Value::String(text);
    }
    Ok(())
}

/// A pointer as fields are named elsewhere.
fn field(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

/// What stands in place of a text that is kept apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SecretRef {
    /// By which it is fetched, by the node that works on the task.
    pub secret: SecretId,
    /// Its digest.
    pub sha256: Sha256Hex,
    /// Its length in bytes.
    pub bytes: u64,
}

impl SecretRef {
    /// Of this text.
    pub fn of(secret: SecretId, text: &str) -> SecretRef {
        SecretRef { secret, sha256: Sha256Hex::of(text.as_bytes()), bytes: text.len() as u64 }
    }
}

/// A text that may hold secrets: as it came, or kept apart.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Sensitive {
    /// As it came. It is not written down like this.
    Text(String),
    /// Kept apart.
    Kept(SecretRef),
}

impl Sensitive {
    /// The text, where it is here.
    pub fn text(&self) -> Option<&str> {
        match self {
            Sensitive::Text(text) => Some(text),
            Sensitive::Kept(_) => None,
        }
    }
}

impl Default for Sensitive {
    fn default() -> Self {
        Sensitive::Text(String::new())
    }
}

impl From<&str> for Sensitive {
    fn from(text: &str) -> Self {
        Sensitive::Text(text.to_owned())
    }
}

impl From<String> for Sensitive {
    fn from(text: String) -> Self {
        Sensitive::Text(text)
    }
}

/// Never the text.
impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sensitive::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Sensitive::Kept(kept) => kept.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Sensitive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Sensitive::Text(text)),
            // serde's own words would quote what was sent.
            kept @ Value::Object(_) => {
                SecretRef::deserialize(kept).map(Sensitive::Kept).map_err(|_| D::Error::custom("this must be text"))
            }
            _ => Err(D::Error::custom("this must be text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_not_shown_and_a_reference_says_what_it_stands_for() {
        let text = Sensitive::from("hunter2");
        assert_eq!(format!("{text:?}"), "Text(7 bytes)");
        let kept = SecretRef::of("01900000-0000-7000-8000-000000000042".parse().unwrap(), "hunter2");
        let json = json!(Sensitive::Kept(kept.clone()));
        assert_eq!((&json["bytes"], json.to_string().contains("hunter2")), (&json!(7), false));
        assert_eq!(Sensitive::deserialize(json).unwrap(), Sensitive::Kept(kept));
    }

    #[test]
    fn a_text_is_taken_apart_and_put_back() {
        let (sensitive, id) = (["/a", "/b", "/c"], "01900000-0000-7000-8000-000000000042".parse().unwrap());
        let sent = json!({"a": "hunter2", "b": "", "plain": "x"});
        let mut params = sent.clone();
        let kept = take_apart(&sensitive, &mut params, || id);
        assert_eq!((kept.len(), &params["b"], &params["plain"]), (1, &json!(""), &json!("x")));
        assert!(!params.to_string().contains("hunter2") && !format!("{kept:?}").contains("hunter2"));
        assert_eq!(refuse_references(&sensitive, &params).unwrap_err().facts["field"], "a");
        assert_eq!(put_back(&sensitive, &mut params.clone(), Vec::new()).unwrap_err().code, Code::TaskStateConflict);
        put_back(&sensitive, &mut params, kept).unwrap();
        assert_eq!(params, sent);
    }

    #[test]
    fn what_is_no_text_is_refused_without_being_quoted() {
        for bad in [json!(5), json!(["hunter2"]), json!({"hunter2": 1}), json!(null)] {
            let error = Sensitive::deserialize(bad).unwrap_err().to_string();
            assert_eq!(error, "this must be text");
        }
    }
}
