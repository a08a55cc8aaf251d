//! Signed tasks: an [`Assignment`] in a compact JWS (EdDSA on Ed25519), so that an agent acts only on what its server
//! wrote, for this node, in time.
//!
//! ```text
//! header  {"typ":"hostler-task+jwt","alg":"EdDSA","kid":"<RFC 7638 thumbprint>"}
//! claims  the Assignment
//!
//! header  {"typ":"hostler-tasks+jwt", …}
//! claims  {"tasks": [the Assignment, …]}: what one fetch brings, under one signature
//! ```
//!
//! The algorithm is ours to say, never the token's: a token that names another is refused before its signature is
//! looked at. Never here: fences and epochs, which the agent's journal knows.
//!
//! [`Assignment`]: hostler_model::internal::Assignment

mod key;
mod signer;
mod verifier;

pub(crate) use key::jwk;
pub use key::{KeySetError, digest, jwk_of, key_set, thumbprint};
pub use signer::{SignerError, TaskKey, TaskSigner};
pub(crate) use verifier::signature_only;
pub use verifier::{Expected, TaskRefusal, TaskVerifier};

/// The `typ` of a signed task: no other kind of token can be taken for one.
pub const TYP: &str = "hostler-task+jwt";

/// The `typ` of several under one signature.
pub const TYP_OF_SEVERAL: &str = "hostler-tasks+jwt";

/// The claims of several.
#[derive(serde::Serialize, serde::Deserialize)]
struct Several<T> {
    tasks: T,
}

#[cfg(test)]
mod tests;
