//! People whom an identity provider sends, with a provider that is really called.

use std::{collections::BTreeMap, time::Duration};

use hostler_control::{Oidc, OidcConfig, oidc::Mapping};
use hostler_fixture::{KeyKind, Provider};
use hostler_model::{TenantId, role::Role};
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Answer, World, later, stranger};

async fn world(provider: &Provider) -> World {
    hostler_trust::install_crypto();
    let words = BTreeMap::from([
        ("staff".into(), Role::Viewer),
        ("ops".into(), Role::Operator),
        ("root".into(), Role::PlatformAdmin),
    ]);
    let oidc = Oidc::new(OidcConfig {
        issuer: provider.issuer().to_owned(),
        audiences: vec!["hostler".to_owned()],
        client: Some("hostler-cli".to_owned()),
        skew: Duration::from_secs(60),
        mapping: Mapping { roles: "groups".to_owned(), words, ..Mapping::default() },
    });
    World::sending(oidc.unwrap()).await
}

/// A token that is good for five minutes.
fn token(world: &World, provider: &Provider, changes: Value) -> String {
    let seconds = world.clock.now().as_micros() / 1_000_000;
    let mut claims = json!({
        "aud": "hostler", "sub": "alice", "tenant": "default", "groups": ["everyone", "ops", "staff"],
        "iat": seconds, "exp": seconds + 300,
    });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    provider.sign(&claims).unwrap()
}

async fn whoami(world: &World, token: &str) -> Answer {
    world.get("/api/v1/whoami").bearer(token).send().await
}

#[tokio::test]
async fn somebody_is_who_the_provider_says() {
    for kind in [KeyKind::Rsa, KeyKind::Ec, KeyKind::Ed] {
        let provider = Provider::start(kind).await.unwrap();
        let world = world(&provider).await;
        let me = whoami(&world, &token(&world, &provider, json!({}))).await.json();
        assert_eq!(
            (&me["role"], &me["audience"], &me["tenant"]),
            (&json!("operator"), &json!("tenant"), &json!(TenantId::DEFAULT)),
            "{me}"
        );
        let again =
            whoami(&world, &token(&world, &provider, json!({"groups": ["staff"], "tenant": "stranger"}))).await.json();
        assert_eq!(
            (&again["principal"], &again["role"], &again["tenant"]),
            (&me["principal"], &json!("viewer"), &json!(stranger()))
        );
        let root = token(&world, &provider, json!({"groups": ["root"], "tenant": null, "sub": "bob"}));
        assert_eq!(world.get("/api/v1/doctor").bearer(&root).send().await.status, StatusCode::OK);
        assert_eq!(world.get("/api/v1/quota").bearer(&root).send().await.code(), "TENANT_ID_REQUIRED");
        assert_ne!(whoami(&world, &root).await.json()["principal"], me["principal"]);
        assert_eq!(provider.fetched(), 1, "keys are fetched once");
        let ways = world.get("/api/v1/login").no_credential().send().await.json();
        assert_eq!(ways, json!({"oidc": {"issuer": provider.issuer(), "client_id": "hostler-cli"}}));
    }
}

#[tokio::test]
async fn who_is_not_meant_for_here_is_not_let_in() {
    let provider = Provider::start(KeyKind::Ec).await.unwrap();
    let world = world(&provider).await;
    let seconds = world.clock.now().as_micros() / 1_000_000;
    for changes in [
        json!({"aud": "other"}),
        json!({"iss": "https://login.example.com"}),
        json!({"exp": seconds - 60}),
        json!({"nbf": seconds + 61}),
        json!({"groups": ["everyone"]}),
        json!({"groups": ["operator"]}),
        json!({"tenant": "nobody"}),
        json!({"tenant": null}),
    ] {
        let answer = whoami(&world, &token(&world, &provider, changes.clone())).await;
        assert_eq!(answer.code(), "UNAUTHENTICATED", "{changes}");
    }
    // Its time is up while it is remembered.
    let short = token(&world, &provider, json!({"exp": seconds + 5}));
    assert_eq!(whoami(&world, &short).await.status, StatusCode::OK);
    world.pass(Duration::from_secs(65));
    assert_eq!(whoami(&world, &short).await.code(), "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_login_makes_a_token_that_outlives_it_and_may_no_more() {
    let provider = Provider::start(KeyKind::Ed).await.unwrap();
    let world = world(&provider).await;
    let login = token(&world, &provider, json!({}));
    let make = |body: Value| world.post("/api/v1/tokens", body).bearer(&login).send();
    let made = make(json!({"label": "laptop", "expires_in_seconds": 86_400})).await.json();
    assert_eq!(make(json!({"label": "x", "role": "tenant-admin"})).await.code(), "FORBIDDEN");
    world.pass(Duration::from_secs(3600));
    assert_eq!(whoami(&world, &login).await.code(), "UNAUTHENTICATED");
    let me = whoami(&world, made["token"].as_str().unwrap()).await.json();
    assert_eq!((&me["principal"], &me["role"]), (&made["about"]["principal"], &json!("operator")));
}

#[tokio::test]
async fn a_key_that_is_not_known_is_asked_for_and_not_more_often_than_that() {
    let provider = Provider::start(KeyKind::Ed).await.unwrap();
    let world = world(&provider).await;
    let old = token(&world, &provider, json!({}));
    assert_eq!(whoami(&world, &old).await.status, StatusCode::OK);
    provider.add("second", KeyKind::Rsa).unwrap();
    for number in 0..20 {
        let unknown = token(&world, &provider, json!({"sub": number.to_string()}));
        assert_eq!(whoami(&world, &unknown).await.code(), "UNAUTHENTICATED");
    }
    assert_eq!(provider.fetched(), 1, "whoever sends wrong tokens makes this server call the provider");
    provider.publish();
    later(Duration::from_secs(10)).await;
    let new = token(&world, &provider, json!({}));
    assert_eq!(whoami(&world, &new).await.status, StatusCode::OK);
    assert_eq!(provider.fetched(), 2);
    // What the provider takes back is believed until its keys are fetched again.
    provider.forget();
    provider.publish();
    later(Duration::from_secs(599)).await;
    assert_eq!(whoami(&world, &old).await.status, StatusCode::OK);
    later(Duration::from_secs(6)).await;
    assert_eq!(whoami(&world, &old).await.code(), "UNAUTHENTICATED");
    assert_eq!(whoami(&world, &new).await.status, StatusCode::OK);
}

#[tokio::test]
async fn whoever_asks_and_goes_away_does_not_keep_the_keys_from_being_fetched() {
    let provider = Provider::start(KeyKind::Ed).await.unwrap();
    let world = world(&provider).await;
    let good = token(&world, &provider, json!({}));
    provider.slow(true);
    // A stranger, whose token is signed by nobody and who does not wait for the answer.
    let stranger = format!("{}.{}.AAAA", good.split('.').next().unwrap(), good.split('.').nth(1).unwrap());
    tokio::select! {
        answer = whoami(&world, &stranger) => panic!("the provider is slow, and there is an answer: {}", answer.text()),
        () = provider.asked(1) => {}
    }
    provider.slow(false);
    assert_eq!(whoami(&world, &good).await.status, StatusCode::OK, "nobody is let in for as long as strangers come");
    assert_eq!(provider.fetched(), 1);
}

#[tokio::test]
async fn a_login_is_in_the_audit_once_and_so_is_the_token_that_is_made_with_it() {
    let provider = Provider::start(KeyKind::Ec).await.unwrap();
    let world = world(&provider).await;
    let login = token(&world, &provider, json!({}));
    let made = world.post("/api/v1/tokens", json!({"label": "laptop"})).bearer(&login).at("192.0.2.7").send().await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    later(Duration::from_secs(6)).await;
    whoami(&world, &login).await;
    assert_eq!(whoami(&world, &token(&world, &provider, json!({"aud": "other"}))).await.code(), "UNAUTHENTICATED");
    let another = token(&world, &provider, json!({"sub": "bob", "groups": ["root"], "tenant": null}));
    whoami(&world, &another).await;
    world.server.app().tell_logins().await.unwrap();
    world.server.app().tell_logins().await.unwrap();
    let audit = world.get("/api/v1/audit?limit=500").send().await.json();
    let of = |kind: &str| {
        let entries = audit["items"].as_array().unwrap().iter().filter(|entry| entry["kind"] == kind);
        Vec::from_iter(entries.filter(|entry| entry["data"]["actor"]["method"] == "provider").cloned())
    };
    let logins = of("login");
    assert_eq!(logins.len(), 2, "{logins:?}");
    let (entry, what) = (&logins[0]["data"], &logins[0]["data"]["what"]);
    assert_eq!((&what["issuer"], &what["subject"]), (&json!(provider.issuer()), &json!("alice")));
    assert_eq!((&entry["actor"]["role"], &entry["actor"]["source"]), (&json!("operator"), &json!("192.0.2.7")));
    assert_eq!(logins[1]["data"]["what"]["subject"], "bob");
    let tokens = of("token.create");
    assert_eq!((tokens.len(), &tokens[0]["subject"]), (1, &made.json()["about"]["id"]));
    assert_eq!(tokens[0]["data"]["actor"]["principal"], entry["actor"]["principal"]);
    assert!(!audit.to_string().contains(&login), "a token is in the audit");
}

#[tokio::test]
async fn a_provider_that_is_away_keeps_out_only_whom_nobody_could_know() {
    let provider = Provider::start(KeyKind::Ec).await.unwrap();
    let world = world(&provider).await;
    let token = token(&world, &provider, json!({}));
    provider.away(true);
    let away = whoami(&world, &token).await;
    assert_eq!(away.code(), "UNAVAILABLE", "{}", away.text());
    provider.away(false);
    later(Duration::from_secs(10)).await;
    assert_eq!(whoami(&world, &token).await.status, StatusCode::OK);
    provider.away(true);
    later(Duration::from_secs(3600)).await;
    assert_eq!(whoami(&world, &token).await.status, StatusCode::OK);
    later(Duration::from_secs(24 * 3600)).await;
    assert_eq!(whoami(&world, &token).await.code(), "UNAVAILABLE");
    // Tokens of our own do not need it.
    assert_eq!(whoami(&world, world.token(Role::Viewer)).await.status, StatusCode::OK);
}
