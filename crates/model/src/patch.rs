//! A field of a JSON merge patch (RFC 7396): what is not named stays, null removes, anything else replaces.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a merge patch says of one field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Patch<T> {
    /// Nothing: the field stays as it is, and is left out of the document.
    #[default]
    Keep,
    /// `null`.
    Remove,
    /// A value.
    Set(T),
}

impl<T> Patch<T> {
    /// Whether the field is left out.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Patch::Keep)
    }

    /// The value, where there is one.
    pub const fn as_set(&self) -> Option<&T> {
        match self {
            Patch::Set(value) => Some(value),
            Patch::Keep | Patch::Remove => None,
        }
    }
}

impl<T> From<Option<T>> for Patch<T> {
    /// What was given is set, and what was not stays.
    fn from(given: Option<T>) -> Self {
        given.map_or(Patch::Keep, Patch::Set)
    }
}

impl<T: Serialize> Serialize for Patch<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_set().serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Patch::Remove, Patch::Set))
    }
}
