//! The keys that sign access tokens: files in a folder, each named after when it was made.
//!
//! ```text
//! made ── a minute, in which every server publishes it ──► signs, until a newer one does ──► verifies, while its file is there
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_model::{Timestamp, token::LONGEST_LIFE};
use jsonwebtoken::{DecodingKey, EncodingKey};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::{Value, json};

use crate::{
    file::{self, FileError},
    task::{jwk, thumbprint},
};

/// How long a key is published before it signs: every server looks at the folder more often, and whoever fetched the set
/// fetches it again on seeing a key that he does not know.
const PUBLISHED: Duration = Duration::from_secs(60);

/// A key for access tokens that could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder could not be read.
    #[error("{} cannot be read: {source}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder holds no key.
    #[error("{} holds no key that signs tokens; restore it from a backup", .0.display())]
    None(PathBuf),
    /// A file holds no Ed25519 key.
    #[error("{} holds no Ed25519 key; restore it from a backup, or remove it", .0.display())]
    Unreadable(PathBuf),
    /// The crypto backend failed.
    #[error("the crypto backend failed: {0}")]
    Crypto(#[from] rcgen::Error),
    /// A token could not be signed.
    #[error("the token could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// One key.
pub(super) struct Key {
    pub(super) kid: String,
    pub(super) signs: EncodingKey,
    pub(super) verifies: DecodingKey,
    public: Vec<u8>,
    made_at: Timestamp,
}

impl Key {
    fn of(pair: &KeyPair, made_at: Timestamp) -> Key {
        let public = pair.public_key_raw().to_vec();
        Key {
            kid: thumbprint(&public),
            signs: EncodingKey::from_ed_der(&pair.serialize_der()),
            verifies: DecodingKey::from_ed_der(&public),
            public,
            made_at,
        }
    }
}

/// Keys, the oldest first; there is one at least.
pub(super) struct Keys {
    first: Key,
    later: Vec<Key>,
}

impl Keys {
    pub(super) fn generate(now: Timestamp) -> Result<Keys, TokenKeyError> {
        Ok(Keys { first: Key::of(&KeyPair::generate_for(&PKCS_ED25519)?, now), later: Vec::new() })
    }

    pub(super) fn load(folder: &Path) -> Result<Keys, TokenKeyError> {
        let mut keys = read(folder)?.into_iter();
        let first = keys.next().ok_or_else(|| TokenKeyError::None(folder.to_owned()))?;
        Ok(Keys { first, later: keys.collect() })
    }

    pub(super) fn load_or_create(folder: &Path, now: Timestamp) -> Result<Keys, TokenKeyError> {
        if read(folder)?.is_empty() {
            rotate(folder, now)?;
        }
        Keys::load(folder)
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = &Key> {
        std::iter::once(&self.first).chain(&self.later)
    }

    /// The newest that every server has published by now.
    pub(super) fn signing(&self, now: Timestamp) -> &Key {
        self.all().rfind(|key| key.made_at.plus(PUBLISHED) <= now).unwrap_or(&self.first)
    }

    pub(super) fn named(&self, kid: &str) -> Option<&Key> {
        self.all().find(|key| key.kid == kid)
    }

    pub(super) fn jwks(&self) -> Value {
        json!({ "keys": self.all().map(|key| jwk(&key.public)).collect::<Vec<_>>() })
    }
}

/// Where they lie, beside the authority that servers over one database share.
pub(super) fn folder(ca: &Path) -> PathBuf {
    ca.join("token-keys")
}

/// The keys of a folder, the oldest first.
fn read(folder: &Path) -> Result<Vec<Key>, TokenKeyError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(TokenKeyError::Folder { folder: folder.to_owned(), source }),
    };
    let mut keys = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Some(made_at) = made_at(&path) else { continue };
        let Some(pem) = file::read_private(&path)? else { continue };
        let pair = KeyPair::from_pem_and_sign_algo(&pem, &PKCS_ED25519);
        keys.push(Key::of(&pair.map_err(|_| TokenKeyError::Unreadable(path))?, made_at));
    }
    keys.sort_by_key(|key| key.made_at);
    Ok(keys)
}

/// When a key was made, as its file's name says.
fn made_at(path: &Path) -> Option<Timestamp> {
    let name = path.file_name()?.to_str()?.strip_suffix(".pem")?;
    name.parse().ok().map(Timestamp::from_micros)
}

fn path(folder: &Path, made_at: Timestamp) -> PathBuf {
    folder.join(format!("{:020}.pem", made_at.as_micros()))
}

pub(super) fn rotate(folder: &Path, now: Timestamp) -> Result<String, TokenKeyError> {
    let pair = KeyPair::generate_for(&PKCS_ED25519)?;
    file::write_private(&path(folder, now), pair.serialize_pem().as_bytes())?;
    let keys = read(folder)?;
    // What the older of two signed last is over once a token's longest life has passed since the newer took its place.
    for pair in keys.windows(2).filter(|pair| pair[1].made_at.plus(PUBLISHED + LONGEST_LIFE) < now) {
        let over = path(folder, pair[0].made_at);
        fs::remove_file(&over).map_err(|source| TokenKeyError::Folder { folder: over, source })?;
    }
    Ok(Key::of(&pair, now).kid)
}
