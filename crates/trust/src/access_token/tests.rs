use std::time::Duration;

use hostler_model::{Ids, scope::Scopes};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::*;

const NAME: &str = "https://hostler.example.com";

fn now() -> Timestamp {
    Timestamp::from_micros(1_760_000_000_000_000)
}

fn later(seconds: u64) -> Timestamp {
    now().plus(Duration::from_secs(seconds))
}

fn caller() -> Caller {
    crate::install_crypto();
    let caller = Caller::new(PrincipalId::SYSTEM, TenantId::DEFAULT, Role::Operator);
    Caller { scopes: Scopes::of_words(Some("vm:read")), ..caller }
}

fn issued(issuer: &AccessIssuer, now: Timestamp) -> String {
    let id = Ids::seeded(1).next(now);
    issuer.issue(id, &caller(), now, now.plus(Duration::from_secs(3600))).unwrap()
}

#[test]
fn a_token_says_who_calls_until_its_time_is_up() {
    let issuer = AccessIssuer::generate(NAME, now()).unwrap();
    let token = issued(&issuer, now());
    let claims = issuer.verify(&token, later(3599)).unwrap();
    assert_eq!((claims.iss.as_str(), claims.aud, claims.tenant), (NAME, Audience::Tenant, Some(TenantId::DEFAULT)));
    assert_eq!((claims.roles, claims.scope.as_deref()), (vec![Role::Operator], Some("vm:read")));
    assert_eq!(issuer.verify(&token, later(3600)), Err(AccessRefusal::Expired));
    assert_eq!(said_issuer(&token).as_deref(), Some(NAME));
    assert_eq!(said_issuer("hos_x"), None);
}

#[test]
fn what_was_changed_or_signed_by_another_is_not_believed() {
    let (issuer, other) = (AccessIssuer::generate(NAME, now()).unwrap(), AccessIssuer::generate(NAME, now()).unwrap());
    let token = issued(&issuer, now());
    assert_eq!(issuer.verify(&issued(&other, now()), now()), Err(AccessRefusal::UnknownKey));
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = part(&token, 1).unwrap();
    claims["roles"] = json!(["platform-admin"]);
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
    let forged = format!("{}.{claims}.{}", parts[0], parts[2]);
    assert_eq!(issuer.verify(&forged, now()), Err(AccessRefusal::BadSignature));
    let elsewhere = AccessIssuer { name: "https://other".into(), ..issuer };
    assert_eq!(elsewhere.verify(&token, now()), Err(AccessRefusal::WrongIssuer));
}

#[test]
fn the_algorithm_is_not_the_tokens_to_say() {
    let issuer = AccessIssuer::generate(NAME, now()).unwrap();
    let token = issued(&issuer, now());
    let (claims, kid): (Value, Value) = (part(&token, 1).unwrap(), issuer.jwks()["keys"][0].clone());
    // The published key, taken for a shared secret.
    let secret = EncodingKey::from_secret(kid["x"].as_str().unwrap().as_bytes());
    let header = Header { typ: Some(TYP.into()), kid: kid["kid"].as_str().map(str::to_owned), ..Header::default() };
    let confused = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
    assert_eq!(issuer.verify(&confused, now()), Err(AccessRefusal::WrongAlgorithm));
    for alg in ["none", "None", "HS512", "RS256", "ES256", ""] {
        let head = BASE64_URL_SAFE_NO_PAD.encode(json!({"typ": TYP, "alg": alg, "kid": kid["kid"]}).to_string());
        let rest = token.split_once('.').unwrap().1;
        for unsigned in [format!("{head}.{rest}"), format!("{head}.{}.", rest.split('.').next().unwrap())] {
            assert_eq!(issuer.verify(&unsigned, now()), Err(AccessRefusal::WrongAlgorithm), "{alg}");
        }
    }
    for garbage in ["", ".", "..", "a.b.c", "hos_x", &token[1..]] {
        assert_eq!(issuer.verify(garbage, now()), Err(AccessRefusal::Malformed), "{garbage}");
    }
}

#[test]
fn a_new_key_is_published_before_it_signs_and_the_old_one_still_verifies() {
    crate::install_crypto();
    let dir = tempfile::tempdir().unwrap();
    let issuer = AccessIssuer::open(NAME, dir.path(), now()).unwrap();
    let old = issued(&issuer, now());
    let kid = AccessIssuer::rotate(dir.path(), later(100)).unwrap();
    issuer.look(later(4)).unwrap();
    assert_eq!(issuer.jwks()["keys"].as_array().unwrap().len(), 1, "the folder was looked at a moment ago");
    issuer.look(later(110)).unwrap();
    let published: Vec<Value> =
        issuer.jwks()["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect();
    assert!(published.len() == 2 && published.contains(&json!(kid)));
    let signed_by = |at| part::<Head>(&issued(&issuer, at), 0).unwrap().kid.unwrap();
    assert_ne!(signed_by(later(159)), kid);
    assert_eq!(signed_by(later(160)), kid);
    assert!(issuer.verify(&old, later(200)).is_ok());
    // A year and a day after that nothing that the old key signed can be good.
    AccessIssuer::rotate(dir.path(), later(367 * 24 * 3600 + 200)).unwrap();
    issuer.look(later(367 * 24 * 3600 + 300)).unwrap();
    let left: Vec<Value> = issuer.jwks()["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect();
    assert!(left.len() == 2 && left.contains(&json!(kid)) && left.iter().all(|kid| *kid != published[0]), "{left:?}");
}

#[test]
fn a_folder_that_others_can_read_or_that_is_empty_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    crate::install_crypto();
    let dir = tempfile::tempdir().unwrap();
    let issuer = AccessIssuer::open(NAME, dir.path(), now()).unwrap();
    let token = issued(&issuer, now());
    let file = std::fs::read_dir(keys::folder(dir.path())).unwrap().next().unwrap().unwrap().path();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(AccessIssuer::open(NAME, dir.path(), now()), Err(TokenKeyError::File(_))));
    assert!(issuer.look(later(10)).is_err());
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(issuer.look(later(20)), Err(TokenKeyError::None(_))));
    assert!(issuer.verify(&token, later(20)).is_ok(), "the keys stay as they were");
}
