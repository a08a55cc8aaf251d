//! What is believed: only what this server signed, for this node, in time.

use hostler_agent::metrics::Counter;
use hostler_model::NodeId;
use hostler_trust::TaskSigner;

use crate::{
    server::{Server, folder, succeeded},
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
    let stranger = TaskSigner::generate().unwrap().sign(&good).unwrap();

    let bad = [server.sign(&foreign), server.sign(&expired), server.sign(&issuer), tampered, stranger, "?".into()];
    let n = bad.len() as u64;
    bad.into_iter().for_each(|token| server.give_token(token));
    agent.counted(Counter::Refused, n).await;
    assert_eq!(agent.count(Counter::Begun), 0);

    server.give(&good);
    succeeded(&server.result(1).await);
    assert_eq!(server.results().len(), 1);
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
