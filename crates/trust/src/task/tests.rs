//! Claims about signed tasks: what is accepted, and what is refused why.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hostler_model::{
    Fence, Ids, NodeId, Timestamp,
    internal::Assignment,
    key::{KeyState, SigningKey},
    kind::KindName,
    task::{Intent, Target},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "hostler-test";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn assignment() -> Assignment {
    let ids = Ids::seeded(1);
    Assignment {
        iss: ISSUER.to_owned(),
        aud: ids.next(at(1000)),
        sub: ids.next(at(1000)),
        jti: "task.1".to_owned(),
        iat: 1000,
        exp: 1060,
        fence: Fence { store_epoch: 1, attempt: 1 },
        epoch: Some(3),
        intent: Intent::Run,
        kind: KindName::ALL[0],
        target: Target::default(),
        params: json!({"message": "hello"}),
        lease_expires_at: at(1060),
        deadline: at(2000),
    }
}

fn expected(node: NodeId) -> Expected<'static> {
    Expected { issuer: ISSUER, node }
}

fn signer() -> (TaskSigner, SigningKey) {
    let key = TaskKey::generate().unwrap();
    let public = SigningKey {
        kid: key.kid(),
        state: KeyState::Active,
        public: key.public(),
        created_at: at(0),
        changed_at: at(0),
    };
    (key.signer(), public)
}

fn verifier_of(keys: &[&SigningKey]) -> TaskVerifier {
    TaskVerifier::from_jwks(&key_set(&keys.iter().map(|key| (*key).clone()).collect::<Vec<_>>())).unwrap()
}

/// A signer, its verifier, a task and its token.
fn signed() -> (TaskSigner, TaskVerifier, Assignment, String) {
    let (signer, public) = signer();
    let verifier = verifier_of(&[&public]);
    let task = assignment();
    let token = signer.sign(&task).unwrap();
    (signer, verifier, task, token)
}

/// What a token with one task comes to.
fn one(
    verifier: &TaskVerifier,
    token: &str,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<Assignment, TaskRefusal> {
    let mut tasks = verifier.verify(token, expected, now)?;
    assert_eq!(tasks.len(), 1);
    tasks.remove(0)
}

fn part(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

#[test]
fn a_signed_task_comes_out_as_it_went_in() {
    let (_, verifier, task, token) = signed();
    assert_eq!(one(&verifier, &token, &expected(task.aud), at(1000)), Ok(task));
}

#[test]
fn several_under_one_signature_are_believed_or_refused_each_by_itself() {
    let (signer, verifier, task, _) = signed();
    let late = Assignment { exp: 999, ..assignment() };
    let stray = Assignment { aud: Ids::seeded(2).next(at(1000)), ..assignment() };
    let token = signer.sign_several(&[task.clone(), late, stray]).unwrap();
    let seen = verifier.verify(&token, &expected(task.aud), at(1000)).unwrap();
    assert_eq!(seen, [Ok(task.clone()), Err(TaskRefusal::Expired), Err(TaskRefusal::WrongAudience)]);
    for place in [token.find('.').unwrap() + 2, token.len() - 40] {
        let mut bytes = token.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(verifier.verify(&changed, &expected(task.aud), at(1000)).is_err(), "{place}");
    }
    // What cannot be read is refused alone.
    let mut unread = serde_json::to_value(&task).unwrap();
    unread["kind"] = json!("of.tomorrow");
    let header = Header {
        typ: Some(TYP_OF_SEVERAL.to_owned()),
        kid: Some(signer.kid().to_owned()),
        ..Header::new(Algorithm::EdDSA)
    };
    let token = jsonwebtoken::encode(&header, &json!({"tasks": [unread, task]}), &signer.key).unwrap();
    let seen = verifier.verify(&token, &expected(task.aud), at(1000)).unwrap();
    assert_eq!(seen, [Err(TaskRefusal::Malformed), Ok(task.clone())]);
    // One kind's header over the other's claims is neither.
    let one_as_several = format!(
        "{}.{}",
        part(&json!({"typ": TYP_OF_SEVERAL, "alg": "EdDSA", "kid": signer.kid()})),
        signer.sign(&task).unwrap().split_once('.').unwrap().1
    );
    let seen = verifier.verify(&one_as_several, &expected(task.aud), at(1000));
    assert_eq!(seen, Err(TaskRefusal::BadSignature));
}

#[test]
fn a_token_changed_in_any_byte_is_refused() {
    let (_, verifier, task, token) = signed();
    let signature = token.rfind('.').unwrap();
    for place in 0..token.len() {
        for replacement in [b'A', b'z', b'0', b'-', b'_', b'.', b'='] {
            let mut bytes = token.clone().into_bytes();
            if bytes[place] == replacement {
                continue;
            }
            bytes[place] = replacement;
            let changed = String::from_utf8(bytes).unwrap();
            let refusal = one(&verifier, &changed, &expected(task.aud), at(1000)).unwrap_err();
            if place > signature && replacement != b'.' {
                assert!(matches!(refusal, TaskRefusal::BadSignature | TaskRefusal::Malformed), "{place}: {refusal}");
            }
        }
    }
}

#[test]
fn changed_claims_are_a_bad_signature() {
    let (_, verifier, task, token) = signed();
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims = serde_json::to_value(&task).unwrap();
    claims["params"] = json!({"message": "rm -rf /"});
    let changed = format!("{}.{}.{}", parts[0], part(&claims), parts[2]);
    assert_eq!(one(&verifier, &changed, &expected(task.aud), at(1000)), Err(TaskRefusal::BadSignature));
    let bare = format!("{}.{}.", parts[0], parts[1]);
    assert_eq!(one(&verifier, &bare, &expected(task.aud), at(1000)), Err(TaskRefusal::BadSignature));
}

#[test]
fn a_token_cut_short_or_made_longer_is_refused() {
    let (_, verifier, task, token) = signed();
    for end in 0..token.len() {
        assert!(one(&verifier, &token[..end], &expected(task.aud), at(1000)).is_err(), "{end}");
    }
    for more in ["A", "=", ".", "\n", " "] {
        assert!(one(&verifier, &format!("{token}{more}"), &expected(task.aud), at(1000)).is_err(), "{more:?}");
        assert!(one(&verifier, &format!("{more}{token}"), &expected(task.aud), at(1000)).is_err(), "{more:?}");
    }
}

#[test]
fn a_task_without_algorithm_is_refused() {
    let (signer, verifier, task, _) = signed();
    for alg in ["none", "None", "NONE", "", "eddsa"] {
        let header = json!({"typ": TYP, "alg": alg, "kid": signer.kid()});
        let token = format!("{}.{}.", part(&header), part(&serde_json::to_value(&task).unwrap()));
        assert_eq!(one(&verifier, &token, &expected(task.aud), at(1000)), Err(TaskRefusal::WrongAlgorithm), "{alg}");
    }
}

#[test]
fn a_task_signed_with_the_public_key_as_a_shared_secret_is_refused() {
    let (signer, public) = signer();
    let (verifier, task, set) = (verifier_of(&[&public]), assignment(), key_set(std::slice::from_ref(&public)));
    let raw = BASE64_URL_SAFE_NO_PAD.decode(&public.public).unwrap();
    for secret in [raw, public.public.into_bytes(), set.to_string().into_bytes()] {
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYP.to_owned());
        header.kid = Some(signer.kid().to_owned());
        let token = jsonwebtoken::encode(&header, &task, &EncodingKey::from_secret(&secret)).unwrap();
        assert_eq!(one(&verifier, &token, &expected(task.aud), at(1000)), Err(TaskRefusal::WrongAlgorithm));
        // The same signature under a header that lies about its algorithm.
        let parts: Vec<&str> = token.split('.').collect();
        let lie = part(&json!({"typ": TYP, "alg": "EdDSA", "kid": signer.kid()}));
        let token = format!("{lie}.{}.{}", parts[1], parts[2]);
        assert_eq!(one(&verifier, &token, &expected(task.aud), at(1000)), Err(TaskRefusal::BadSignature));
    }
}

#[test]
fn another_signers_task_is_refused_whatever_key_it_names() {
    let (signer, verifier, task, _) = signed();
    let other = TaskKey::generate().unwrap().signer();
    let token = other.sign(&task).unwrap();
    assert_eq!(one(&verifier, &token, &expected(task.aud), at(1000)), Err(TaskRefusal::UnknownKey));
    let parts: Vec<&str> = token.split('.').collect();
    let lie = part(&json!({"typ": TYP, "alg": "EdDSA", "kid": signer.kid()}));
    let token = format!("{lie}.{}.{}", parts[1], parts[2]);
    assert_eq!(one(&verifier, &token, &expected(task.aud), at(1000)), Err(TaskRefusal::BadSignature));
}

#[test]
fn another_kind_of_token_or_an_unknown_extension_is_malformed() {
    let (signer, verifier, task, token) = signed();
    let rest = token.split_once('.').unwrap().1;
    let headers = [
        json!({"alg": "EdDSA", "kid": signer.kid()}),
        json!({"typ": "JWT", "alg": "EdDSA", "kid": signer.kid()}),
        json!({"typ": TYP, "alg": "EdDSA", "kid": signer.kid(), "crit": ["b64"], "b64": false}),
    ];
    for header in headers {
        let token = format!("{}.{rest}", part(&header));
        assert_eq!(one(&verifier, &token, &expected(task.aud), at(1000)), Err(TaskRefusal::Malformed));
    }
}

#[test]
fn a_task_is_for_one_node_from_one_server_until_its_end() {
    let (_, verifier, task, token) = signed();
    let other: NodeId = Ids::seeded(2).next(at(1000));
    let stranger = Expected { issuer: "other", node: task.aud };
    assert_eq!(one(&verifier, &token, &stranger, at(1000)), Err(TaskRefusal::WrongIssuer));
    assert_eq!(one(&verifier, &token, &expected(other), at(1000)), Err(TaskRefusal::WrongAudience));
    let last = Timestamp::from_micros(1_060_000_000 - 1);
    assert!(one(&verifier, &token, &expected(task.aud), last).is_ok());
    assert_eq!(one(&verifier, &token, &expected(task.aud), at(1060)), Err(TaskRefusal::Expired));
}

#[test]
fn the_key_survives_its_text_and_never_shows_itself() {
    let made = TaskKey::generate().unwrap();
    let found = TaskKey::from_pem(&made.to_pem()).unwrap();
    assert_eq!((made.kid(), made.public()), (found.kid(), found.public()));
    assert_eq!(format!("{made:?} {:?}", made.signer()), format!("TaskKey({0}) TaskSigner({0})", made.kid()));
    assert!(matches!(TaskKey::from_pem("half"), Err(SignerError::Unreadable)));
}

#[test]
fn what_a_key_signed_is_believed_until_it_is_retired_or_revoked() {
    let (signer, public) = signer();
    let (other, task) = (self::signer().1, assignment());
    let token = signer.sign(&task).unwrap();
    let seen = |state| {
        let key = SigningKey { state, ..public.clone() };
        one(&verifier_of(&[&other, &key]), &token, &expected(task.aud), at(1000)).map(|_| ())
    };
    for believed in [KeyState::Staged, KeyState::Active, KeyState::Grace] {
        assert_eq!(seen(believed), Ok(()), "{believed}");
    }
    assert_eq!(seen(KeyState::Retired), Err(TaskRefusal::UnknownKey));
    assert_eq!(seen(KeyState::Revoked), Err(TaskRefusal::RevokedKey));
    // A set that contradicts itself is read as the stricter of the two.
    let both = json!({"keys": [jwk_of(&public)], "revoked": [public.kid]});
    let verifier = TaskVerifier::from_jwks(&both).unwrap();
    assert_eq!(one(&verifier, &token, &expected(task.aud), at(1000)), Err(TaskRefusal::RevokedKey));
}

#[test]
fn a_keys_name_is_its_rfc_7638_thumbprint() {
    // RFC 8037, appendix A.3.
    let public = BASE64_URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
    assert_eq!(thumbprint(&public), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn keys_of_other_kinds_never_verify_a_task() {
    let good = jwk_of(&signer().1);
    let with = |name: &str, value: Value| {
        let mut key = good.clone();
        key[name] = value;
        TaskVerifier::from_jwks(&json!({"keys": [key]})).map(|_| ())
    };
    assert_eq!(with("kty", json!("oct")), Err(KeySetError::Empty));
    assert_eq!(with("alg", json!("HS256")), Err(KeySetError::Empty));
    assert_eq!(with("use", json!("enc")), Err(KeySetError::Empty));
    assert_eq!(with("x", json!("AAAA")), Err(KeySetError::BadKey));
    assert_eq!(with("kid", Value::Null), Err(KeySetError::BadKey));
    assert!(matches!(TaskVerifier::from_jwks(&json!([])).unwrap_err(), KeySetError::NotASet(_)));
    let twice = TaskVerifier::from_jwks(&json!({"keys": [good, good]}));
    assert!(matches!(twice.unwrap_err(), KeySetError::Duplicate(_)));
}

#[test]
fn a_set_of_keys_verifies_what_any_of_them_signed() {
    let ((first, one_key), (other, other_key)) = (signer(), signer());
    let set = json!({"keys": [jwk_of(&one_key), {"kty": "oct", "k": "c2VjcmV0"}, jwk_of(&other_key)]});
    let verifier = TaskVerifier::from_jwks(&set).unwrap();
    let task = assignment();
    for signer in [first, other] {
        assert!(one(&verifier, &signer.sign(&task).unwrap(), &expected(task.aud), at(1000)).is_ok());
    }
}
