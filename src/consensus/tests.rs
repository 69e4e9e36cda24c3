//! A group of one, on a real store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::BoxStream;
use narvana_proto::v1::{self, append_reply};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::made_up::MadeUp;
use super::*;
use crate::model::{ClusterId, SettingKey};
use crate::state::{Actor, Command, LogEntry};
use crate::store::{self, KEY_FILE, SealKey};
use crate::{clock, random};

struct Founder {
    folder: TempDir,
    cluster: ClusterId,
    key: SealKey,
    fatal: CancellationToken,
}

impl Founder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let key = SealKey::create(&folder.path().join(KEY_FILE)).expect("key");
        Self { folder, cluster: random::id(), key, fatal: CancellationToken::new() }
    }

    async fn start(&self, options: Options) -> Consensus {
        self.start_among(options, Arc::new(NoTransport)).await
    }

    async fn start_among(&self, options: Options, others: Arc<dyn Transport>) -> Consensus {
        let store = Store::open(store::Options {
            folder: self.folder.path().to_owned(),
            cluster: self.cluster,
            node: NodeId::FOUNDER,
            key: self.key.clone(),
            fatal: self.fatal.clone(),
        })
        .expect("opens");
        let supervisor = Supervisor::new("consensus", self.fatal.clone());
        Consensus::start(NodeId::FOUNDER, options, store, others, supervisor).await.expect("starts")
    }
}

fn domain(value: &str) -> LogEntry {
    LogEntry {
        proposed_at: clock::now(),
        actor: Actor::System,
        request: None,
        command: Command::SetSettings(BTreeMap::from([(SettingKey::ServerDomain, value.to_owned())])),
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_one_is_ready_at_once_and_comes_back() {
    let founder = Founder::new();
    // Nobody waits for an election: with these time-outs, waiting for one would take far longer than the test may.
    let election = (Duration::from_secs(60), Duration::from_secs(90));
    let patient = || Options { election, ..Options::default() };
    let began = Instant::now();
    let consensus = founder.start(patient()).await;
    assert!(!consensus.is_initialized().await.expect("answers"));
    consensus.initialize("127.0.0.1:9090").await.expect("initialises");
    let first = consensus.propose(domain("one.test")).await.expect("accepted");
    println!("init to first acknowledged write: {:?}", began.elapsed());
    assert!(began.elapsed() < election.0, "{:?}", began.elapsed());
    assert!(matches!(consensus.initialize("127.0.0.1:9090").await, Err(Error::AlreadyInitialized)));

    let view = consensus.linearizable().await.expect("reads");
    assert!(view.index >= first.index);
    assert_eq!(view.state.setting(SettingKey::ServerDomain), "one.test");
    let status = consensus.status();
    assert_eq!((status.role, status.leader), (RaftRole::Leader, Some(NodeId::FOUNDER)));
    assert_eq!((status.voters, status.learners), (vec![NodeId::FOUNDER], vec![]));
    consensus.shutdown().await.expect("stops");
    drop(consensus);

    let began = Instant::now();
    let consensus = founder.start(patient()).await;
    let again = consensus.initialize("127.0.0.1:9090").await;
    assert!(matches!(again, Err(Error::AlreadyInitialized)));
    until("it leads again", || consensus.status().role == RaftRole::Leader).await;
    // As leader of the same term it would answer reads from before what it had agreed on: `simulation` found that.
    assert!(consensus.status().term > status.term, "it was elected again");
    consensus.propose(domain("two.test")).await.expect("accepted");
    println!("start to first acknowledged write: {:?}", began.elapsed());
    consensus.shutdown().await.expect("stops");
    assert!(!founder.fatal.is_cancelled());
}

/// Whom a node introduces itself to is found here: nobody would be a wrong answer. On one thread, openraft's task has not
/// run yet unless it was waited for.
#[tokio::test]
async fn who_votes_is_known_as_soon_as_a_node_has_started() {
    let founder = Founder::new();
    let consensus = founder.start(Options::default()).await;
    consensus.initialize("127.0.0.1:9090").await.expect("initialises");
    consensus.shutdown().await.expect("stops");
    drop(consensus);
    let consensus = founder.start(Options::default()).await;
    assert_eq!(consensus.quorum().voters, 1);
    consensus.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_sees_every_write_that_was_answered_before_it() {
    let founder = Founder::new();
    let consensus = founder.start(Options::default()).await;
    consensus.initialize("127.0.0.1:9090").await.expect("initialises");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let consensus = consensus.clone();
        writers.spawn(async move {
            for round in 0..50 {
                let written = consensus.propose(domain(&format!("w{writer}-{round}.test"))).await.expect("accepted");
                let read = consensus.linearizable().await.expect("reads");
                assert!(read.index >= written.index, "read {} after writing {}", read.index, written.index);
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.expect("no writer failed");
    }
    consensus.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_the_caller_can_do() {
    let founder = Founder::new();
    let consensus = founder.start(Options { patience: Duration::from_secs(1), ..Options::default() }).await;
    let lonely = consensus.propose(domain("a.test")).await;
    assert!(matches!(lonely, Err(ProposeError::NoLeader { leader: None, .. })), "{lonely:?}");
    assert!(matches!(consensus.linearizable().await, Err(ReadError::NoLeader { leader: None, .. })));
    consensus.initialize("127.0.0.1:9090").await.expect("initialises");

    let rejected = consensus.propose(domain("not a domain")).await;
    assert!(matches!(rejected, Err(ProposeError::Rejected(_))), "{rejected:?}");
    let large = consensus.propose(domain(&"x".repeat(store::ENTRY_BYTES_MAX))).await;
    assert!(matches!(large, Err(ProposeError::TooLarge { .. })), "{large:?}");
    let ahead = consensus.latest().index + 1;
    let never = consensus.wait_index(ahead, Instant::now() + Duration::from_millis(20)).await;
    assert!(matches!(never, Err(ReadError::TimedOut)));

    consensus.shutdown().await.expect("stops");
    assert!(matches!(consensus.propose(domain("a.test")).await, Err(ProposeError::Stopped)));
    assert!(matches!(consensus.linearizable().await, Err(ReadError::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_stays_bounded_in_entries_and_bytes_and_nothing_is_lost() {
    let founder = Founder::new();
    let options = Options { snapshot_entries: 50, keep_entries: 10, log_bytes: 64 * 1024, ..Options::default() };
    let consensus = founder.start(options.clone()).await;
    consensus.initialize("127.0.0.1:9090").await.expect("initialises");
    for round in 0..200 {
        consensus.propose(domain(&format!("d{round}.test"))).await.expect("accepted");
    }
    until("the log was purged", || consensus.status().log_size.0 < 150).await;
    // Large commands that are refused still take their place in the log.
    for _ in 0..20 {
        let large = consensus.propose(domain(&"x".repeat(20_000))).await;
        assert!(matches!(large, Err(ProposeError::Rejected(_))), "{large:?}");
    }
    until("the log was purged by its size", || consensus.status().log_size.1 < 64 * 1024).await;
    let before = consensus.latest();
    consensus.shutdown().await.expect("stops");
    drop(consensus);

    let consensus = founder.start(options).await;
    until("everything is applied", || consensus.latest().index >= before.index).await;
    assert!(consensus.latest().state == before.state);
    consensus.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_stops_the_node_within_a_second() {
    let founder = Founder::new();
    let consensus = founder.start(Options::default()).await;
    consensus.initialize("127.0.0.1:9090").await.expect("initialises");
    consensus.propose(domain("a.test")).await.expect("accepted");
    consensus.store.break_now();
    let began = Instant::now();
    let failed = consensus.propose(domain("b.test")).await;
    assert!(matches!(failed, Err(ProposeError::OutcomeUnknown)), "{failed:?}");
    timeout(Duration::from_secs(1), founder.fatal.cancelled()).await.expect("the node is told to stop");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(consensus.status().failure.is_some());
    consensus.shutdown().await.expect_err("it is not closed properly");

    // It was not marked as closed, so the files are checked, and the answered write is there.
    let founder = Founder { fatal: CancellationToken::new(), ..founder };
    drop(consensus);
    let consensus = founder.start(Options::default()).await;
    until("it leads again", || consensus.status().role == RaftRole::Leader).await;
    let view = consensus.linearizable().await.expect("reads");
    assert_eq!(view.state.setting(SettingKey::ServerDomain), "a.test");
    consensus.shutdown().await.expect("stops");
}

/// Both look at what openraft says of itself, which it writes all the time: a look within a look waits for the writer, who
/// waits for the first one, and the node never does anything again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roll_calls_are_answered_while_the_group_is_busy() {
    let founder = Founder::new();
    let consensus = founder.start(Options::default()).await;
    consensus.initialize("127.0.0.1:9090").await.expect("initialises");
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (receiver, over) = (consensus.receiver(), Arc::clone(&over));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    receiver.roll_call(NodeId(2));
                }
            })
        })
        .collect();
    for number in 0..1_000 {
        consensus.propose(domain(&format!("d{number}.test"))).await.expect("accepted");
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().expect("ends");
    }
    consensus.shutdown().await.expect("stops");
}

/// Answers of a member before it lies.
const TRUTHS: usize = 5;

/// openraft takes the word of a follower for anything, and looks for what it is told in its own log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_says_what_cannot_be_harms_nobody_else() {
    use append_reply::Result as Said;
    let at = |index| v1::LogId { term: 1, leader: 1, index };
    let matches = |last| Said::Matching(v1::Matching { last });
    type Lie = Box<dyn Fn(&v1::AppendRequest) -> Said + Send + Sync>;
    let lies: [(&str, Lie); 8] = [
        ("it has much more", Box::new(move |_| matches(Some(at(1 << 40))))),
        ("it has all there can be", Box::new(move |_| matches(Some(at(u64::MAX))))),
        (
            "it has it from another leader",
            Box::new(move |asked| {
                matches(asked.previous.map(|previous| v1::LogId { term: previous.term + 7, ..previous }))
            }),
        ),
        ("it has nothing", Box::new(move |_| matches(None))),
        ("it lacks what is far ahead", Box::new(move |_| Said::Conflict(at(1 << 40)))),
        ("it lacks everything", Box::new(move |_| Said::Conflict(at(0)))),
        (
            "it lacks what it has said to have",
            Box::new(move |asked| Said::Conflict(asked.previous.unwrap_or_else(|| at(0)))),
        ),
        (
            "it knows of the last term",
            Box::new(|_| Said::Higher(v1::Ballot { term: u64::MAX, node: 2, committed: true })),
        ),
    ];
    for (what, lie) in lies {
        let lie = Arc::new(lie);
        let founder = Founder::new();
        // It says the truth for a while, so that there is something to be taken back.
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let liar = MadeUp(move |requests: BoxStream<'static, v1::AppendRequest>| {
            let (count, lie) = (Arc::clone(&count), Arc::clone(&lie));
            let replies = requests.map(move |request| {
                let truth = count.fetch_add(1, Ordering::Relaxed) < TRUTHS;
                Ok(if truth { acknowledged(&request) } else { v1::AppendReply { result: Some(lie(&request)) } })
            });
            replies.boxed()
        });
        let consensus = founder.start_among(Options::default(), Arc::new(liar)).await;
        consensus.initialize("127.0.0.1:9090").await.expect("initialises");
        let learner = Peer { node: NodeId(2), address: "127.0.0.1:1".to_owned() };
        consensus.add_learner(&learner).await.expect("a learner");
        for number in 0..20 {
            consensus.propose(domain(&format!("d{number}.test"))).await.expect("accepted");
        }
        until("it has lied", || asked.load(Ordering::Relaxed) > TRUTHS + 3).await;
        consensus.propose(domain("last.test")).await.expect("accepted");
        assert!(consensus.status().failure.is_none(), "{what}: {:?}", consensus.status().failure);
        consensus.linearizable().await.expect("reads");
        consensus.shutdown().await.expect("stops");
    }
}

/// As a follower answers that has it all.
fn acknowledged(request: &v1::AppendRequest) -> v1::AppendReply {
    let last = match request.entries.last() {
        None => request.previous,
        Some(bytes) => store::decode_entry(bytes).ok().map(|entry| {
            let id = entry.log_id;
            v1::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
        }),
    };
    v1::AppendReply { result: Some(append_reply::Result::Matching(v1::Matching { last })) }
}

/// In a group of a thousand nearly all are learners.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_vote_hears_its_leader_less_often_and_every_entry_at_once() {
    let founder = Founder::new();
    let (beats, committed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let (beat, commit) = (Arc::clone(&beats), Arc::clone(&committed));
    let learner = MadeUp(move |requests: BoxStream<'static, v1::AppendRequest>| {
        let (beat, commit) = (Arc::clone(&beat), Arc::clone(&commit));
        let replies = requests.map(move |request| {
            if request.entries.is_empty() {
                beat.fetch_add(1, Ordering::Relaxed);
            }
            commit.fetch_max(request.committed.map_or(0, |id| id.index), Ordering::Relaxed);
            Ok(acknowledged(&request))
        });
        replies.boxed()
    });
    let options = Options { learner_heartbeat: Duration::from_secs(2), ..Options::default() };
    let consensus = founder.start_among(options, Arc::new(learner)).await;
    consensus.initialize("127.0.0.1:9090").await.expect("initialises");
    let peer = Peer { node: NodeId(2), address: "127.0.0.1:1".to_owned() };
    consensus.add_learner(&peer).await.expect("a learner");
    until("it has everything", || committed.load(Ordering::Relaxed) > 0).await;
    let (heard, began) = (beats.load(Ordering::Relaxed), Instant::now());
    until("it hears its leader", || beats.load(Ordering::Relaxed) >= heard + 3).await;
    // All of them would have come within a second.
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    let written = consensus.propose(domain("one.test")).await.expect("accepted").index;
    let answered = Instant::now();
    until("it knows that the next entry is agreed on", || committed.load(Ordering::Relaxed) >= written).await;
    assert!(answered.elapsed() < Duration::from_secs(1), "{:?}", answered.elapsed());
    let silent_for = consensus.group().expect("it leads").members[&NodeId(2)].silent_for;
    assert!(silent_for.is_some_and(|silent| silent < Duration::from_secs(10)), "{silent_for:?}");
    consensus.shutdown().await.expect("stops");
}
