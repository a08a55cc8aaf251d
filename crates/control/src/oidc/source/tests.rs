//! Documents of well-known providers, written by hand in the shapes in which these publish theirs: nothing here was recorded
//! or is fetched. The members are those that matter and those at which a reader could stumble:
//!
//! | provider | its discovery document | its keys |
//! |---|---|---|
//! | Keycloak | a realm in the issuer, members of its own | a key for encryption beside an RSA and a P-256 one that sign |
//! | Entra ID | a tenant in the issuer; in the document for all tenants a placeholder | no `alg`, `issuer` and certificates |
//! | Google | keys on another host | two that sign, `alg` |
//! | Okta | an authorization server in the issuer | one that signs, nothing else |
//! | Auth0 | a slash at the end of the issuer | `x5t`, certificates, two that sign |
//! | GitHub Actions | few members, no endpoint where anybody could log in | certificates, two that sign |
//!
//! That a signature of such a key is verified is tested where that is done (`trust/provider`).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;

/// A modulus of 2048 bits. What it signs, nobody verifies here.
fn modulus() -> String {
    BASE64_URL_SAFE_NO_PAD.encode([0xc5; 256])
}

fn coordinate() -> String {
    BASE64_URL_SAFE_NO_PAD.encode([0x2a; 32])
}

fn rsa(members: Value) -> Value {
    let mut key = json!({"kty": "RSA", "n": modulus(), "e": "AQAB"});
    key.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    key
}

/// A provider: its issuer, its discovery document, where its keys are, the set of those, and how many of them sign.
struct Shape {
    issuer: &'static str,
    document: Value,
    keys_at: &'static str,
    keys: Value,
    sign: usize,
}

fn keycloak() -> Shape {
    let issuer = "https://login.example.com/realms/staff";
    let keys_at = "https://login.example.com/realms/staff/protocol/openid-connect/certs";
    let document = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/protocol/openid-connect/auth"),
        "token_endpoint": format!("{issuer}/protocol/openid-connect/token"),
        "introspection_endpoint": format!("{issuer}/protocol/openid-connect/token/introspect"),
        "frontchannel_logout_supported": true,
        "jwks_uri": keys_at,
        "grant_types_supported": ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
        "id_token_signing_alg_values_supported": ["PS384", "ES384", "RS384", "HS256", "RS256", "EdDSA"],
        "mtls_endpoint_aliases": {"token_endpoint": format!("{issuer}/protocol/openid-connect/token")},
        "claims_parameter_supported": true,
    });
    let keys = json!({"keys": [
        rsa(json!({"kid": "enc-1", "alg": "RSA-OAEP", "use": "enc", "x5c": ["MIIC"], "x5t": "a", "x5t#S256": "b"})),
        rsa(json!({"kid": "sig-1", "alg": "RS256", "use": "sig", "x5c": ["MIIC"], "x5t": "c", "x5t#S256": "d"})),
        {"kid": "sig-2", "kty": "EC", "alg": "ES256", "use": "sig", "crv": "P-256", "x": coordinate(), "y": coordinate()},
    ]});
    Shape { issuer, document, keys_at, keys, sign: 2 }
}

fn entra(issuer: &'static str) -> Shape {
    let keys_at = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/discovery/v2.0/keys";
    let document = json!({
        "token_endpoint": "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": keys_at,
        "id_token_signing_alg_values_supported": ["RS256"],
        "issuer": issuer,
        "request_uri_parameter_supported": false,
        "kerberos_endpoint": "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/kerberos",
        "tenant_region_scope": null,
        "cloud_instance_name": "microsoftonline.com",
        "msgraph_host": "graph.microsoft.com",
    });
    let keys = json!({"keys": [
        rsa(json!({"use": "sig", "kid": "k1", "x5t": "k1", "x5c": ["MIIC"], "cloud_instance_name": "microsoftonline.com",
            "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"})),
        rsa(json!({"use": "sig", "kid": "k2", "x5t": "k2", "x5c": ["MIIC"], "issuer": issuer})),
    ]});
    Shape { issuer, document, keys_at, keys, sign: 2 }
}

fn google() -> Shape {
    let (issuer, keys_at) = ("https://accounts.google.com", "https://www.googleapis.com/oauth2/v3/certs");
    let document = json!({
        "issuer": issuer,
        "device_authorization_endpoint": "https://oauth2.googleapis.com/device/code",
        "token_endpoint": "https://oauth2.googleapis.com/token",
        "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
        "jwks_uri": keys_at,
        "subject_types_supported": ["public"],
    });
    let keys = json!({"keys": [
        rsa(json!({"alg": "RS256", "use": "sig", "kid": "k1"})),
        rsa(json!({"alg": "RS256", "use": "sig", "kid": "k2"})),
    ]});
    Shape { issuer, document, keys_at, keys, sign: 2 }
}

fn okta() -> Shape {
    let (issuer, keys_at) = ("https://dev-1.okta.com/oauth2/default", "https://dev-1.okta.com/oauth2/default/v1/keys");
    let document = json!({
        "issuer": issuer,
        "registration_endpoint": "https://dev-1.okta.com/oauth2/v1/clients",
        "jwks_uri": keys_at,
        "dpop_signing_alg_values_supported": ["RS256", "ES256"],
    });
    let keys = json!({"keys": [rsa(json!({"alg": "RS256", "kid": "k1", "use": "sig"}))]});
    Shape { issuer, document, keys_at, keys, sign: 1 }
}

fn auth0() -> Shape {
    let (issuer, keys_at) = ("https://example.eu.auth0.com/", "https://example.eu.auth0.com/.well-known/jwks.json");
    let document = json!({
        "issuer": issuer,
        "mfa_challenge_endpoint": "https://example.eu.auth0.com/mfa/challenge",
        "jwks_uri": keys_at,
        "global_token_revocation_endpoint": "https://example.eu.auth0.com/oauth/global-token-revocation/connection/{connectionName}",
    });
    let keys = json!({"keys": [
        rsa(json!({"use": "sig", "kid": "k1", "x5t": "t", "x5c": ["MIIC"], "alg": "RS256"})),
        rsa(json!({"use": "sig", "kid": "k2", "x5t": "u", "x5c": ["MIIC"], "alg": "RS256"})),
    ]});
    Shape { issuer, document, keys_at, keys, sign: 2 }
}

fn github_actions() -> Shape {
    let issuer = "https://token.actions.githubusercontent.com";
    let keys_at = "https://token.actions.githubusercontent.com/.well-known/jwks";
    let document = json!({
        "issuer": issuer,
        "jwks_uri": keys_at,
        "subject_types_supported": ["public", "pairwise"],
        "response_types_supported": ["id_token"],
        "claims_supported": ["sub", "aud", "exp", "iat", "iss", "jti", "nbf", "ref", "repository", "workflow"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid"],
    });
    let keys = json!({"keys": [
        rsa(json!({"use": "sig", "kid": "k1", "alg": "RS256", "x5c": ["MIIC"], "x5t": "t"})),
        rsa(json!({"use": "sig", "kid": "k2", "alg": "RS256", "x5c": ["MIIC"], "x5t": "u"})),
    ]});
    Shape { issuer, document, keys_at, keys, sign: 2 }
}

#[test]
fn the_documents_of_well_known_providers_are_read() {
    let entra = entra("https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0");
    for shape in [keycloak(), entra, google(), okta(), auth0(), github_actions()] {
        let Shape { issuer, document, keys_at, keys, sign } = shape;
        assert_eq!(keys_of(&document, issuer).map(String::from), Ok(keys_at.to_owned()));
        assert_eq!(ProviderKeys::read(&keys).map(|keys| keys.count()), Some(sign), "{issuer}");
    }
}

#[test]
fn a_document_is_this_issuers_to_the_letter() {
    let auth0 = auth0();
    assert!(keys_of(&auth0.document, "https://example.eu.auth0.com").unwrap_err().contains("auth0.com/"));
    // The one for all tenants names none: whoever configures it would believe every tenant there is.
    let all = entra("https://login.microsoftonline.com/{tenantid}/v2.0");
    for configured in ["https://login.microsoftonline.com/common/v2.0", "https://sts.windows.net/11111111/"] {
        assert!(keys_of(&all.document, configured).unwrap_err().contains("{tenantid}"), "{configured}");
    }
    let mut plain = google();
    plain.document["jwks_uri"] = json!("http://www.googleapis.com/oauth2/v3/certs");
    assert!(keys_of(&plain.document, plain.issuer).is_err());
    for missing in [json!({"issuer": plain.issuer}), json!({"jwks_uri": plain.keys_at}), json!([]), json!(null)] {
        assert!(keys_of(&missing, plain.issuer).is_err(), "{missing}");
    }
}

#[tokio::test]
async fn discovery_is_below_the_issuer_with_or_without_a_slash_at_its_end() {
    hostler_trust::install_crypto();
    for (issuer, at) in [
        ("https://example.eu.auth0.com/", "https://example.eu.auth0.com/.well-known/openid-configuration"),
        ("https://a.example/realms/staff", "https://a.example/realms/staff/.well-known/openid-configuration"),
    ] {
        assert_eq!(Source::new(issuer).unwrap().discovery.as_str(), at);
    }
}
