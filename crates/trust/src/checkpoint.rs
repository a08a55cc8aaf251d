//! Checkpoints of the log's chain: where it stands, signed with the authority's key, which is in no database. Whoever kept the
//! authority's certificate verifies them without asking anybody.
//!
//! ```text
//! header  {"typ":"hostler-checkpoint+jwt","alg":"ES256"}
//! claims  the Checkpoint
//! ```

use hostler_model::chain::Checkpoint;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls::pki_types::CertificateDer;

use crate::{Authority, certificate::from_pem};

const TYP: &str = "hostler-checkpoint+jwt";

/// A checkpoint that could not be signed, or is not believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The authority's key signs certificates and nothing of ours.
    #[error("the chain's checkpoints are signed with ECDSA on P-256, and the authority's key is of another kind")]
    OtherKey,
    /// There is no certificate to verify with.
    #[error("this is not the PEM text of an authority's certificate")]
    NoCertificate,
    /// Not a checkpoint.
    #[error("a checkpoint cannot be read")]
    Malformed,
    /// Not signed by this authority, or changed.
    #[error("a checkpoint is not signed by this authority, or was changed")]
    BadSignature,
}

impl Authority {
    /// Signs where a chain stands.
    ///
    /// # Errors
    /// When the authority's key is of another kind: an operator's own.
    pub fn sign_checkpoint(&self, checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(TYP.to_owned());
        let key = EncodingKey::from_ec_der(&self.private_key());
        jsonwebtoken::encode(&header, checkpoint, &key).map_err(|_| CheckpointError::OtherKey)
    }
}

/// Verifies checkpoints of one authority.
pub struct CheckpointVerifier(DecodingKey);

impl std::fmt::Debug for CheckpointVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CheckpointVerifier(…)")
    }
}

impl CheckpointVerifier {
    /// With the authority's certificate, PEM.
    ///
    /// # Errors
    /// When there is none in the text.
    pub fn new(ca_pem: &str) -> Result<CheckpointVerifier, CheckpointError> {
        let certificate: CertificateDer<'_> =
            from_pem(ca_pem).and_then(|mut all| all.drain(..).next()).ok_or(CheckpointError::NoCertificate)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| CheckpointError::NoCertificate)?;
        Ok(CheckpointVerifier(DecodingKey::from_ec_der(&parsed.public_key().subject_public_key.data)))
    }

    /// What was signed.
    ///
    /// # Errors
    /// When it is no checkpoint, or not this authority's.
    pub fn verify(&self, token: &str) -> Result<Checkpoint, CheckpointError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| CheckpointError::Malformed)?;
        if header.typ.as_deref() != Some(TYP) || header.alg != Algorithm::ES256 {
            return Err(CheckpointError::Malformed);
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let verified = jsonwebtoken::decode::<Checkpoint>(token, &self.0, &validation);
        verified.map(|token| token.claims).map_err(|_| CheckpointError::BadSignature)
    }
}

#[cfg(test)]
mod tests {
    use hostler_model::{
        Timestamp,
        chain::{HexHash, Stand},
    };

    use super::*;

    fn checkpoint() -> Checkpoint {
        let stand = Stand { seq: 42, hash: HexHash([7; 32]) };
        Checkpoint { iss: "hostler".into(), stand, at: Timestamp::from_micros(1_800_000_000_000_000) }
    }

    #[test]
    fn what_the_authority_signed_is_verified_with_its_certificate_alone() {
        crate::install_crypto();
        let authority = Authority::create(checkpoint().at).unwrap();
        let token = authority.sign_checkpoint(&checkpoint()).unwrap();
        let verifier = CheckpointVerifier::new(authority.ca_pem()).unwrap();
        assert_eq!(verifier.verify(&token), Ok(checkpoint()));
        let other = CheckpointVerifier::new(Authority::create(checkpoint().at).unwrap().ca_pem()).unwrap();
        assert_eq!(other.verify(&token), Err(CheckpointError::BadSignature));
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            assert_ne!(verifier.verify(&String::from_utf8(bytes).unwrap()), Ok(checkpoint()), "{place}");
        }
        assert_eq!(CheckpointVerifier::new("no").unwrap_err(), CheckpointError::NoCertificate);
    }
}
