//! What is believed: only what this server signed, for this node, in time.

use std::time::Duration;

use hostler_agent::metrics::Counter;
use hostler_model::{
    Fence, NodeId,
    internal::Assignment,
    key::{KeyState, SigningKey},
    refused::{Refused, Why},
    task::Intent,
};
use hostler_trust::{TaskKey, task::key_set};

use crate::{
    server::{Heard, Server, again, folder, signing, succeeded},
    world::World,
};

#[tokio::test(start_paused = true)]
async fn what_is_not_for_us_from_our_server_and_in_time_is_refused() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    let good = server.echo("good");

    let mut foreign = good.clone();
    foreign.aud = NodeId(uuid::Uuid::from_u128(3));
    let mut expired = good.clone();
    expired.exp = expired.iat;
    let mut issuer = good.clone();
    issuer.iss = "another".into();
    let token = server.sign(&good);
    let middle = token.find('.').unwrap() + 9;
    let flipped = if &token[middle..=middle] == "A" { "B" } else { "A" };
    let tampered = format!("{}{flipped}{}", &token[..middle], &token[middle + 1..]);
    let stranger = TaskKey::generate().unwrap().signer().sign(&good).unwrap();

    let bad = [
        (Why::WrongAudience, server.sign(&foreign)),
        (Why::Expired, server.sign(&expired)),
        (Why::WrongIssuer, server.sign(&issuer)),
        (Why::BadSignature, tampered),
        (Why::UnknownKey, stranger),
        (Why::Malformed, "?".into()),
    ];
    let n = bad.len() as u64;
    bad.iter().for_each(|(_, token)| server.give_token(token.clone()));
    agent.counted(Counter::Refused, n).await;
    assert_eq!(agent.count(Counter::Begun), 0);
    for (why, _) in &bad {
        assert_eq!(agent.metrics.refused(*why), 1, "{why:?}");
    }
    // The server hears of each once, with the task's name where its signature is right.
    let said = server.until(|heard| told(heard, bad.len())).await;
    for refused in &said {
        let signed = matches!(refused.why, Why::WrongAudience | Why::Expired | Why::WrongIssuer);
        assert_eq!((refused.count, refused.task), (1, signed.then_some(good.sub)), "{refused:?}");
    }

    server.give(&good);
    succeeded(&server.result(1).await);
    assert_eq!(server.results().len(), 1);
    let beats = server.with(|heard| heard.heartbeats.len());
    server.until(|heard| (heard.heartbeats.len() > beats + 1).then_some(())).await;
    assert_eq!(server.with(|heard| told(heard, bad.len())), Some(said), "and is not told again");
    agent.stop().await;
}

/// All that heartbeats said was refused, once it is so many.
fn told(heard: &Heard, n: usize) -> Option<Vec<Refused>> {
    let mut said = heard.heartbeats.iter().filter_map(|beat| beat.refused.as_ref());
    let all: Vec<Refused> = said.next_back()?.refused.clone();
    (all.iter().map(|line| line.count).sum::<u64>() >= n as u64).then_some(all)
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_said_until_the_server_has_heard_it_and_by_the_next_agent_too() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    // The answers to heartbeats are lost.
    server.with(|heard| heard.beats_lost = usize::MAX);
    server.give_token("?".into());
    let first = server.until(|heard| told(heard, 1)).await;
    let beats = server.with(|heard| heard.heartbeats.len());
    server.until(|heard| (heard.heartbeats.len() > beats + 1).then_some(())).await;
    assert_eq!(server.with(|heard| heard.heartbeats.last().unwrap().refused.clone()).unwrap().refused, first);
    // One that is killed says it by its journal, with what is refused since, under the same count.
    let count = server.with(|heard| heard.heartbeats.last().unwrap().refused.clone()).unwrap().count;
    agent.kill().await;
    server.with(|heard| heard.beats_lost = 0);
    let agent = server.agent(data.path(), World::new()).await;
    server.give_token("?".into());
    let both = server.until(|heard| told(heard, 2)).await;
    assert_eq!((both.len(), both[0].why, both[0].count), (1, Why::Malformed, 2));
    server.with(|heard| {
        for said in heard.heartbeats.iter().filter_map(|beat| beat.refused.as_ref()) {
            assert_eq!(said.count, count);
        }
        heard.heartbeats.clear();
    });
    server.until(|heard| (heard.heartbeats.len() > 1).then_some(())).await;
    assert!(server.with(|heard| heard.heartbeats.iter().all(|beat| beat.refused.is_none())), "it was heard");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_over_or_was_taken_with_other_content_is_refused_and_what_was_taken_counts() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    let task = server.echo("once");
    server.give(&task);
    succeeded(&server.result(1).await);
    // Its signature is good for a while yet: nothing is done a second time.
    let settled = server.with(|heard| heard.heartbeats.len());
    server.until(|heard| (heard.heartbeats.len() > settled).then_some(())).await;
    server.give(&task);
    agent.counted(Counter::Refused, 1).await;
    assert_eq!(agent.metrics.refused(Why::OldFence), 1);

    let later = again(&server.echo("of after a restore"), 1, Intent::Run);
    let later = Assignment { fence: Fence { store_epoch: 2, attempt: 1 }, ..later };
    server.give(&later);
    succeeded(&server.result(2).await);
    server.give(&Assignment { fence: Fence { store_epoch: 1, attempt: 1 }, ..later.clone() });
    agent.counted(Counter::Refused, 2).await;
    assert_eq!(agent.metrics.refused(Why::OldStoreEpoch), 1);

    // The same attempt says something else before the server has its result.
    server.with(|heard| heard.results_fail = usize::MAX);
    let taken = server.echo("the first");
    server.give(&taken);
    agent.counted(Counter::Ended, 3).await;
    server.give(&Assignment { params: server.echo("the other").params, ..taken.clone() });
    agent.counted(Counter::Refused, 3).await;
    assert_eq!(agent.metrics.refused(Why::OtherContent), 1);
    server.with(|heard| heard.results_fail = 0);
    assert_eq!(succeeded(&server.result(3).await)["message"], "the first");
    assert_eq!((agent.count(Counter::Begun), server.results().len()), (3, 3));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_certificate_is_renewed_at_two_thirds_of_its_life() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    let before = server.clock.now();
    server.until(|heard| (heard.renewals > 0).then_some(())).await;
    let hours = server.clock.now().since(before).as_secs() / 3600;
    assert!((15..=16).contains(&hours), "after {hours} hours");
    server.give(&server.echo("still here"));
    succeeded(&server.result(1).await);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_somebody_put_in_its_file_is_taken_up_and_what_is_none_is_not() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    server.until(|heard| (!heard.heartbeats.is_empty()).then_some(())).await;
    let hours = Duration::from_secs(3600);
    let file = data.path().join("agent/identity/credentials.pem");
    let before = std::fs::read_to_string(&file).unwrap();
    // Half of it, and another node's, are not taken up: what would be renewed at once is renewed when its own is due.
    std::fs::write(&file, &before[..before.len() / 2]).unwrap();
    tokio::time::sleep(hours).await;
    server.put_credentials(data.path(), NodeId(uuid::Uuid::from_u128(3)), hours);
    tokio::time::sleep(2 * hours).await;
    assert_eq!(server.with(|heard| heard.renewals), 0);
    // Its own, which ends in six hours, is renewed in four; by the key that is in the file.
    server.put_credentials(data.path(), server.node, 6 * hours);
    let put = std::fs::read_to_string(&file).unwrap();
    tokio::time::sleep(3 * hours).await;
    assert_eq!(server.with(|heard| heard.renewals), 0);
    tokio::time::sleep(2 * hours).await;
    assert_eq!(server.with(|heard| heard.renewals), 1);
    let after = std::fs::read_to_string(&file).unwrap();
    let key = |pem: &str| pem.split_once("-----END PRIVATE KEY-----").unwrap().0.to_owned();
    assert!(key(&after) == key(&put) && after != put && key(&put) != key(&before));
    server.give(&server.echo("still here"));
    succeeded(&server.result(1).await);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_is_known_before_it_signs_and_a_revoked_one_is_refused_also_after_the_next_start() {
    let (mut server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    let (signer, key) = signing(KeyState::Staged);
    server.with(|heard| heard.task_keys = Some(key_set(&[server.key.clone(), key.clone()])));
    let digest = hostler_trust::task::digest(&key_set(&[server.key.clone(), key.clone()]));
    server.until(|heard| heard.heartbeats.last().filter(|beat| beat.keys == digest).map(|_| ())).await;
    let old = server.sign(&server.echo("signed before"));
    server.give_token(signer.sign(&server.echo("signed with the next key")).unwrap());
    succeeded(&server.result(1).await);

    let revoked = SigningKey { state: KeyState::Revoked, ..server.key.clone() };
    server.with(|heard| heard.task_keys = Some(key_set(&[revoked.clone(), key.clone()])));
    let digest = hostler_trust::task::digest(&key_set(&[revoked, key.clone()]));
    server.until(|heard| heard.heartbeats.last().filter(|beat| beat.keys == digest).map(|_| ())).await;
    server.give_token(old.clone());
    agent.counted(Counter::Refused, 1).await;
    agent.stop().await;

    // The next one hears of no keys, and has them from its folder.
    server.with(|heard| heard.task_keys = None);
    let agent = server.agent(data.path(), World::new()).await;
    server.give_token(old.clone());
    agent.counted(Counter::Refused, 1).await;

    // The server's database goes back to before the revocation: what was revoked stays so, also after another start.
    let both = key_set(&[server.key.clone(), key]);
    server.with(|heard| {
        heard.heartbeats.clear();
        heard.task_keys = Some(both.clone());
    });
    let digest = hostler_trust::task::digest(&both);
    server.until(|heard| heard.heartbeats.last().filter(|beat| beat.keys == digest).map(|_| ())).await;
    server.give_token(old.clone());
    agent.counted(Counter::Refused, 2).await;
    agent.stop().await;
    let agent = server.agent(data.path(), World::new()).await;
    server.give_token(old);
    agent.counted(Counter::Refused, 1).await;
    server.signer = signer.into();
    server.give(&server.echo("the one that is left"));
    succeeded(&server.result(2).await);
    assert_eq!(server.results().len(), 2);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_of_a_key_that_is_not_known_yet_is_done_once_the_server_tells_of_it() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    server.until(|heard| (!heard.heartbeats.is_empty()).then_some(())).await;
    let (signer, key) = signing(KeyState::Active);
    let before = SigningKey { state: KeyState::Grace, ..server.key.clone() };
    server.with(|heard| heard.task_keys = Some(key_set(&[before, key])));
    server.give_token(signer.sign(&server.echo("signed with a new key")).unwrap());
    succeeded(&server.result(1).await);
    assert_eq!(agent.count(Counter::Refused), 0);
    agent.stop().await;
}
