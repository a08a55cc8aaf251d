//! hostler's trust: an own certificate authority, mutual TLS, signed tasks, and the tokens of people and of joining
//! nodes.
//!
//! ```text
//! ca ──signs──► server certificate (in memory)  ┐
//!    ──signs──► node certificate (24 h, by CSR) ┴─► tls: one listener, one client
//! result: Report ──NodeSigner──► compact JWS ──Authority::believe──► who says so, and the Report
//! task: Assignment ──TaskSigner──► compact JWS ──TaskVerifier──► Assignment, or a TaskRefusal
//! seal: a text ──DataKey──► ciphertext; a DataKey ──MasterKeys──► wrapped, as it is stored
//! ```
//!
//! Never here: SQL, HTTP routes, a decision about who may do what, a second crypto backend beside aws-lc-rs. The time
//! comes in as a value. Keys are the exception to "randomness comes in": the backend draws them itself.

pub mod access_token;
pub mod api_token;
pub mod ca;
mod certificate;
pub mod checkpoint;
mod csr;
pub mod current;
pub mod file;
pub mod fingerprint;
pub mod identity;
pub mod join_token;
pub mod last_signed;
pub mod master;
pub mod provider;
pub mod result;
pub mod seal;
pub mod secret;
pub mod task;
pub mod tls;
mod verifier;

pub use access_token::{AccessIssuer, AccessRefusal};
pub use api_token::ApiToken;
pub use ca::Authority;
pub use checkpoint::CheckpointVerifier;
pub use csr::{CsrError, requested_key};
pub use current::Current;
pub use fingerprint::Fingerprint;
pub use identity::{Credentials, NodeIdentity, NodeKey, PeerCertificate};
pub use join_token::JoinToken;
pub use master::MasterKeys;
pub use provider::{ProviderKeys, ProviderRefusal};
pub use result::{NodeSigner, ResultRefusal, ResultVerifier};
pub use seal::DataKey;
pub use secret::SecretHash;
pub use task::{Expected, TaskKey, TaskRefusal, TaskSigner, TaskVerifier};

/// Makes aws-lc-rs the crypto backend of everything in this process: rustls (reqwest included) and jsonwebtoken.
/// Calling it again does nothing. A binary calls it first; a client built before may panic for want of a backend.
pub fn install_crypto() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // An error means that someone installed a backend before: there is only one in this build.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn installing_the_backend_twice_is_harmless() {
        super::install_crypto();
        super::install_crypto();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
