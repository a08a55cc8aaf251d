//! Where the log's chain stood when it was last signed: what a server remembers outside of the database, so that it signs
//! nothing that does not go on from there. A file beside the authority's key, which servers share with that, and this
//! process's memory.
//!
//! ```text
//! <ca>/signed.json   {"seq": 42, "hash": "…"}
//! ```
//!
//! Only an operator's restore forgets it. Never here: whether a chain goes on from there.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use hostler_model::chain::Stand;

use crate::file::{self, FileError};

/// The file's name.
pub const FILE: &str = "signed.json";

/// A stand that cannot be read or written down.
#[derive(Debug, thiserror::Error)]
pub enum LastSignedError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what was written.
    #[error(
        "{} does not say where the log was last signed; find out who changed it, then remove it: the log is looked at from \
         its beginning again", .0.display()
    )]
    Damaged(PathBuf),
}

/// Where the chain stood when it was last signed.
#[derive(Debug, Default)]
pub struct LastSigned {
    file: Option<PathBuf>,
    known: Mutex<Option<Stand>>,
}

impl LastSigned {
    /// In a folder.
    pub(crate) fn in_folder(dir: &Path) -> LastSigned {
        LastSigned { file: Some(dir.join(FILE)), known: Mutex::default() }
    }

    /// Where it is written down; nowhere for an authority that lives in memory.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The stand; of what the file says and what this process knows the later one. `None`: nothing was signed yet.
    ///
    /// # Errors
    /// When the file cannot be read. One that is gone is no error: then this process's memory counts.
    pub fn stand(&self) -> Result<Option<Stand>, LastSignedError> {
        let written = match &self.file {
            Some(path) => read(path)?,
            None => None,
        };
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(written.into_iter().chain(known).max_by_key(|stand| stand.seq))
    }

    /// It was signed here. A stand that is not later than the one that is known changes nothing.
    ///
    /// # Errors
    /// When the file cannot be written; this process remembers it all the same.
    pub fn advance(&self, to: Stand) -> Result<(), LastSignedError> {
        let before = self.stand()?;
        if before.is_some_and(|before| before.seq >= to.seq) {
            return Ok(());
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
        let Some(path) = &self.file else { return Ok(()) };
        let text = serde_json::to_vec(&to).map_err(|_| LastSignedError::Damaged(path.clone()))?;
        Ok(file::write_private(path, &text)?)
    }
}

/// Forgets what was signed with the authority of a folder: an operator put its database back. Says whether there was anything.
///
/// # Errors
/// When the file cannot be removed.
pub fn forget(dir: &Path) -> Result<bool, FileError> {
    let path = dir.join(FILE);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(FileError::Io { doing: "remove", path, source }),
    }
}

fn read(path: &Path) -> Result<Option<Stand>, LastSignedError> {
    let Some(text) = file::read_private(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|_| LastSignedError::Damaged(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use hostler_model::chain::HexHash;

    use super::*;

    fn stand(seq: i64) -> Stand {
        Stand { seq, hash: HexHash([u8::try_from(seq).unwrap(); 32]) }
    }

    #[test]
    fn servers_that_share_a_folder_know_what_the_other_signed_and_none_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (LastSigned::in_folder(dir.path()), LastSigned::in_folder(dir.path()));
        assert_eq!(one.stand().unwrap(), None);
        one.advance(stand(4)).unwrap();
        assert_eq!(other.stand().unwrap(), Some(stand(4)));
        other.advance(stand(3)).unwrap();
        assert_eq!(one.stand().unwrap(), Some(stand(4)));
    }

    #[test]
    fn whoever_removes_the_file_does_not_make_a_server_forget_and_a_restore_before_its_start_does() {
        let dir = tempfile::tempdir().unwrap();
        let running = LastSigned::in_folder(dir.path());
        running.advance(stand(4)).unwrap();
        assert!(forget(dir.path()).unwrap() && !forget(dir.path()).unwrap());
        assert_eq!(running.stand().unwrap(), Some(stand(4)));
        assert_eq!(LastSigned::in_folder(dir.path()).stand().unwrap(), None);
        file::write_private(&dir.path().join(FILE), b"{}").unwrap();
        assert!(matches!(running.stand(), Err(LastSignedError::Damaged(_))));
    }
}
