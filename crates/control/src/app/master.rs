//! What wraps the keys under which values are sealed: a file of master keys, or a command of the operator's that asks a key
//! management service.
//!
//! ```text
//! COMMAND… wrap PLACE      stdin: a key, base64   stdout: what is stored, one line
//! COMMAND… unwrap PLACE    stdin: that line       stdout: the key, base64
//! ```
//!
//! The command is a list of words, never a shell's line; PLACE says whose key it is, and may be authenticated with it. Never
//! here: a key in an argument, a log or an error.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hostler_model::error::excerpt;
use hostler_trust::{
    DataKey, MasterKeys,
    master::{Changing, MasterError},
    seal,
};
use tokio::{io::AsyncWriteExt, process::Command};

/// How long a command may take: a service elsewhere answers in less, or not at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a command may answer, in bytes: several times what known services make of 32 bytes.
const ANSWER: usize = 8 << 10;
/// How what a command wrapped begins.
const PREFIX: &str = "k1.";
/// What a command is called where the name of a master key stands: it has versions of its own.
const COMMAND: &str = "command";

const BY_COMMAND: &str = "a command (master_key_command)";
const BY_FILE: &str = "a file of master keys (master_key)";

/// What wraps, or unwraps, and could not.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// The file of master keys.
    #[error(transparent)]
    File(#[from] MasterError),
    /// The command.
    #[error("the command {command:?} of master_key_command {why}")]
    Command {
        /// Its first word.
        command: String,
        /// What became of it.
        why: String,
    },
    /// What is stored was wrapped in another way than the one that is configured.
    #[error("a stored key was wrapped by {by}; configure that again, and rotate from there")]
    OtherWay {
        /// What wrapped it.
        by: &'static str,
    },
}

/// What wraps.
pub enum Master {
    /// The keys of a file.
    File {
        /// Where it is.
        path: PathBuf,
        /// As it was read last.
        keys: RwLock<MasterKeys>,
    },
    /// A command: its words.
    Command(Vec<String>),
}

impl Master {
    /// The keys of a file, which is made where it is not there.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn file(path: &Path) -> Result<Master, MasterError> {
        Ok(Master::File { path: path.to_owned(), keys: MasterKeys::load_or_create(path)?.into() })
    }

    /// Wraps a key under the master key of this name, or the newest where none is named; says which one it was. The file is
    /// read each time, for another server may have changed it.
    pub(super) async fn wrap(
        &self,
        under: Option<&str>,
        place: &str,
        key: &DataKey,
    ) -> Result<(String, String), WrapError> {
        match (self, under) {
            (Master::File { .. }, Some(COMMAND)) => Err(WrapError::OtherWay { by: BY_COMMAND }),
            (Master::File { path, keys }, under) => {
                reread(path, keys)?;
                let keys = read(keys);
                let under = under.unwrap_or(keys.newest());
                Ok((under.to_owned(), keys.wrap(under, place, key)?))
            }
            (Master::Command(words), None | Some(COMMAND)) => {
                let answer = ask(words, "wrap", place, &BASE64_STANDARD.encode(key.reveal())).await?;
                Ok((COMMAND.to_owned(), format!("{PREFIX}{}", BASE64_STANDARD.encode(answer))))
            }
            (Master::Command(_), Some(_)) => Err(WrapError::OtherWay { by: BY_FILE }),
        }
    }

    /// Unwraps a key.
    pub(super) async fn unwrap(&self, place: &str, wrapped: &str) -> Result<DataKey, WrapError> {
        match (self, wrapped.strip_prefix(PREFIX)) {
            (Master::File { path, keys }, None) => {
                let first = read(keys).unwrap(place, wrapped);
                match first {
                    // Another server may have rotated the file meanwhile.
                    Err(MasterError::Unknown { .. }) => {
                        reread(path, keys)?;
                        Ok(read(keys).unwrap(place, wrapped)?)
                    }
                    first => Ok(first?),
                }
            }
            (Master::Command(words), Some(text)) => {
                let broken = |why: &str| failed(words, why);
                let text = BASE64_STANDARD.decode(text).map_err(|_| broken("wrapped what cannot be read any more"))?;
                let text = String::from_utf8(text).map_err(|_| broken("wrapped what cannot be read any more"))?;
                let answer = ask(words, "unwrap", place, &text).await?;
                let bytes =
                    BASE64_STANDARD.decode(answer).ok().and_then(|bytes| <[u8; seal::LEN]>::try_from(bytes).ok());
                let bytes = bytes.ok_or_else(|| broken("answered something that is no key of 32 bytes in base64"))?;
                Ok(DataKey::from_bytes(bytes).map_err(MasterError::from)?)
            }
            (Master::File { .. }, Some(_)) => Err(WrapError::OtherWay { by: BY_COMMAND }),
            (Master::Command(_), None) => Err(WrapError::OtherWay { by: BY_FILE }),
        }
    }

    /// For whoever changes the file: nobody else does meanwhile, and it is read. Nothing for a command.
    pub(super) fn change(&self) -> Result<Option<Changing>, WrapError> {
        match self {
            Master::File { path, keys } => {
                let changing = MasterKeys::change(path)?;
                reread(path, keys)?;
                Ok(Some(changing))
            }
            Master::Command(_) => Ok(None),
        }
    }
}

/// As the file is now. One that is not there is an error: what is in memory may be what was rotated away.
fn reread(path: &Path, keys: &RwLock<MasterKeys>) -> Result<(), MasterError> {
    let anew = MasterKeys::load(path)?.ok_or_else(|| MasterError::Damaged(path.to_owned()))?;
    *keys.write().unwrap_or_else(PoisonError::into_inner) = anew;
    Ok(())
}

fn read(keys: &RwLock<MasterKeys>) -> std::sync::RwLockReadGuard<'_, MasterKeys> {
    keys.read().unwrap_or_else(PoisonError::into_inner)
}

fn failed(words: &[String], why: &str) -> WrapError {
    WrapError::Command { command: words.first().cloned().unwrap_or_default(), why: why.to_owned() }
}

/// One line of a command.
async fn ask(words: &[String], verb: &str, place: &str, line: &str) -> Result<String, WrapError> {
    let broken = |why: &dyn fmt::Display| failed(words, &format!("failed: {why}"));
    let [program, rest @ ..] = words else { return Err(failed(words, "is empty")) };
    let mut command = Command::new(program);
    command.args(rest).args([verb, place]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| broken(&error))?;
    let mut stdin = child.stdin.take();
    let talk = async {
        if let Some(stdin) = &mut stdin {
            // A command that reads nothing says what is wrong by its end.
            let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
        }
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, talk).await;
    let output = output.map_err(|_| failed(words, "did not end within 10 s"))?.map_err(|error| broken(&error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(broken(&format!("{}, {:?}", output.status, excerpt(said.trim()))));
    }
    let answer = String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned());
    let good = |text: &String| !text.is_empty() && text.len() <= ANSWER && !text.contains(char::is_whitespace);
    answer.filter(good).ok_or_else(|| failed(words, "did not answer one line of at most 8 KiB"))
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Master::File { path, .. } => f.debug_tuple("File").field(path).finish(),
            Master::Command(words) => f.debug_tuple("Command").field(&words.first()).finish(),
        }
    }
}
