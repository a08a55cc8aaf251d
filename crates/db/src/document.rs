//! Documents inside a batch.

use serde::{Serialize, Serializer, ser::Error as _};

/// A value that is kept as JSON in a column of text. In a batch it travels as text, so that what is read is what was
/// written, to the byte, whatever an engine makes of JSON: numbers, the order of keys, a NUL in a string.
#[derive(Clone, Copy, Debug)]
pub struct Document<T>(pub T);

impl<T: Serialize> Serialize for Document<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(&self.0).map_err(S::Error::custom)?;
        serializer.serialize_str(&text)
    }
}
