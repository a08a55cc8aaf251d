//! Small things about X.509 that the authority and the identities share: times, serial numbers, PEM.

use std::time::Duration;

use hostler_model::Timestamp;
use rcgen::SerialNumber;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;

use crate::fingerprint::sha256;

/// How far a certificate's beginning lies before now: a peer's clock may be this much behind ours, or ours may step back
/// once the time is known. A day: a clock that holds local time is up to 14 hours off until then, and an agent that is cut
/// off for its clock could not even say so. It gives nothing away, for no key is older than its certificate.
pub(crate) const SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// A moment before another, for [`Timestamp`] only adds.
pub(crate) fn before(moment: Timestamp, by: Duration) -> Timestamp {
    let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(moment.as_micros().saturating_sub(micros))
}

/// A moment as X.509 writes it. `None` outside of the years that it can write.
pub(crate) fn date(moment: Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(moment.as_micros().div_euclid(1_000_000)).ok()
}

/// From seconds since the Unix epoch.
pub(crate) fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(1_000_000))
}

/// A serial number that differs wherever anything in the certificate differs: 159 bits of a hash over what it says.
pub(crate) fn serial(parts: &[&[u8]]) -> SerialNumber {
    let mut bytes = sha256(&parts.join(&b'\n'))[..20].to_vec();
    // RFC 5280 §4.1.2.2: positive, at most 20 bytes.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from(bytes)
}

/// The certificates in a PEM text, in order. `None` when one of them cannot be read or there is none.
pub(crate) fn from_pem(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}
