//! The master keys: what wraps the keys of tenants. They lie in a file of their own, which no backup contains, and which the
//! servers over one database share.
//!
//! ```text
//! one line for each key:  <name> <base64url of 32 bytes>      the first one wraps; the others only unwrap
//! ```
//!
//! ```text
//! Changing (one at a time: the file is locked) ──add──► a key in front ── … everything is wrapped anew … ──remove──► without old ones
//! ```
//!
//! Never here: the wrapped keys, nor which key wraps them: that is written beside them.

use std::{
    fmt,
    fs::File,
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

/// What the file may hold at most: years of rotations, after which old ones are to be removed.
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
    /// Somebody else changes the file just now.
    #[error("the master keys in {} are being changed by somebody else; try again when that is done", .0.display())]
    Busy(PathBuf),
    /// As many keys as there may be.
    #[error(
        "{} holds {MOST} master keys, and no more fit; `hostler key rotate-master --retire` removes those that wrap \
         nothing", .0.display()
    )]
    Full(PathBuf),
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

    /// Those in a file, or a new one that is written there (mode 0600): by the first of those who start at once.
    ///
    /// # Errors
    /// As [`MasterKeys::load`], and when the file cannot be written.
    pub fn load_or_create(path: &Path) -> Result<MasterKeys, MasterError> {
        if let Some(keys) = Self::load(path)? {
            return Ok(keys);
        }
        let _lock = file::lock(&beside(path))?;
        if let Some(keys) = Self::load(path)? {
            return Ok(keys);
        }
        let keys = MasterKeys { path: path.to_owned(), keys: vec![MasterKey::new(DataKey::generate()?)] };
        keys.save()?;
        Ok(keys)
    }

    /// For whoever changes the file: nobody else does before this is dropped, on this host or on one that shares the file.
    ///
    /// # Errors
    /// [`MasterError::Busy`] while somebody else does; as [`MasterKeys::load`]; and when there is no file.
    pub fn change(path: &Path) -> Result<Changing, MasterError> {
        let lock = file::try_lock(&beside(path))?.ok_or_else(|| MasterError::Busy(path.to_owned()))?;
        // Read behind the lock: what others added is kept.
        let keys = Self::load(path)?.ok_or_else(|| MasterError::Damaged(path.to_owned()))?;
        Ok(Changing { keys, _lock: lock })
    }

    fn save(&self) -> Result<(), MasterError> {
        let text: String = self.keys.iter().map(MasterKey::line).collect();
        Ok(file::write_private(&self.path, text.as_bytes())?)
    }

    /// The names of the keys, the newest first.
    pub fn names(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.name.clone()).collect()
    }

    /// The name of the newest key.
    pub fn newest(&self) -> &str {
        self.keys.first().map_or("", |key| key.name.as_str())
    }

    /// Wraps a key under the master key of this name. `place` says whose it is: it is unwrapped only as that.
    ///
    /// # Errors
    /// When there is no master key of this name, or the crypto backend fails.
    pub fn wrap(&self, under: &str, place: &str, key: &DataKey) -> Result<String, MasterError> {
        let MasterKey { name, key: wrapper } = self.named(under)?;
        Ok(format!("{PREFIX}{name}.{}", wrapper.seal(place, key.reveal())?))
    }

    /// Unwraps a key.
    ///
    /// # Errors
    /// When the key that wrapped it is not here, or it was changed since.
    pub fn unwrap(&self, place: &str, wrapped: &str) -> Result<DataKey, MasterError> {
        let (name, sealed) =
            wrapped.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(SealError::NotSealed)?;
        let bytes: [u8; LEN] =
            self.named(name)?.key.open(place, sealed)?.try_into().map_err(|_| SealError::DoesNotOpen)?;
        Ok(DataKey::from_bytes(bytes)?)
    }

    fn named(&self, name: &str) -> Result<&MasterKey, MasterError> {
        let found = self.keys.iter().find(|key| key.name == name);
        found.ok_or_else(|| MasterError::Unknown { name: name.to_owned(), path: self.path.clone() })
    }
}

/// What is locked in place of the file, which is another one after each change.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// The keys of a file that nobody else changes meanwhile.
#[derive(Debug)]
pub struct Changing {
    keys: MasterKeys,
    _lock: File,
}

impl Changing {
    /// The keys as they are now.
    pub fn keys(&self) -> &MasterKeys {
        &self.keys
    }

    /// Puts a new key in front; all others stay. What it wraps is readable after a crash at any instruction: it is in the
    /// file before it wraps.
    ///
    /// # Errors
    /// When the file cannot be written, or holds as many keys as it may.
    pub fn add(&mut self) -> Result<(), MasterError> {
        if self.keys.keys.len() >= MOST {
            return Err(MasterError::Full(self.keys.path.clone()));
        }
        self.keys.keys.insert(0, MasterKey::new(DataKey::generate()?));
        self.keys.save()
    }

    /// Removes all keys but these, one of which must be there: what the others wrapped is lost.
    ///
    /// # Errors
    /// When one that is to stay is not there (nothing is removed then), or the file cannot be written.
    pub fn keep_only(&mut self, names: &[String]) -> Result<(), MasterError> {
        for name in names {
            self.keys.named(name)?;
        }
        if names.is_empty() {
            return Err(MasterError::Damaged(self.keys.path.clone()));
        }
        self.keys.keys.retain(|key| names.contains(&key.name));
        self.keys.save()
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
    fn what_was_wrapped_is_unwrapped_also_after_a_rotation_until_the_old_key_is_removed() {
        let (_dir, path) = folder();
        let (keys, key) = (MasterKeys::load_or_create(&path).unwrap(), DataKey::generate().unwrap());
        let wrapped = keys.wrap(keys.newest(), "tenant a", &key).unwrap();
        let found = MasterKeys::load_or_create(&path).unwrap();
        assert_eq!(found.unwrap("tenant a", &wrapped).unwrap().reveal(), key.reveal());
        assert!(found.unwrap("tenant b", &wrapped).is_err());
        let mut file = MasterKeys::change(&path).unwrap();
        file.add().unwrap();
        let both = file.keys();
        assert_eq!(both.names()[1..], keys.names()[..], "the one before it stays");
        assert!(both.unwrap("tenant a", &wrapped).is_ok());
        let anew = both.wrap(both.newest(), "tenant a", &key).unwrap();
        let last = vec![both.newest().to_owned()];
        file.keep_only(&last).unwrap();
        assert!(matches!(file.keys().unwrap("tenant a", &wrapped), Err(MasterError::Unknown { .. })));
        assert!(MasterKeys::load(&path).unwrap().unwrap().unwrap("tenant a", &anew).is_ok());
    }

    #[test]
    fn a_file_is_changed_by_one_at_a_time_and_never_to_one_without_keys() {
        let (_dir, path) = folder();
        MasterKeys::load_or_create(&path).unwrap();
        let mut file = MasterKeys::change(&path).unwrap();
        assert!(matches!(MasterKeys::change(&path), Err(MasterError::Busy(_))));
        assert!(matches!(file.keep_only(&["another".to_owned()]), Err(MasterError::Unknown { .. })));
        assert!(file.keep_only(&[]).is_err());
        for _ in 1..MOST {
            file.add().unwrap();
        }
        assert!(matches!(file.add(), Err(MasterError::Full(_))));
        drop(file);
        assert_eq!(MasterKeys::change(&path).unwrap().keys().names().len(), MOST);
    }

    #[test]
    fn of_those_who_start_at_once_one_makes_the_file() {
        let (_dir, path) = folder();
        let made = std::thread::scope(|scope| {
            let start = || MasterKeys::load_or_create(&path).unwrap().names();
            let all: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(made.windows(2).all(|two| two[0] == two[1]), "{made:?}");
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
        assert_eq!(format!("{keys:?}"), format!("MasterKeys({})", keys.newest()));
    }
}
