//! Claims about the authority's files and about what it signs.

use std::fs;

use hostler_model::Ids;
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::GeneralName,
    prelude::{FromDer, ParsedExtension},
};

use super::*;
use crate::{NodeKey, PeerCertificate};

fn now() -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000)
}

fn who() -> (NodeId, EnrolmentId) {
    let ids = Ids::seeded(1);
    (ids.next(now()), ids.next(now()))
}

fn der(pem: &str) -> CertificateDer<'static> {
    from_pem(pem).unwrap().swap_remove(0)
}

#[test]
fn an_authority_is_made_once_and_then_found() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ca");
    assert!(Authority::load(&folder).unwrap().is_none());
    let made = Authority::load_or_create(&folder, now()).unwrap();
    let found = Authority::load_or_create(&folder, now()).unwrap();
    assert_eq!(made.fingerprint(), found.fingerprint());
    assert_eq!(made.fingerprint(), Fingerprint::of_pem(found.ca_pem()).unwrap());
    assert_eq!(found.expires_at(), now().plus(AUTHORITY_VALIDITY));
}

#[test]
fn a_kill_between_key_and_certificate_leaves_no_authority_and_a_usable_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = Authority::create(now()).unwrap();
    file::write_private(&dir.path().join(KEY_FILE), first.issuer.key().serialize_pem().as_bytes()).unwrap();
    fs::write(dir.path().join(".ca.pem.4194305-0.tmp"), &first.pem[..100]).unwrap();
    assert!(Authority::load(dir.path()).unwrap().is_none());
    let made = Authority::load_or_create(dir.path(), now()).unwrap();
    assert_eq!(Authority::load(dir.path()).unwrap().unwrap().fingerprint(), made.fingerprint());
}

#[test]
fn a_lost_key_is_an_error_and_never_a_new_authority() {
    let dir = tempfile::tempdir().unwrap();
    Authority::load_or_create(dir.path(), now()).unwrap();
    fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
    assert!(matches!(Authority::load_or_create(dir.path(), now()), Err(CaError::KeyMissing(_))));
}

#[test]
fn another_authoritys_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Authority::load_or_create(dir.path(), now()).unwrap();
    let other = Authority::create(now()).unwrap();
    file::write_private(&dir.path().join(KEY_FILE), other.issuer.key().serialize_pem().as_bytes()).unwrap();
    assert!(matches!(Authority::load(dir.path()), Err(CaError::Mismatch)));
}

#[test]
fn a_nodes_certificate_says_who_it_is_and_nothing_it_asked_for() {
    let authority = Authority::create(now()).unwrap();
    let (node, enrolment) = who();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut wish = CertificateParams::new(["admin.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    wish.distinguished_name.push(DnType::CommonName, "root");
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
    wish.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    let csr = wish.serialize_request(&key).unwrap().pem().unwrap();

    let signed = der(&authority.sign_node(&csr, node, enrolment, now(), NODE_VALIDITY).unwrap());
    let (_, cert) = x509_parser::parse_x509_certificate(&signed).unwrap();
    assert_eq!(cert.subject().to_string(), format!("CN={node}"));
    let names = &cert.subject_alternative_name().unwrap().unwrap().value.general_names;
    let uri = format!("spiffe://hostler/node/{node}/enrolment/{enrolment}");
    assert_eq!(names, &[GeneralName::URI(&uri)]);
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!cert.is_ca());
    assert!(
        !cert.extensions().iter().any(|e| matches!(e.parsed_extension(), ParsedExtension::UnsupportedExtension { .. }))
    );
    assert_eq!(cert.public_key().raw, key.subject_public_key_info());
    assert_eq!(moment(cert.validity().not_before.timestamp()), before(now(), SKEW));
    assert_eq!(moment(cert.validity().not_after.timestamp()), now().plus(NODE_VALIDITY));
}

#[test]
fn a_request_changed_in_any_byte_is_refused_or_is_for_the_same_key() {
    let (key, csr) = {
        let key = NodeKey::generate().unwrap();
        let csr = key.csr("node-1").unwrap();
        (key.public_point().to_vec(), csr)
    };
    assert_eq!(csr::public_key(&csr).unwrap().der_bytes(), key);
    let whole = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap().to_vec();
    let (_, parsed) = X509CertificationRequest::from_der(&whole).unwrap();
    let place = |part: &[u8]| {
        let start = whole.windows(part.len()).position(|window| window == part).unwrap();
        start..start + part.len()
    };
    let signed = place(parsed.certification_request_info.raw);
    let signature = place(&parsed.signature_value.data);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let read = csr::public_key(&pem("CERTIFICATE REQUEST", &bytes));
            // What is neither signed nor the signature only says how to read it.
            let covered = signed.contains(&at) || signature.contains(&at);
            assert!(read.is_err() || (!covered && read.unwrap().der_bytes() == key), "byte {at}, bit {bit}");
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn a_request_with_someone_elses_key_is_refused() {
    let (mine, theirs) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let request = |key: &NodeKey| {
        CertificateSigningRequestDer::from_pem_slice(key.csr("n").unwrap().as_bytes()).unwrap().to_vec()
    };
    let point = |key: &NodeKey| key.public_point().to_vec();
    let (my_point, their_point) = (point(&mine), point(&theirs));
    let mut bytes = request(&mine);
    let at = bytes.windows(my_point.len()).position(|window| window == my_point).unwrap();
    bytes[at..at + their_point.len()].copy_from_slice(&their_point);
    let refusal = csr::public_key(&pem("CERTIFICATE REQUEST", &bytes)).unwrap_err();
    assert_eq!(refusal, CsrError::BadSignature);
}

#[test]
fn what_is_no_request_or_of_another_kind_of_key_is_refused() {
    let big = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let csr = CertificateParams::default().serialize_request(&big).unwrap().pem().unwrap();
    assert_eq!(csr::public_key(&csr).unwrap_err(), CsrError::UnsupportedKey);
    for text in ["", "hello", &pem("CERTIFICATE REQUEST", b"hello"), Authority::create(now()).unwrap().ca_pem()] {
        assert_eq!(csr::public_key(text).unwrap_err(), CsrError::Malformed);
    }
}

#[test]
fn renewals_of_one_key_have_serial_numbers_of_their_own() {
    let authority = Authority::create(now()).unwrap();
    let (node, enrolment) = who();
    let csr = NodeKey::generate().unwrap().csr("node-1").unwrap();
    let serial_at = |now| {
        let signed = der(&authority.sign_node(&csr, node, enrolment, now, NODE_VALIDITY).unwrap());
        x509_parser::parse_x509_certificate(&signed).unwrap().1.raw_serial_as_string()
    };
    assert_ne!(serial_at(now()), serial_at(now().plus(Duration::from_secs(1))));
}

#[test]
fn no_node_outlives_its_authority() {
    let authority = Authority::create(now()).unwrap();
    let (node, enrolment) = who();
    let csr = NodeKey::generate().unwrap().csr("node-1").unwrap();
    let signed = authority.sign_node(&csr, node, enrolment, now(), 2 * AUTHORITY_VALIDITY).unwrap();
    assert_eq!(PeerCertificate::parse(&der(&signed)).unwrap().expires_at, authority.expires_at());
}

#[test]
fn a_server_name_must_be_a_host_or_an_address() {
    let authority = Authority::create(now()).unwrap();
    assert!(authority.server_certificate(&["hostler.example".into(), "10.1.2.3".into()], now()).is_ok());
    for bad in ["", "a b", "https://host", "host:9090"] {
        let refused = authority.server_certificate(&[bad.to_owned()], now());
        assert!(matches!(refused, Err(CaError::BadName(name)) if name == bad));
    }
}

#[test]
fn an_authoritys_debug_shows_no_key() {
    let authority = Authority::create(now()).unwrap();
    let key = authority.issuer.key().serialize_pem();
    let shown = format!("{authority:?} {:?}", authority.server_certificate(&[], now()).unwrap());
    assert!(key.lines().all(|line| !shown.contains(line)));
    assert!(shown.contains(&authority.fingerprint().to_string()));
}

/// A certificate of this authority that ends later, PEM, under a name.
fn later(authority: &Authority, name: &str) -> String {
    let mut params = lasting(now(), now().plus(AUTHORITY_VALIDITY * 2)).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.self_signed(authority.issuer.key()).unwrap().pem()
}

fn name_of(authority: &Authority) -> String {
    let (_, parsed) = x509_parser::parse_x509_certificate(&authority.certificate).unwrap();
    parsed.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
}

#[test]
fn what_is_not_the_same_authority_takes_nothings_place() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = Authority::load_or_create(dir.path(), now()).unwrap();
    let before = made.ca_pem().to_owned();
    let current = crate::Current::of(made.files(), made);
    assert!(!current.reload(Authority::renewed).unwrap());
    let authority = current.get();
    let put = |pem: &str| file::write_private(&dir.path().join(CERTIFICATE_FILE), pem.as_bytes()).unwrap();
    // Half of it, another name, another key, and one that no node knows.
    let good = later(&authority, &name_of(&authority));
    put(&good[..good.len() / 2]);
    assert!(matches!(current.reload(Authority::renewed), Err(CaError::Unreadable(_))));
    assert!(!current.reload(Authority::renewed).unwrap(), "it is complained of once");
    put(&(later(&authority, "somebody else") + &before));
    assert!(matches!(current.reload(Authority::renewed), Err(CaError::Other(_))));
    let stranger = Authority::load_or_create(other.path(), now()).unwrap();
    put(stranger.ca_pem());
    assert!(matches!(current.reload(Authority::renewed), Err(CaError::Mismatch)));
    put(&good);
    assert!(matches!(current.reload(Authority::renewed), Err(CaError::Forgotten(_))));
    assert_eq!((current.get().ca_pem(), current.get().expires_at()), (&*before, now().plus(AUTHORITY_VALIDITY)));
    // The new one before the old one is as it should be, and a server that starts then has the same.
    put(&(good.clone() + &before));
    assert!(current.reload(Authority::renewed).unwrap());
    let (renewed, started) = (current.get(), Authority::load(dir.path()).unwrap().unwrap());
    for one in [&*renewed, &started] {
        assert_eq!((one.ca_pem(), one.expires_at()), (&*good, now().plus(AUTHORITY_VALIDITY * 2)));
        assert_eq!((one.mark(), &one.earlier[..]), (authority.mark(), &[authority.certificate.clone()][..]));
    }
    assert!(Arc::ptr_eq(&renewed.last_signed, &authority.last_signed), "what was signed is not forgotten");
}
