//! Claims about identities and about the file that keeps them.

use std::{fs, time::Duration};

use hostler_model::Ids;
use rcgen::SanType;

use super::*;
use crate::Authority;

fn now() -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000)
}

fn identity() -> NodeIdentity {
    let ids = Ids::seeded(1);
    NodeIdentity { node: ids.next(now()), enrolment: ids.next(now()) }
}

fn credentials(authority: &Authority, key: &NodeKey, life: Duration) -> Credentials {
    let who = identity();
    let signed = authority.sign_node(&key.csr("node-1").unwrap(), who.node, who.enrolment, now(), life).unwrap();
    Credentials::new(key, &signed, authority.ca_pem()).unwrap()
}

#[test]
fn credentials_survive_their_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, key) = (Authority::create(now()).unwrap(), NodeKey::generate().unwrap());
    assert!(Credentials::load(dir.path()).unwrap().is_none());
    let made = credentials(&authority, &key, Duration::from_secs(3600));
    made.save(dir.path()).unwrap();
    let found = Credentials::load(dir.path()).unwrap().unwrap();
    assert_eq!(found.identity(), identity());
    assert_eq!(found.authority_fingerprint(), authority.fingerprint());
    assert_eq!(found.key().unwrap().public_point(), key.public_point());
}

#[test]
fn a_kill_while_writing_new_credentials_leaves_the_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, key) = (Authority::create(now()).unwrap(), NodeKey::generate().unwrap());
    let old = credentials(&authority, &key, Duration::from_secs(3600));
    old.save(dir.path()).unwrap();
    let new = credentials(&authority, &key, Duration::from_secs(7200));
    fs::write(dir.path().join(".credentials.pem.4194305-0.tmp"), &new.pem[..300]).unwrap();
    assert_eq!(Credentials::load(dir.path()).unwrap().unwrap().expires_at(), old.expires_at());
    new.save(dir.path()).unwrap();
    assert_eq!(Credentials::load(dir.path()).unwrap().unwrap().expires_at(), new.expires_at());
}

#[test]
fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
    let (authority, key) = (Authority::create(now()).unwrap(), NodeKey::generate().unwrap());
    // That it is good for peers whose clocks are behind does not make it older.
    let found = credentials(&authority, &key, Duration::from_secs(60 * 60));
    assert_eq!(found.renew_at(), now().plus(Duration::from_secs(40 * 60)));
    assert_eq!(found.expires_at(), now().plus(Duration::from_secs(60 * 60)));
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let (authority, key, other) =
        (Authority::create(now()).unwrap(), NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let who = identity();
    let signed =
        authority.sign_node(&other.csr("n").unwrap(), who.node, who.enrolment, now(), Duration::from_secs(60)).unwrap();
    let refused = Credentials::new(&key, &signed, authority.ca_pem());
    assert!(matches!(refused, Err(IdentityError::Mismatch)));
}

#[test]
fn credentials_cut_short_anywhere_are_refused() {
    let (authority, key) = (Authority::create(now()).unwrap(), NodeKey::generate().unwrap());
    let pem = credentials(&authority, &key, Duration::from_secs(60)).pem;
    for end in 0..pem.trim_end().len() - 5 {
        assert!(Credentials::parse(pem[..end].to_owned()).is_err(), "{end}");
    }
}

#[test]
fn a_certificate_with_none_or_more_names_is_no_node() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let (one, other) = (identity().uri(), identity().uri().replace("enrolment/", "enrolment/x"));
    let names = [
        vec![],
        vec![uri(&one), uri(&one)],
        vec![uri(&one), SanType::DnsName("host".try_into().unwrap())],
        vec![uri(&other)],
        vec![uri("https://example.com")],
    ];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    for subject_alt_names in names {
        let mut params = CertificateParams::default();
        params.subject_alt_names = subject_alt_names;
        let certificate = params.self_signed(&key).unwrap();
        assert!(matches!(PeerCertificate::parse(certificate.der()), Err(IdentityError::NotANode)));
    }
}

#[test]
fn an_identity_has_one_spelling() {
    let uri = identity().uri();
    assert_eq!(uri.parse::<NodeIdentity>().unwrap(), identity());
    let node = identity().node.to_string();
    let others = [
        uri.to_uppercase(),
        uri.replace(&node, &node.to_uppercase()),
        uri.replace(&node, &node.replace('-', "")),
        format!("{uri}/"),
        format!("{uri}?x"),
        uri.replace("hostler", "other"),
    ];
    for other in others {
        assert!(other.parse::<NodeIdentity>().is_err(), "{other}");
    }
}

#[test]
fn keys_survive_their_file_and_never_show_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    assert!(NodeKey::load(&path).unwrap().is_none());
    let key = NodeKey::generate().unwrap();
    key.save(&path).unwrap();
    assert_eq!(NodeKey::load(&path).unwrap().unwrap().public_point(), key.public_point());
    assert_eq!(format!("{key:?}"), "NodeKey(…)");
}
