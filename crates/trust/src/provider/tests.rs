use jsonwebtoken::{EncodingKey, Header, jwk::Jwk as Published};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
};
use serde_json::json;

use super::*;

const ISSUER: &str = "https://login.example.com";

/// A provider's key: what it signs with, and how it is published.
struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    jwk: Value,
}

impl Signer {
    fn new(kid: &str, algorithm: Algorithm) -> Signer {
        crate::install_crypto();
        let made = |kind: &'static SignatureAlgorithm| KeyPair::generate_for(kind).unwrap();
        let published =
            |key: &EncodingKey| serde_json::to_value(Published::from_encoding_key(key, algorithm).unwrap()).unwrap();
        let (key, mut jwk) = match algorithm {
            Algorithm::EdDSA => {
                let pair = made(&PKCS_ED25519);
                let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key_raw());
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x});
                (EncodingKey::from_ed_der(&pair.serialize_der()), jwk)
            }
            Algorithm::ES256 | Algorithm::ES384 => {
                let kind =
                    if algorithm == Algorithm::ES256 { &PKCS_ECDSA_P256_SHA256 } else { &PKCS_ECDSA_P384_SHA384 };
                let key = EncodingKey::from_ec_der(&made(kind).serialize_der());
                let jwk = published(&key);
                (key, jwk)
            }
            _ => {
                // What PKCS #8 puts before an RSA key of 2048 bits is 26 bytes long.
                let key = EncodingKey::from_rsa_der(&made(&PKCS_RSA_SHA256).serialize_der()[26..]);
                let jwk = published(&key);
                (key, jwk)
            }
        };
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        Signer { key, algorithm, jwk }
    }

    fn sign(&self, claims: &Value) -> String {
        let kid = self.jwk["kid"].as_str().map(str::to_owned);
        jsonwebtoken::encode(&Header { kid, ..Header::new(self.algorithm) }, claims, &self.key).unwrap()
    }
}

fn now() -> Timestamp {
    Timestamp::from_micros(1_760_000_000_000_000)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(now().as_micros() + seconds * 1_000_000)
}

fn claims() -> Value {
    let seconds = now().as_micros() / 1_000_000;
    json!({"iss": ISSUER, "aud": "hostler", "sub": "alice", "iat": seconds, "exp": seconds + 300})
}

fn verify(keys: &ProviderKeys, token: &str, now: Timestamp) -> Result<Stated, ProviderRefusal> {
    let audiences = ["hostler".to_owned(), "hostler-cli".to_owned()];
    keys.verify(token, &Demanded { issuer: ISSUER, audiences: &audiences, skew: Duration::from_secs(60) }, now)
}

#[test]
fn every_kind_of_key_verifies_what_it_signed() {
    for algorithm in
        [Algorithm::RS256, Algorithm::RS512, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA]
    {
        let (one, other) = (Signer::new("one", algorithm), Signer::new("one", algorithm));
        let keys = ProviderKeys::read(&json!({"keys": [one.jwk]})).unwrap();
        let stated = verify(&keys, &one.sign(&claims()), now()).unwrap();
        assert_eq!((stated.subject.as_str(), stated.expires_at), ("alice", at(360)), "{algorithm:?}");
        assert_eq!(verify(&keys, &other.sign(&claims()), now()), Err(ProviderRefusal::BadSignature), "{algorithm:?}");
    }
}

#[test]
fn a_key_is_for_what_it_is_and_a_token_does_not_say_for_what() {
    let signer = Signer::new("one", Algorithm::RS256);
    let keys = ProviderKeys::read(&json!({"keys": [signer.jwk]})).unwrap();
    // The published key, taken for a shared secret.
    for secret in [signer.jwk["n"].as_str().unwrap().to_owned(), signer.jwk.to_string()] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header = Header { kid: Some("one".into()), ..Header::new(algorithm) };
            let key = EncodingKey::from_secret(secret.as_bytes());
            let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
            assert_eq!(verify(&keys, &token, now()), Err(ProviderRefusal::WrongAlgorithm));
        }
    }
    let token = signer.sign(&claims());
    let body = token.split('.').nth(1).unwrap();
    for (alg, refusal) in [
        ("none", ProviderRefusal::WrongAlgorithm),
        ("NONE", ProviderRefusal::WrongAlgorithm),
        ("", ProviderRefusal::WrongAlgorithm),
        ("ES256", ProviderRefusal::UnknownKey),
        ("EdDSA", ProviderRefusal::UnknownKey),
    ] {
        let head = BASE64_URL_SAFE_NO_PAD.encode(json!({"alg": alg, "kid": "one"}).to_string());
        assert_eq!(verify(&keys, &format!("{head}.{body}."), now()), Err(refusal), "{alg}");
    }
    // One that names its algorithm signs with no other.
    let named =
        json!({"keys": [{"alg": "RS512", "kty": "RSA", "kid": "one", "n": signer.jwk["n"], "e": signer.jwk["e"]}]});
    assert_eq!(verify(&ProviderKeys::read(&named).unwrap(), &token, now()), Err(ProviderRefusal::UnknownKey));
}

#[test]
fn a_token_is_from_this_issuer_for_us_and_in_time() {
    let signer = Signer::new("one", Algorithm::EdDSA);
    let keys = ProviderKeys::read(&json!({"keys": [signer.jwk]})).unwrap();
    let with = |changes: Value| {
        let mut all = claims();
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        signer.sign(&all)
    };
    let seconds = now().as_micros() / 1_000_000;
    for (changes, refusal) in [
        (json!({"iss": "https://login.example.com/"}), ProviderRefusal::WrongIssuer),
        (json!({"iss": null}), ProviderRefusal::WrongIssuer),
        (json!({"aud": "other"}), ProviderRefusal::WrongAudience),
        (json!({"aud": []}), ProviderRefusal::WrongAudience),
        (json!({"aud": null}), ProviderRefusal::WrongAudience),
        (json!({"exp": null}), ProviderRefusal::Malformed),
        (json!({"sub": ""}), ProviderRefusal::Malformed),
        (json!({"exp": seconds - 60}), ProviderRefusal::Expired),
        (json!({"nbf": seconds + 61}), ProviderRefusal::NotYet),
        (json!({"iat": seconds + 61}), ProviderRefusal::NotYet),
    ] {
        assert_eq!(verify(&keys, &with(changes.clone()), now()), Err(refusal), "{changes}");
    }
    // The clocks may disagree by so much, and no more.
    for good in [json!({"exp": seconds - 59}), json!({"nbf": seconds + 60}), json!({"aud": ["x", "hostler-cli"]})] {
        assert!(verify(&keys, &with(good.clone()), now()).is_ok(), "{good}");
    }
    let crit = Header { kid: Some("one".into()), crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::EdDSA) };
    let crit = jsonwebtoken::encode(&crit, &claims(), &signer.key);
    assert!(crit.is_err() || verify(&keys, &crit.unwrap(), now()) == Err(ProviderRefusal::Malformed));
    for garbage in ["", "a", "a.b", "a.b.c", "a.b.c.d", "hos_x"] {
        assert_eq!(verify(&keys, garbage, now()), Err(ProviderRefusal::Malformed), "{garbage}");
    }
}

/// The shapes in which well-known providers publish their keys: with and without `alg`, `use` and certificates, keys for
/// encryption, of other kinds, and that were rotated out beside the one that signs, members that nobody here knows. Written by
/// hand, nothing was recorded; the discovery documents that go with them are in `control/oidc/source/tests.rs`.
#[test]
fn the_sets_of_well_known_providers_are_read() {
    let (rsa, ec, ed) =
        (Signer::new("k", Algorithm::RS256), Signer::new("k", Algorithm::ES256), Signer::new("k", Algorithm::EdDSA));
    let (n, e) = (&rsa.jwk["n"], &rsa.jwk["e"]);
    let sets = [
        // Google and Auth0: several with names, an algorithm each; Auth0 with a certificate.
        json!({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k", "n": n, "e": e},
                        {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "older", "n": n, "e": e, "x5c": ["MIIC"], "x5t": "x"}]}),
        // Entra ID: no algorithm, the issuer beside the key.
        json!({"keys": [{"kty": "RSA", "use": "sig", "kid": "k", "x5t": "k", "n": n, "e": e, "x5c": ["MIIC"],
                         "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"}]}),
        // Okta: one, with nothing else. Keycloak, where it has keys of several kinds, under names of their own.
        json!({"keys": [{"kty": "RSA", "alg": "RS256", "kid": "k", "use": "sig", "e": e, "n": n}]}),
        json!({"keys": [{"kty": "EC", "alg": "ES256", "use": "sig", "kid": "other", "crv": "P-256", "x": ec.jwk["x"], "y": ec.jwk["y"]},
                        {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k", "n": n, "e": e, "x5c": ["MIIC"], "x5t": "x"}]}),
        // Keycloak: a key for encryption in the same set, which signs nothing.
        json!({"keys": [{"kty": "RSA", "alg": "RSA-OAEP", "use": "enc", "kid": "k", "n": n, "e": e},
                        {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k", "n": n, "e": e, "x5t#S256": "x"}]}),
        // Dex and GitLab: a key that was rotated out beside the one that signs; key_ops in place of use.
        json!({"keys": [{"kty": "RSA", "kid": "old", "alg": "RS256", "use": "sig", "n": n, "e": e},
                        {"kty": "RSA", "kid": "k", "key_ops": ["verify"], "n": n, "e": e}]}),
        // Kinds that nobody here knows are passed over.
        json!({"keys": [{"kty": "AKP", "alg": "ML-DSA-44", "kid": "k", "pub": "x"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "k"},
                        7, {"kid": "k"}, {"kty": "EC", "crv": "secp256k1", "kid": "k", "x": "x", "y": "y"}, rsa.jwk]}),
    ];
    for set in sets {
        let keys = ProviderKeys::read(&set).unwrap();
        assert!(verify(&keys, &rsa.sign(&claims()), now()).is_ok(), "{set}");
        assert_eq!(verify(&keys, &ec.sign(&claims()), now()), Err(ProviderRefusal::UnknownKey), "{set}");
        assert_eq!(verify(&keys, &ed.sign(&claims()), now()), Err(ProviderRefusal::UnknownKey), "{set}");
    }
    // One name for keys of several kinds (Zitadel does so): the algorithm says which.
    let mixed = ProviderKeys::read(&json!({"keys": [rsa.jwk, ec.jwk, ed.jwk]})).unwrap();
    for signer in [&rsa, &ec, &ed] {
        assert!(verify(&mixed, &signer.sign(&claims()), now()).is_ok());
    }
    let short = json!({"keys": [{"kty": "RSA", "kid": "k", "n": "AQAB", "e": "AQAB"}]});
    for unusable in [
        json!({}),
        json!({"keys": []}),
        json!({"keys": 1}),
        json!([]),
        json!({"keys": [{"kty": "oct", "k": "x"}]}),
        short,
    ] {
        assert!(ProviderKeys::read(&unusable).is_none(), "{unusable}");
    }
}

#[test]
fn a_token_without_a_name_is_verified_by_the_only_key_that_could_have_signed_it() {
    let (one, other) = (Signer::new("one", Algorithm::ES256), Signer::new("other", Algorithm::ES256));
    let nameless = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims(), &one.key).unwrap();
    let both = ProviderKeys::read(&json!({"keys": [one.jwk, other.jwk]})).unwrap();
    assert_eq!(verify(&both, &nameless, now()), Err(ProviderRefusal::UnknownKey));
    assert!(verify(&ProviderKeys::read(&json!({"keys": [one.jwk]})).unwrap(), &nameless, now()).is_ok());
}
