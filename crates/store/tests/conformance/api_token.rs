//! Tokens of people and programs, and service accounts.

use std::time::Duration;

use hostler_model::{
    PrincipalId, TokenId,
    caller::Caller,
    event::Actor,
    role::Role,
    scope::Scopes,
    token::{ServiceAccount, TokenFormat},
};
use hostler_store::{NewApiToken, Revoke, TokensOf};

use crate::world::{TENANT, World};

fn new(world: &World, hash: &str, caller: &Caller) -> NewApiToken {
    NewApiToken::of_system(world.id(), hash.into(), caller.clone(), "for a test")
}

fn somebody(world: &World) -> Caller {
    Caller::new(world.id::<PrincipalId>(), TENANT, Role::Operator)
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
    let unknown = world.store.revoke_token(world.id(), Revoke::One, Actor::system()).await.unwrap();
    assert_eq!(unknown.unwrap_err().code, hostler_model::Code::TokenNotFound);
    let kinds: Vec<String> = world.entries().await.into_iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "token.revoke").count(), 3);
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
    assert_eq!((refused.code, &refused.facts["limit"]), (hostler_model::Code::QuotaExceeded, &200.into()));
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
    assert_eq!(taken.code, hostler_model::Code::NameTaken);
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
    assert_eq!(refused.code, hostler_model::Code::ServiceAccountNotFound);
    let gone = world.store.delete_service_account(TENANT, name, Actor::system()).await.unwrap().unwrap_err();
    assert_eq!(gone.code, hostler_model::Code::ServiceAccountNotFound);
    world.store.create_service_account(again, Actor::system()).await.unwrap().unwrap();
}
