//! The log and the wakes.

use hostler_model::{
    Code,
    event::Class,
    internal::ProgressReport,
    task::{Effects, End, PhaseTiming, Progress, TaskState},
};
use hostler_store::{LogFilter, Progressed, Submission};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::world::{Agent, TENANT, World};

pub async fn entries_are_numbered_without_gaps(world: &mut World) {
    let agent = world.node("a").await;
    let batch = vec![world.echo(), world.on_vm(hostler_model::kind::KindName::VmExec, world.id()), world.create("web")];
    world.store.submit(batch).await.unwrap();
    for leased in world.lease(agent, 5).await {
        world.succeed(agent, &leased).await;
    }
    let numbers: Vec<i64> = world.entries().await.iter().map(|entry| entry.seq).collect();
    assert_eq!(numbers, Vec::from_iter(1..=world.head().await));
    // A page continues where the one before ended.
    let page = world.store.log(LogFilter::default(), 2, 3).await.unwrap();
    assert_eq!(Vec::from_iter(page.iter().map(|entry| entry.seq)), [3, 4, 5]);
}

pub async fn filters_select(world: &mut World) {
    world.node("a").await;
    let other = world.tenant("other").await;
    let mine = world.ok(world.echo()).await;
    world.ok(Submission { tenant: other, ..world.echo() }).await;
    let of = |filter| world.store.log(filter, 0, 100);
    let tenants = of(LogFilter { tenant: Some(TENANT), ..LogFilter::default() }).await.unwrap();
    assert!(tenants.iter().all(|entry| entry.tenant == Some(TENANT)));
    assert_eq!(tenants.len(), 1);
    let audit = of(LogFilter { class: Some(Class::Audit), ..LogFilter::default() }).await.unwrap();
    assert!(audit.iter().all(|entry| entry.class == Class::Audit) && !audit.is_empty());
    let subject =
        of(LogFilter { subject: Some(mine.id.0), class: Some(Class::Event), ..LogFilter::default() }).await.unwrap();
    assert_eq!(Vec::from_iter(subject.iter().map(|entry| entry.kind.as_str())), ["task.queued"]);
}

pub async fn every_step_wakes_those_who_wait(world: &mut World) {
    let agent = world.node("a").await;
    let mut wakes = world.store.wakes();
    let task = world.ok(world.echo()).await;
    let wake = wakes.recv().await.unwrap();
    assert_eq!((wake.nodes, wake.ended, wake.seq), (vec![agent.node], Vec::new(), world.head().await));
    let leased = world.lease_one(agent).await;
    wakes.recv().await.unwrap();
    world.succeed(agent, &leased).await;
    let wake = wakes.recv().await.unwrap();
    assert_eq!((wake.ended, wake.seq), (vec![task.id], world.head().await));
    // Nothing happened, nobody is woken.
    assert!(world.lease(agent, 5).await.is_empty());
    world.beat(agent, Vec::new()).await;
    assert!(wakes.try_recv().is_err());
}

pub async fn what_was_answered_is_there_after_reopening(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    let (entries, book) = (world.entries().await, world.book().await);
    world.reopen();
    assert_eq!((world.entries().await, world.book().await), (entries, book));
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
    world.succeed(agent, &leased).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Succeeded);
}

pub async fn any_text_survives(world: &mut World) {
    let agent = world.node("a").await;
    let words = "\0 ' \" \\ \u{1b} \u{2028} \u{1f600} \u{e000} 'null' {\"a\":1}";
    let mut submission = world.create("web");
    submission.vm.as_mut().unwrap().spec.labels.insert(words.into(), words.into());
    submission.params["labels"] = serde_json::json!({words: words});
    let vm = submission.vm.clone().unwrap();
    let task = world.ok(submission).await;
    assert_eq!(world.task(task.id).await.params, task.params);
    assert_eq!(world.vm(vm.id).await.spec, vm.spec);
    let leased = world.lease_one(agent).await;
    world.progress(agent, &leased, words, &[words]).await.unwrap();
    assert_eq!(world.task(task.id).await.progress.unwrap().phase, words);
    let progress = world.entries().await.pop().unwrap();
    assert_eq!(progress.data["phase"], serde_json::json!(words));
    // A terminal shows these: what could move its cursor does not survive.
    let line = words.replace(['\0', '\u{1b}'], "\u{fffd}");
    assert_eq!(world.lines(task.id).await.pop().unwrap().text, line);
    let end =
        End::Failed { code: Code::HandlerFailed, detail: words.into(), retryable: false, effects: Effects::Remain };
    world.end_with(agent, &leased, end).await;
    assert_eq!(world.task(task.id).await.error.unwrap().detail, words);
    assert_eq!(world.vm(vm.id).await.detail.unwrap(), words.replace('\0', "\u{fffd}"));
}

pub async fn fractions_survive(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..20 {
        let phase = |_| PhaseTiming { phase: "boot".into(), ms: rng.random::<f64>() * 1000.0 };
        let progress = Progress { phase: "boot".into(), percent: None, done: (0..50).map(phase).collect() };
        let report =
            ProgressReport { fence: leased.fence, started_at: world.now(), progress: progress.clone(), log: vec![] };
        let Agent { node, enrolment } = agent;
        let batch = vec![Progressed { node, enrolment, task: leased.task, report }];
        world.store.progress(batch).await.unwrap().pop().unwrap().unwrap();
        assert_eq!(world.task(leased.task).await.progress, Some(progress));
    }
    // And the chain, which is over what is read, verifies: see the end of every claim.
}
