//! The log's chain: shown to whoever verifies it, and signed from time to time.
//!
//! ```text
//! what was last signed (beside the authority's key, in no database) ──every link since──► the head ──► signed, remembered
//!                                 └── not there any more, or the links do not go on from it: nothing is signed, doctor says so
//! ```
//!
//! So a log that somebody wrote anew in the database does not get the authority's signature. Never here: whether the entries are
//! those of their link: whoever verifies looks at that, and so does the doctor.

use hostler_model::{
    api::Check,
    chain::{BEGINNING, Checkpoint, Line, Walk},
};
use hostler_store::{Eyes, Piece};
use hostler_trust::{CheckpointVerifier, checkpoint::CheckpointError};

use super::{App, Error, Result, caller::Call, event::visible};

/// Links that are looked at together.
const PIECE: usize = 1000;

impl App {
    /// So much of the log's chain behind an entry where a link ends; audit entries are whole, of the others only hashes are.
    pub async fn chain(&self, call: &Call, after: i64, links: usize) -> Result<Vec<Line>> {
        Ok(self.store.chain(Eyes::Audit(visible(call).tenant), after, links).await?)
    }

    /// Signs where the chain stands, where it goes on from what was last signed and nobody signed it there.
    pub async fn sign_chain(&self) -> Result<()> {
        let walk = self.walk_on().await?;
        if let [first, ..] = walk.wrongs() {
            return Err(signing(&format!("{first}; it is not signed any more: `hostler doctor` says what to do")));
        }
        let authority = self.authority.get();
        let (stand, last) = (walk.stand(), authority.last_signed());
        if self.store.signed_up_to().await? < stand.seq {
            let checkpoint = Checkpoint { iss: self.issuer.clone(), stand, at: self.clock.now() };
            let signed = match authority.sign_checkpoint(&checkpoint) {
                Err(error @ CheckpointError::OtherKey) => {
                    // It is looked at all the same, and not from the beginning each time.
                    last.advance(stand).map_err(|error| signing(&error))?;
                    return Err(signing(&error));
                }
                signed => signed.map_err(|error| signing(&error))?,
            };
            if !self.store.put_checkpoint(stand, signed).await? {
                return Ok(());
            }
        }
        last.advance(stand).map_err(|error| signing(&error))
    }

    /// Whether the chain goes on from what was last signed.
    pub(super) async fn check_signed(&self) -> Result<Check> {
        let name = "what was signed of the log";
        let walk = match self.walk_on().await {
            Ok(walk) => walk,
            // What was last signed cannot be read: the rest of the doctor's word is worth having all the same.
            Err(error @ Error::Trust { .. }) => return Ok(Check::new(name, false, error.to_string())),
            Err(error) => return Err(error),
        };
        let [first, ..] = walk.wrongs() else {
            let detail = format!("the chain goes on from it, to the entry {}", walk.stand().seq);
            return Ok(Check::new(name, true, detail));
        };
        let authority = self.authority.get();
        let file = authority.last_signed().file().map_or_else(String::new, |file| file.display().to_string());
        let detail = format!(
            "{first}: the database was changed outside hostler, or went back in time without `hostler restore`; nothing is \
             signed any more. Compare it with a copy and with an export that you kept. Once you know, stop the servers, \
             remove {file}, and start them again"
        );
        Ok(Check::new(name, false, detail))
    }

    /// From what was last signed to the end.
    async fn walk_on(&self) -> Result<Walk> {
        let authority = self.authority.get();
        let last = authority.last_signed().stand().map_err(|error| signing(&error))?;
        let signer = CheckpointVerifier::new(authority.ca_pem()).map_err(|error| signing(&error))?;
        let mut walk = Walk::from(last.unwrap_or(BEGINNING));
        loop {
            let piece = self.store.chain_piece(walk.stand().seq, PIECE).await?;
            if pass(&mut walk, &piece, &signer) {
                return Ok(walk);
            }
        }
    }
}

/// Passes a piece; whether that was all, or all that needs to be seen.
fn pass(walk: &mut Walk, piece: &Piece, signer: &CheckpointVerifier) -> bool {
    let stand = walk.stand();
    if piece.from != stand {
        let seq = stand.seq;
        walk.wrong(format!(
            "the chain up to the entry {seq} is not the one that was signed: it was written anew, or cut off"
        ));
        return true;
    }
    piece.joints.iter().for_each(|joint| walk.joint(joint));
    for token in &piece.checkpoints {
        match signer.verify(token) {
            Ok(checkpoint) => walk.checkpoint(checkpoint.stand),
            Err(error) => walk.wrong(error.to_string()),
        }
    }
    if let Some(end) = piece.end {
        walk.end(end);
    }
    piece.end.is_some() || !walk.wrongs().is_empty()
}

fn signing(cause: &dyn std::fmt::Display) -> Error {
    Error::Trust { doing: "sign the log's chain", cause: cause.to_string() }
}
