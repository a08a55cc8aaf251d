//! What a committer promises, whatever the step.

use futures_util::future::join_all;
use hostler_db::Db;
use hostler_model::{Clock, Ids, Timestamp, placement::Policy};
use tokio::sync::broadcast;

use super::*;
use crate::{Timing, fleet::Fleet, ripened::Ripened, service::Service};

/// A step that notes the sizes of its batches, and fails as its items say.
struct Probe;

#[derive(Clone, Debug)]
struct Item {
    number: usize,
    fault: Option<Fault>,
    sizes: Arc<Mutex<Vec<usize>>>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    Poison,
    Panic,
    Full,
    Lost,
}

impl Step for Probe {
    type Item = Item;
    type Output = usize;
    const LABEL: &'static str = "test.probe";
    const MOST: usize = 8;

    fn run(_: &mut Work<'_>, items: &[Item]) -> hostler_db::Result<Vec<Answer<usize>>> {
        items[0].sizes.lock().unwrap().push(items.len());
        match items.iter().find_map(|item| item.fault) {
            Some(Fault::Poison) => Err(hostler_db::Error::Aborted("poison".into())),
            Some(Fault::Panic) => panic!("on purpose"),
            Some(Fault::Full) => Err(hostler_db::Error::Full { path: "disk".into() }),
            Some(Fault::Lost) => Err(hostler_db::Error::Lost("the disk failed".into())),
            None => Ok(items.iter().map(|item| Ok(item.number)).collect()),
        }
    }
}

struct Bench {
    committer: Committer<Probe>,
    sizes: Arc<Mutex<Vec<usize>>>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(mode: Mode) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::sqlite(&dir.path().join("t.db"), mode, &[]).unwrap();
        let clock = Clock::from_fn(|| Timestamp::from_micros(0));
        let (wakes, _) = broadcast::channel(1);
        let service = Service::begin(clock.now());
        let (relay, ahead) = (None, None);
        let (ids, timing, placement) = (Ids::seeded(1), Timing::default(), Policy::default());
        let (fleet, ripened) = (Fleet::default(), Ripened::never());
        let context =
            Arc::new(Context { db, clock, ids, timing, placement, service, wakes, relay, ahead, fleet, ripened });
        Bench { committer: Committer::new(context, mode), sizes: Arc::default(), _dir: dir }
    }

    fn items(&self, numbers: std::ops::Range<usize>, fault: impl Fn(usize) -> Option<Fault>) -> Vec<Item> {
        numbers.map(|number| Item { number, fault: fault(number), sizes: self.sizes.clone() }).collect()
    }

    fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().unwrap().clone()
    }
}

/// One letter for each item: answered, or failed by itself.
fn letters(answers: &[Answer<usize>]) -> String {
    answers.iter().map(|answer| if answer.is_ok() { 'y' } else { 'n' }).collect()
}

#[tokio::test]
async fn calls_that_come_together_share_steps_and_get_their_own_answers() {
    let bench = Bench::new(Mode::Threads);
    let calls = (0..9).map(|n| bench.committer.run(bench.items(2 * n..2 * n + 2, |_| None)));
    for (n, answers) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answers.unwrap(), [Ok(2 * n), Ok(2 * n + 1)]);
    }
    assert_eq!(bench.sizes(), [8, 8, 2]);
}

#[tokio::test]
async fn a_call_larger_than_a_step_is_not_cut() {
    let bench = Bench::new(Mode::Threads);
    let answers = bench.committer.run(bench.items(0..20, |_| None)).await.unwrap();
    assert_eq!((answers.len(), bench.sizes()), (20, vec![20]));
}

#[tokio::test]
async fn poison_fails_alone() {
    for (mode, fault) in [(Mode::Threads, Fault::Poison), (Mode::Inline, Fault::Panic)] {
        let bench = Bench::new(mode);
        let items = bench.items(0..8, |n| (n == 5).then_some(fault));
        let answers = bench.committer.run(items).await.unwrap();
        assert_eq!(letters(&answers), "yyyyynyy");
        assert_eq!(answers[5].as_ref().unwrap_err().code, Code::Internal);
        assert_eq!(bench.sizes(), [8, 4, 4, 2, 1, 1, 2]);
    }
}

#[tokio::test]
async fn a_caller_whose_items_all_fail_gets_the_error_and_its_neighbours_their_answers() {
    let bench = Bench::new(Mode::Threads);
    let bad = bench.committer.run(bench.items(0..2, |_| Some(Fault::Poison)));
    let good = bench.committer.run(bench.items(2..4, |_| None));
    let (bad, good) = tokio::join!(bad, good);
    assert!(matches!(bad, Err(Error::Database(_))));
    assert_eq!(good.unwrap(), [Ok(2), Ok(3)]);
}

#[tokio::test]
async fn a_full_disk_is_everybodys_error_at_once() {
    let bench = Bench::new(Mode::Threads);
    let calls = (0..4).map(|n| bench.committer.run(bench.items(n..n + 1, |n| (n == 2).then_some(Fault::Full))));
    for answer in join_all(calls).await {
        assert!(matches!(answer, Err(Error::Full(_))));
    }
    assert_eq!(bench.sizes(), [4]);
}

#[tokio::test]
async fn a_transaction_that_failed_is_everybodys_error_at_once() {
    let bench = Bench::new(Mode::Threads);
    let calls = (0..4).map(|n| bench.committer.run(bench.items(n..n + 1, |n| (n == 2).then_some(Fault::Lost))));
    for answer in join_all(calls).await {
        assert!(matches!(answer, Err(Error::Database(_))));
    }
    assert_eq!(bench.sizes(), [4]);
}

#[tokio::test]
async fn only_an_outage_begins_the_service_anew() {
    let bench = Bench::new(Mode::Inline);
    let context = &bench.committer.context;
    let lease = context.timing.lease;
    let since = |context: &Context| context.service.long_enough(Timestamp::from_micros(0).plus(lease), lease);
    assert!(since(context));
    // The clock of this bench stands at 0; the service is said to have begun a moment before.
    context.service.interrupted(Timestamp::from_micros(-1));
    assert!(since(context));
    bench.committer.run(bench.items(0..1, |_| Some(Fault::Poison))).await.unwrap_err();
    assert!(context.service.long_enough(Timestamp::from_micros(-1).plus(lease), lease));
    for fault in [Fault::Full, Fault::Lost] {
        context.service.interrupted(Timestamp::from_micros(-1));
        bench.committer.run(bench.items(0..1, |_| Some(fault))).await.unwrap_err();
        assert!(!context.service.long_enough(Timestamp::from_micros(-1).plus(lease), lease), "{fault:?}");
        assert!(since(context), "{fault:?}");
    }
}

#[test]
fn a_committer_outlives_the_runtime_it_began_in() {
    let bench = Bench::new(Mode::Threads);
    for n in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answers = runtime.block_on(bench.committer.run(bench.items(n..n + 1, |_| None))).unwrap();
        assert_eq!(answers, [Ok(n)]);
    }
}

#[tokio::test]
async fn nothing_is_answered_with_nothing() {
    let bench = Bench::new(Mode::Threads);
    assert!(bench.committer.run(Vec::new()).await.unwrap().is_empty());
    assert!(bench.sizes().is_empty());
}
