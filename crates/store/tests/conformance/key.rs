//! Keys that sign tasks, and keys under which values are sealed.

use hostler_model::{
    Code,
    event::{Actor, Class},
    key::{KeyEvent, KeyState, Kid, MOST},
};
use hostler_store::{LogFilter, NewSigningKey, Rewrapped, WrappedKey};

use crate::world::World;

fn new(name: char) -> NewSigningKey {
    let kid = Kid(name.to_string().repeat(43));
    NewSigningKey { kid, public: format!("public {name}"), private: format!("private {name}") }
}

async fn change(world: &World, name: char, event: KeyEvent) -> Result<KeyState, Code> {
    let changed = world.store.change_key(new(name).kid, event, new('z'), Actor::system()).await.unwrap();
    changed.map(|key| key.state).map_err(|refusal| refusal.code)
}

/// Each key's letter and state, and whether its private part is there.
async fn set(world: &World) -> Vec<(char, KeyState, bool)> {
    let keys = world.store.signing_keys().await.unwrap();
    keys.iter().map(|(key, private)| (key.kid.0.chars().next().unwrap(), key.state, private.is_some())).collect()
}

pub async fn one_key_signs_and_follows_another(world: &mut World) {
    use KeyState as S;
    world.store.put_active_key(new('a')).await.unwrap();
    world.store.put_active_key(new('b')).await.unwrap();
    assert_eq!(set(world).await, [('a', S::Active, true)], "of two servers that start at once, one makes it");
    world.advance(1);
    let staged = world.store.stage_key(new('c'), Actor::system()).await.unwrap().unwrap();
    assert_eq!((staged.state, staged.public.as_str()), (S::Staged, "public c"));
    assert_eq!(change(world, 'a', KeyEvent::Retire).await, Err(Code::KeyStateConflict));
    assert_eq!(change(world, 'c', KeyEvent::Activate).await, Ok(S::Active));
    assert_eq!(set(world).await, [('a', S::Grace, true), ('c', S::Active, true)]);
    assert_eq!(change(world, 'a', KeyEvent::Retire).await, Ok(S::Retired));
    assert_eq!(set(world).await, [('a', S::Retired, false), ('c', S::Active, true)], "its private part is gone");
    assert_eq!(change(world, 'x', KeyEvent::Revoke).await, Err(Code::KeyNotFound));
}

pub async fn after_a_restore_no_key_of_before_signs_and_another_takes_its_place(world: &mut World) {
    use KeyState as S;
    world.store.put_active_key(new('a')).await.unwrap();
    world.advance(1);
    world.store.stage_key(new('b'), Actor::system()).await.unwrap().unwrap();
    world.store.restored().await.unwrap();
    assert_eq!(set(world).await, [('a', S::Grace, true), ('b', S::Retired, false)]);
    world.advance(1);
    // Of servers that start at once one makes it.
    world.store.put_active_key(new('c')).await.unwrap();
    world.store.put_active_key(new('d')).await.unwrap();
    assert_eq!(set(world).await[2..], [('c', S::Active, true)]);
    let filter = LogFilter { class: Some(Class::Audit), ..LogFilter::default() };
    let entries = world.store.log(filter, 0, 100).await.unwrap();
    let restored = entries.iter().find(|entry| entry.kind == "store.restored").unwrap();
    assert_eq!(restored.data["what"]["keys"].as_array().unwrap().len(), 2, "{restored:?}");
}

pub async fn a_revoked_key_that_signed_is_followed_at_once(world: &mut World) {
    use KeyState as S;
    world.store.put_active_key(new('a')).await.unwrap();
    world.advance(1);
    assert_eq!(change(world, 'a', KeyEvent::Revoke).await, Ok(S::Revoked));
    assert_eq!(set(world).await, [('a', S::Revoked, false), ('z', S::Active, true)]);
    assert_eq!(change(world, 'a', KeyEvent::Revoke).await, Ok(S::Revoked), "asked again, nothing changes");
    assert_eq!(change(world, 'a', KeyEvent::Activate).await, Err(Code::KeyStateConflict));
}

pub async fn every_change_of_a_key_is_in_the_audit_without_its_private_part(world: &mut World) {
    world.store.put_active_key(new('a')).await.unwrap();
    world.store.stage_key(new('b'), Actor::system()).await.unwrap().unwrap();
    change(world, 'b', KeyEvent::Activate).await.unwrap();
    change(world, 'a', KeyEvent::Revoke).await.unwrap();
    let filter = LogFilter { class: Some(Class::Audit), ..LogFilter::default() };
    let entries = world.store.log(filter, 0, 100).await.unwrap();
    let of_keys: Vec<_> = entries.iter().filter(|entry| entry.noun == "key").collect();
    let kinds: Vec<&str> = of_keys.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["key.create", "key.stage", "key.activate", "key.revoke"]);
    for entry in &of_keys {
        assert!(!entry.data.to_string().contains("private"), "{entry:?}");
    }
    let activated = &of_keys[2].data["what"]["changes"];
    assert_eq!(activated.as_array().unwrap().len(), 2, "the one that signed is in grace: {activated}");
}

pub async fn no_more_keys_are_believed_than_agents_hold(world: &mut World) {
    world.store.put_active_key(new('a')).await.unwrap();
    let names: Vec<char> = ('b'..='y').take(MOST - 1).collect();
    for name in &names {
        world.store.stage_key(new(*name), Actor::system()).await.unwrap().unwrap();
    }
    let refusal = world.store.stage_key(new('y'), Actor::system()).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::KeyStateConflict);
    change(world, names[0], KeyEvent::Retire).await.unwrap();
    world.store.stage_key(new('y'), Actor::system()).await.unwrap().unwrap();
}

fn wrapped(owner: &str, master: &str, wrapped: &str) -> WrappedKey {
    WrappedKey { owner: owner.into(), master: master.into(), wrapped: wrapped.into() }
}

fn anew(owner: &str, before: &str, after: &str) -> Rewrapped {
    Rewrapped { owner: owner.into(), before: before.into(), master: "second".into(), after: after.into() }
}

pub async fn an_owner_has_one_key_whoever_makes_it_first(world: &mut World) {
    let put = |text: &str| world.store.put_data_key(wrapped("somebody", "first", text));
    assert_eq!(world.store.data_key("somebody".into()).await.unwrap(), None);
    assert_eq!(put("one").await.unwrap().as_deref(), Some("one"));
    assert_eq!(put("other").await.unwrap().as_deref(), Some("one"));
    assert_eq!(world.store.data_key("somebody".into()).await.unwrap().as_deref(), Some("one"));
}

pub async fn all_keys_are_wrapped_anew_or_none_and_nothing_under_the_master_key_of_before(world: &mut World) {
    let store = &world.store;
    assert_eq!(store.master().await.unwrap(), None);
    store.put_data_key(wrapped("a", "first", "a1")).await.unwrap();
    store.put_data_key(wrapped("b", "first", "b1")).await.unwrap();
    for part in [vec![anew("a", "a1", "a2")], vec![anew("a", "a1", "a2"), anew("b", "b0", "b2")]] {
        assert!(!store.rewrap(part, Actor::system()).await.unwrap());
    }
    assert_eq!(store.master().await.unwrap().as_deref(), Some("first"), "nothing was written");
    let all = || vec![anew("a", "a1", "a2"), anew("b", "b1", "b2")];
    assert!(store.rewrap(all(), Actor::system()).await.unwrap());
    assert!(!store.rewrap(all(), Actor::system()).await.unwrap(), "of two at once the second looks again");
    assert_eq!(store.master().await.unwrap().as_deref(), Some("second"));
    assert_eq!(store.put_data_key(wrapped("c", "first", "c1")).await.unwrap(), None, "too late");
    assert_eq!(store.data_key("c".into()).await.unwrap(), None);
    assert_eq!(store.put_data_key(wrapped("c", "second", "c2")).await.unwrap().as_deref(), Some("c2"));
}
