//! Tokens of people and programs, and service accounts.

use std::time::Duration;

use hostler_model::{
    Code, PrincipalId, TokenId,
    caller::Caller,
    event::Actor,
    role::Role,
    scope::Scopes,
    token::{ServiceAccount, Token, TokenFormat},
};
use hostler_store::{Answer, Denied, Login, NewApiToken, Revoke, TokensOf};
use serde_json::{Value, json};

use crate::world::{TENANT, World};

fn new(world: &World, hash: &str, caller: &Caller) -> NewApiToken {
    NewApiToken::of_system(world.id(), hash.into(), caller.clone(), "for a test")
}

fn somebody(world: &World) -> Caller {
    Caller::new(world.id::<PrincipalId>(), TENANT, Role::Operator)
}

/// One that is made with another.
async fn make(world: &World, hash: &str, caller: &Caller, made_with: Option<TokenId>) -> Answer<Token> {
    world.store.create_api_token(NewApiToken { made_with, ..new(world, hash, caller) }).await.unwrap()
}

async fn revoke(world: &World, id: TokenId, how: Revoke) -> Answer<Token> {
    world.store.revoke_token(id, how, Actor::system()).await.unwrap()
}

/// What the entries of this kind say, in their order.
async fn told(world: &World, kind: &str) -> Vec<Value> {
    let entries = world.entries().await.into_iter().filter(|entry| entry.kind == kind);
    entries.map(|entry| entry.data["what"].clone()).collect()
}

async fn is_good(world: &World, hash: &str) -> bool {
    world.store.authenticate(hash.into()).await.unwrap().is_some_and(|(_, revoked_at)| revoked_at.is_none())
}

pub async fn a_token_stands_for_its_caller(world: &mut World) {
    let narrow = Scopes::of_words(Some("vm:read task:write"));
    let caller = Caller { scopes: narrow, expires_at: Some(world.now()), ..somebody(world) };
    let token = new(world, "h", &caller);
    let id = token.id;
    let made = world.store.create_api_token(token).await.unwrap().unwrap();
    assert_eq!((made.id, made.principal, made.created_at), (id, caller.principal, world.now()));
    assert_eq!((made.format, made.service_account.as_ref()), (TokenFormat::Opaque, None));
    let found = world.store.authenticate("h".into()).await.unwrap();
    assert_eq!(found, Some((Caller { token: Some(id), ..caller }, None)));
    assert_eq!(world.store.authenticate("g".into()).await.unwrap(), None);
    assert_eq!(world.store.token(id).await.unwrap(), Some(made));
    // The log says that there is one, never what it is.
    assert!(world.entries().await.iter().all(|entry| !entry.data.to_string().contains("\"h\"")));
}

pub async fn a_revoked_token_stays_revoked_and_takes_what_it_made_where_that_is_asked(world: &mut World) {
    let caller = somebody(world);
    let mut ids: Vec<TokenId> = Vec::new();
    for (hash, made_with) in [("a", None), ("b", Some(0)), ("c", Some(1)), ("d", None)] {
        let token = NewApiToken { made_with: made_with.map(|at: usize| ids[at]), ..new(world, hash, &caller) };
        ids.push(token.id);
        world.store.create_api_token(token).await.unwrap().unwrap();
    }
    let mut wakes = world.store.wakes();
    let once = world.store.revoke_token(ids[3], Revoke::One, Actor::system()).await.unwrap().unwrap();
    assert_eq!(once.revoked_at, Some(world.now()));
    assert!(wakes.recv().await.unwrap().credentials, "nobody is told to forget it");
    world.advance(5);
    let twice = world.store.revoke_token(ids[3], Revoke::One, Actor::system()).await.unwrap().unwrap();
    assert_eq!(twice.revoked_at, once.revoked_at);
    world.store.revoke_token(ids[0], Revoke::WithMade, Actor::system()).await.unwrap().unwrap();
    for hash in ["a", "b", "c", "d"] {
        assert!(!is_good(world, hash).await, "{hash}");
    }
    assert_eq!(revoke(world, world.id(), Revoke::One).await.unwrap_err().code, Code::TokenNotFound);
    let told: Vec<Value> = told(world, "token.revoke").await;
    let with = |told: &Value| told["with_made"].as_bool().unwrap();
    assert_eq!(told.iter().map(with).collect::<Vec<_>>(), [false, false, true]);
    let mut ended: Vec<Vec<TokenId>> =
        told.iter().map(|told| serde_json::from_value(told["revoked"].clone()).unwrap()).collect();
    ended.iter_mut().for_each(|ended| ended.sort());
    assert_eq!(ended, [vec![ids[3]], vec![], ids[..3].to_vec()]);
}

/// A call begins with a good token, and somebody revokes it before the call's step runs.
pub async fn what_is_no_longer_good_makes_no_token(world: &mut World) {
    let caller = somebody(world);
    let soon = Caller { expires_at: Some(world.now().plus(Duration::from_secs(60))), ..caller.clone() };
    let lasting = make(world, "lasting", &caller, None).await.unwrap().id;
    let short = make(world, "short", &soon, None).await.unwrap().id;
    for (hash, maker) in [("a", lasting), ("b", short)] {
        make(world, hash, &caller, Some(maker)).await.unwrap();
    }
    revoke(world, lasting, Revoke::WithMade).await.unwrap();
    world.advance(60);
    for maker in [lasting, short, world.id()] {
        let refused = make(world, "late", &caller, Some(maker)).await.unwrap_err();
        assert_eq!(refused.code, Code::Unauthenticated);
        assert_eq!(world.store.authenticate("late".into()).await.unwrap(), None);
    }
}

/// What a token made is found by it, also when it has not been good itself for long.
pub async fn one_that_made_others_is_kept_as_long_as_they_are(world: &mut World) {
    let month = 31 * 24 * 3600;
    let (one, other) = (somebody(world), somebody(world));
    let first = make(world, "first", &one, None).await.unwrap().id;
    let second = make(world, "second", &one, Some(first)).await.unwrap().id;
    make(world, "third", &other, Some(second)).await.unwrap();
    for id in [first, second] {
        revoke(world, id, Revoke::One).await.unwrap();
    }
    world.advance(month);
    make(world, "x", &one, None).await.unwrap();
    assert!(is_good(world, "third").await);
    revoke(world, first, Revoke::WithMade).await.unwrap();
    assert!(!is_good(world, "third").await);
    // Once nothing hangs on them they go, the last one first.
    world.advance(month);
    make(world, "y", &other, None).await.unwrap();
    let kept = async |hash: &str| {
        make(world, hash, &one, None).await.unwrap();
        let left = world.store.tokens(TokensOf::Principal(one.principal), None, 500).await.unwrap();
        Vec::from_iter(left.into_iter().map(|token| token.id).filter(|id| [first, second].contains(id)))
    };
    assert_eq!(kept("z").await, [first]);
    assert_eq!(kept("w").await, []);
}

pub async fn who_was_let_in_and_who_was_not_is_in_the_audit(world: &mut World) {
    let actor = Actor { principal: world.id(), ..Actor::system() };
    let route = "GET /api/v1/vms".to_owned();
    let denied = Denied { actor: actor.clone(), tenant: Some(TENANT), route, code: Code::ForbiddenOwnership, count: 3 };
    world.store.denied(vec![denied]).await.unwrap();
    let (issuer, subject) = ("https://login.example.com".to_owned(), "alice".to_owned());
    let login = Login { actor: actor.clone(), tenant: Some(TENANT), issuer, subject, until: Some(world.now()) };
    world.store.logged_in(vec![login]).await.unwrap();
    assert_eq!(told(world, "access.denied").await, [json!({"route": "GET /api/v1/vms", "count": 3})]);
    let said = json!({"issuer": "https://login.example.com", "subject": "alice", "until": world.now()});
    assert_eq!(told(world, "login").await, [said]);
    let entries = world.entries().await;
    let of = |kind: &str| entries.iter().find(|entry| entry.kind == kind).unwrap();
    assert_eq!(of("access.denied").data["result"], json!("FORBIDDEN_OWNERSHIP"));
    assert_eq!((of("login").subject, of("login").tenant), (actor.principal.0, Some(TENANT)));
}

pub async fn tokens_are_listed_newest_first_by_whose_they_are(world: &mut World) {
    let (one, other) = (somebody(world), somebody(world));
    let platform = Caller::new(world.id::<PrincipalId>(), TENANT, Role::PlatformAdmin);
    let nobodys = Caller { tenant: None, ..platform.clone() };
    let mut ids = Vec::new();
    for (hash, caller) in [("a", &one), ("b", &other), ("c", &platform), ("d", &nobodys), ("e", &one)] {
        let token = new(world, hash, caller);
        ids.push(token.id);
        world.store.create_api_token(token).await.unwrap().unwrap();
    }
    let list = async |of, before, limit| {
        let tokens = world.store.tokens(of, before, limit).await.unwrap();
        Vec::from_iter(tokens.into_iter().map(|token| token.id))
    };
    assert_eq!(list(TokensOf::All, None, 9).await, [ids[4], ids[3], ids[2], ids[1], ids[0]]);
    assert_eq!(list(TokensOf::All, Some(ids[3]), 1).await, [ids[2]]);
    // A tenant's are those of its own work: the platform's are not for its administrators.
    assert_eq!(list(TokensOf::Tenant(TENANT), None, 9).await, [ids[4], ids[1], ids[0]]);
    assert_eq!(list(TokensOf::Tenant(world.id()), None, 9).await, []);
    assert_eq!(list(TokensOf::Principal(one.principal), None, 9).await, [ids[4], ids[0]]);
}

pub async fn old_ones_are_forgotten_and_nobody_has_too_many(world: &mut World) {
    let end = world.now().plus(Duration::from_secs(60));
    let caller = Caller { expires_at: Some(end), ..somebody(world) };
    for number in 0..200 {
        world.store.create_api_token(new(world, &number.to_string(), &caller)).await.unwrap().unwrap();
    }
    let refused = world.store.create_api_token(new(world, "more", &caller)).await.unwrap().unwrap_err();
    assert_eq!((refused.code, &refused.facts["limit"]), (Code::QuotaExceeded, &200.into()));
    world.advance(60);
    let lasting = Caller { expires_at: None, ..caller.clone() };
    world.store.create_api_token(new(world, "more", &lasting)).await.unwrap().unwrap();
    let of = TokensOf::Principal(caller.principal);
    assert_eq!(world.store.tokens(of, None, 500).await.unwrap().len(), 201);
    world.advance(31 * 24 * 3600);
    world.store.create_api_token(new(world, "last", &lasting)).await.unwrap().unwrap();
    assert_eq!(world.store.tokens(of, None, 500).await.unwrap().len(), 2);
}

pub async fn a_service_account_goes_with_its_tokens(world: &mut World) {
    let account = ServiceAccount {
        id: world.id(),
        tenant: TENANT,
        name: "ci".parse().unwrap(),
        role: Role::Operator,
        created_at: world.now(),
        created_by: PrincipalId::SYSTEM,
    };
    let made = world.store.create_service_account(account.clone(), Actor::system()).await.unwrap().unwrap();
    assert_eq!(made, account);
    let again = ServiceAccount { id: world.id(), ..account.clone() };
    let taken = world.store.create_service_account(again.clone(), Actor::system()).await.unwrap().unwrap_err();
    assert_eq!(taken.code, Code::NameTaken);
    let caller = Caller::new(account.id, TENANT, Role::Operator);
    let token = NewApiToken { account: Some(account.clone()), ..new(world, "a", &caller) };
    let told = world.store.create_api_token(token.clone()).await.unwrap().unwrap();
    assert_eq!(told.service_account, Some(account.name.clone()));
    assert_eq!(world.store.account_of(account.id).await.unwrap(), Some(account.clone()));
    assert!(is_good(world, "a").await);

    let name = account.name.clone();
    world.store.delete_service_account(TENANT, name.clone(), Actor::system()).await.unwrap().unwrap();
    assert!(!is_good(world, "a").await);
    assert_eq!(world.store.service_accounts(TENANT).await.unwrap(), []);
    let late = NewApiToken { id: world.id(), token_hash: "b".into(), ..token };
    let refused = world.store.create_api_token(late).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::ServiceAccountNotFound);
    // Nor does one of its own make it another, by a call that began before.
    assert_eq!(make(world, "c", &caller, Some(told.id)).await.unwrap_err().code, Code::Unauthenticated);
    let gone = world.store.delete_service_account(TENANT, name, Actor::system()).await.unwrap().unwrap_err();
    assert_eq!(gone.code, Code::ServiceAccountNotFound);
    world.store.create_service_account(again, Actor::system()).await.unwrap().unwrap();
}
