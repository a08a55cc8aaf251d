//! The master keys: what wraps the keys of tenants. They lie in a file of their own, which no backup contains, and which the
//! servers over one database share.
//!
//! ```text
//! one line for each key:  <name> <base64url of 32 bytes>      the first one wraps; the others only unwrap
//! ```
//!
//! To rotate is to put a new key in front, to wrap everything anew, and to take the old ones out. Never here: the wrapped keys.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{
    DataKey,
    file::{self, FileError},
    fingerprint::sha256,
    seal::{LEN, SealError},
};

/// How a wrapped key begins.
const PREFIX: &str = "m1.";

/// What the file may hold at most: more have not been taken out.
const MOST: usize = 16;

/// Master keys that cannot be used, or what cannot be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not one of master keys.
    #[error("{} holds no master keys; restore it from where you keep it", .0.display())]
    Damaged(PathBuf),
    /// Wrapped by a key that is not in the file.
    #[error(
        "the key {name} that wraps what is stored is not in {}; restore the file, or name it with --master-key",
        path.display()
    )]
    Unknown {
        /// The key.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// What is stored cannot be unwrapped.
    #[error("a stored key cannot be unwrapped: {0}")]
    Seal(#[from] SealError),
}

/// One master key and its name, which is made of its hash.
struct MasterKey {
    name: String,
    key: DataKey,
}

impl MasterKey {
    fn new(key: DataKey) -> MasterKey {
        MasterKey { name: hex::encode(&sha256(key.reveal())[..8]), key }
    }

    fn read(line: &str) -> Option<MasterKey> {
        let (name, text) = line.split_once(' ')?;
        let bytes: [u8; LEN] = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let key = MasterKey::new(DataKey::from_bytes(bytes).ok()?);
        (key.name == name).then_some(key)
    }

    fn line(&self) -> String {
        format!("{} {}\n", self.name, BASE64_URL_SAFE_NO_PAD.encode(self.key.reveal()))
    }
}

/// The keys of a file.
pub struct MasterKeys {
    path: PathBuf,
    keys: Vec<MasterKey>,
}

impl MasterKeys {
    /// Those in a file; `None` where there is no file.
    ///
    /// # Errors
    /// When it cannot be read, others can read it, or it holds anything else.
    pub fn load(path: &Path) -> Result<Option<MasterKeys>, MasterError> {
        let Some(text) = file::read_private(path)? else { return Ok(None) };
        let keys: Option<Vec<MasterKey>> = text.lines().map(MasterKey::read).collect();
        let good = keys.filter(|keys| (1..=MOST).contains(&keys.len()));
        let keys = good.ok_or_else(|| MasterError::Damaged(path.to_owned()))?;
        Ok(Some(MasterKeys { path: path.to_owned(), keys }))
    }

    /// Those in a file, or a new one that is written there (mode 0600). One process at a time may do this with a file.
    ///
    /// # Errors
    /// As [`MasterKeys::load`], and when the file cannot be written.
    pub fn load_or_create(path: &Path) -> Result<MasterKeys, MasterError> {
        if let Some(keys) = Self::load(path)? {
            return Ok(keys);
        }
        let keys = MasterKeys { path: path.to_owned(), keys: vec![MasterKey::new(DataKey::generate()?)] };
        keys.save()?;
        Ok(keys)
    }

    /// The same with a new key in front, which wraps from now on.
    ///
    /// # Errors
    /// When the file cannot be written, or is full of keys that were not taken out.
    pub fn with_another(mut self) -> Result<MasterKeys, MasterError> {
        if self.keys.len() >= MOST {
            return Err(MasterError::Damaged(self.path));
        }
        self.keys.insert(0, MasterKey::new(DataKey::generate()?));
        self.save()?;
        Ok(self)
    }

    /// The same without those that wrap nothing any more.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn newest_only(mut self) -> Result<MasterKeys, MasterError> {
        self.keys.truncate(1);
        self.save()?;
        Ok(self)
    }

    fn save(&self) -> Result<(), MasterError> {
        let text: String = self.keys.iter().map(MasterKey::line).collect();
        Ok(file::write_private(&self.path, text.as_bytes())?)
    }

    /// The name of the key that wraps.
    pub fn name(&self) -> &str {
        self.keys.first().map_or("", |key| key.name.as_str())
    }

    /// Wraps a key. `place` says whose it is: it is unwrapped only as that.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn wrap(&self, place: &str, key: &DataKey) -> Result<String, MasterError> {
        let first = self.keys.first().ok_or_else(|| MasterError::Damaged(self.path.clone()))?;
        Ok(format!("{PREFIX}{}.{}", first.name, first.key.seal(place, key.reveal())?))
    }

    /// Unwraps a key.
    ///
    /// # Errors
    /// When the key that wrapped it is not here, or it was changed since.
    pub fn unwrap(&self, place: &str, wrapped: &str) -> Result<DataKey, MasterError> {
        let (name, sealed) =
            wrapped.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(SealError::NotSealed)?;
        let wrapper = self.keys.iter().find(|key| key.name == name);
        let wrapper = wrapper.ok_or_else(|| MasterError::Unknown { name: name.to_owned(), path: self.path.clone() })?;
        let bytes: [u8; LEN] = wrapper.key.open(place, sealed)?.try_into().map_err(|_| SealError::DoesNotOpen)?;
        Ok(DataKey::from_bytes(bytes)?)
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
        write!(f, "MasterKeys({})", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        (dir, path)
    }

    #[test]
    fn what_was_wrapped_is_unwrapped_also_after_a_rotation_until_the_old_key_is_taken_out() {
        let (_dir, path) = folder();
        let (keys, key) = (MasterKeys::load_or_create(&path).unwrap(), DataKey::generate().unwrap());
        let wrapped = keys.wrap("tenant a", &key).unwrap();
        let found = MasterKeys::load_or_create(&path).unwrap();
        assert_eq!(found.unwrap("tenant a", &wrapped).unwrap().reveal(), key.reveal());
        assert!(found.unwrap("tenant b", &wrapped).is_err());
        let rotated = found.with_another().unwrap();
        assert_ne!(rotated.name(), keys.name());
        assert!(rotated.unwrap("tenant a", &wrapped).is_ok());
        let anew = rotated.wrap("tenant a", &key).unwrap();
        let rest = rotated.newest_only().unwrap();
        assert!(matches!(rest.unwrap("tenant a", &wrapped), Err(MasterError::Unknown { .. })));
        assert!(MasterKeys::load(&path).unwrap().unwrap().unwrap("tenant a", &anew).is_ok());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_new_key() {
        let (_dir, path) = folder();
        MasterKeys::load_or_create(&path).unwrap();
        let text = file::read_private(&path).unwrap().unwrap();
        for bad in ["", "half", &text[..text.len() - 4], &text.replacen(&text[..1], "x", 1)] {
            file::write_private(&path, bad.as_bytes()).unwrap();
            assert!(matches!(MasterKeys::load_or_create(&path), Err(MasterError::Damaged(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_keys_never_show_themselves() {
        let (_dir, path) = folder();
        let keys = MasterKeys::load_or_create(&path).unwrap();
        assert_eq!(format!("{keys:?}"), format!("MasterKeys({})", keys.name()));
    }
}
