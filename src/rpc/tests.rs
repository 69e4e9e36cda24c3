//! Groups of several members in one process, over real connections.

mod admission;
mod blobs;
mod group;
mod isolation;
mod members;
mod tunnels;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures::StreamExt;
use narvana_proto::v1;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::consensus::{self, Mark, Peer, RaftRole, Transport, TransportError};
use crate::{state, store};
use group::{Cluster, Member, domain, everybody, leader, until, witness};

#[tokio::test(flavor = "multi_thread")]
async fn three_members_agree_and_go_on_without_the_one_that_led() {
    let cluster = Cluster::new();
    let mut members = cluster.three(&consensus::Options::default()).await;
    members[0].consensus.propose(domain("one.test")).await.expect("accepted");
    until("all have it", || members.iter().all(|member| member.domain() == "one.test")).await;

    let first = members.remove(0);
    first.end().await;
    until("another one leads", || leader(&members).is_some()).await;
    let second = leader(&members).expect("it leads");
    second.consensus.propose(domain("two.test")).await.expect("accepted by two of three");
    until("both have it", || members.iter().all(|member| member.domain() == "two.test")).await;
    // Who does not lead takes commands and reads all the same.
    let other = members.iter().find(|member| member.peer.node != second.peer.node).expect("the third");
    let written = other.consensus.propose(domain("three.test")).await.expect("passed on");
    assert_eq!(other.domain(), "three.test", "who is answered sees what it did");
    let read = other.consensus.linearizable().await.expect("asks the leader");
    assert!(read.index >= written.index);
    let refused = other.consensus.propose(domain("not a domain")).await;
    assert!(matches!(refused, Err(consensus::ProposeError::Rejected(_))), "{refused:?}");

    // One of three decides nothing, and says so in time.
    other.end().await;
    let asked = Instant::now();
    let alone = second.consensus.propose(domain("four.test")).await;
    assert!(alone.is_err() && second.consensus.linearizable().await.is_err(), "{alone:?}");
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    assert_eq!(second.domain(), "three.test", "what it knows can be read");
    second.end().await;
}

/// A cable that is pulled out, a machine that loses its power: nobody says that the connection is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_open_and_dead_is_given_up_and_holds_up_no_other() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, consensus::Options::default(), everybody()).await;
    let lives = cluster.member(2, consensus::Options::default(), everybody()).await;
    let relay = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listens");
    let peer = Peer { node: NodeId(1), address: relay.local_addr().expect("an address").to_string() };
    let target = dead.peer.address.clone();
    let (carries, cut) = tokio::sync::oneshot::channel::<()>();
    let mut relayed = JoinSet::new();
    relayed.spawn(async move {
        let (mut near, _) = relay.accept().await.expect("a connection");
        let mut far = TcpStream::connect(target).await.expect("connects");
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            _ = cut => {}
        }
        // Both stay open, and nobody carries anything between them.
        std::future::pending::<()>().await;
    });
    let peers = Peers::new(cluster.tls(NodeId(3)), witness(Mark::default()));
    peers.greet(&peer, Mark::default()).await.expect("it answers");
    peers.greet(&lives.peer, Mark::default()).await.expect("it answers");

    drop(carries);
    let asked = Instant::now();
    let (lost, heard) = tokio::join!(peers.greet(&peer, Mark::default()), async {
        let heard = peers.greet(&lives.peer, Mark::default()).await;
        (heard, asked.elapsed())
    });
    assert!(matches!(lost, Err(TransportError::Unreachable { sent: true, .. })), "{lost:?}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    heard.0.expect("it answers all the same");
    assert!(heard.1 < Duration::from_secs(2), "{:?}", heard.1);
    relayed.shutdown().await;
    dead.end().await;
    lives.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_open_streams_of_others_at_once_and_as_cut_off() {
    let cluster = Cluster::new();
    let first = cluster.member(1, consensus::Options::default(), everybody()).await;
    first.consensus.initialize(&first.peer.address).await.expect("initialises");
    let stops = cluster.member(2, consensus::Options::default(), everybody()).await;
    // Its leader has one open that never ends by itself.
    first.consensus.add_learner(&stops.peer).await.expect("a learner");
    first.consensus.propose(domain("one.test")).await.expect("accepted");
    until("it has that", || stops.domain() == "one.test").await;
    let channel = Peers::new(first.tls.clone(), first.witness.clone()).channel(&stops.peer).expect("a connection");
    let request = v1::LogRequest {
        log: Some(v1::log_request::Log::Build(vec![7; 16].into())),
        start: Some(v1::log_request::Start::At(0)),
    };
    let followed = v1::logs_client::LogsClient::new(channel).follow(request).await.expect("follows");
    let mut following = JoinSet::new();
    following.spawn(followed.into_inner().collect::<Vec<_>>());

    let (asked, grace) = (Instant::now(), Duration::from_secs(20));
    stops.stop_serving(grace).await;
    assert!(asked.elapsed() < grace / 2, "{:?}", asked.elapsed());
    let ended = tokio::time::timeout(grace, following.join_next()).await.expect("it ends");
    let lines = ended.expect("one").expect("does not panic");
    let last = lines.last().expect("it says why").as_ref().expect_err("it is not complete");
    assert_eq!(last.message(), "this node stops");
    first.end().await;
    stops.end().await;
}

/// A leader that hangs while its connections live: a call to it would wait for as long as the caller has patience.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_leader_that_is_gone_is_given_up_when_another_one_is_known() {
    let cluster = Cluster::new();
    let options = consensus::Options { patience: Duration::from_secs(60), ..consensus::Options::default() };
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let hangs = cluster.member_on(threads.handle(), 1, options.clone()).await;
    hangs.consensus.initialize(&hangs.peer.address).await.expect("initialises");
    let mut others = Vec::new();
    for number in 2..=3 {
        let member = cluster.member(number, options.clone(), everybody()).await;
        hangs.consensus.add_learner(&member.peer).await.expect("a learner");
        others.push(member);
    }
    hangs.consensus.set_voters(&(1..=3).map(NodeId).collect()).await.expect("three voters");
    until("both follow it", || others.iter().all(|other| other.consensus.status().leader == Some(NodeId(1)))).await;
    let (goes_on, hung) = std::sync::mpsc::channel::<()>();
    threads.spawn(async move {
        let _over = hung.recv();
    });

    let asked = Instant::now();
    let repeatable = || state::LogEntry {
        request: Some(state::Request { id: crate::random::id(), fingerprint: [0; 32] }),
        ..domain("next.test")
    };
    let calls = others.iter().map(async |other| {
        let (read, written) = tokio::join!(other.consensus.linearizable(), other.consensus.propose(repeatable()));
        (read.map(drop).map_err(|error| error.to_string()), written.map(drop).map_err(|error| error.to_string()))
    });
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| *answer == (Ok(()), Ok(()))), "{answers:?}");
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    drop(goes_on);
    for member in others.iter().chain([&hangs]) {
        member.end().await;
    }
    threads.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_left_alone_changes_nothing_and_says_who_is_missing() {
    // The one that led, and one that followed.
    for survivor in [0, 2] {
        let cluster = Cluster::new();
        let mut members = cluster.three(&consensus::Options::default()).await;
        until("everybody knows the voters", || members.iter().all(|member| member.consensus.quorum().voters == 3))
            .await;
        let began = crate::clock::now();
        let left = members.remove(survivor);
        for gone in &members {
            gone.end().await;
        }
        let others: Vec<NodeId> = members.iter().map(|member| member.peer.node).collect();
        let missing = || left.consensus.quorum().missing;
        until("both are missed", || missing().iter().map(|voter| voter.node).eq(others.iter().copied())).await;
        assert!(missing().iter().all(|voter| voter.since.plus(Duration::from_secs(5)) > began));
        let asked = Instant::now();
        let refused = left.consensus.propose(domain("alone.test")).await;
        assert!(matches!(refused, Err(consensus::ProposeError::NoLeader { .. })), "{refused:?}");
        assert!(left.consensus.linearizable().await.is_err(), "nobody confirms it");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert_eq!((left.consensus.quorum().needed, left.consensus.quorum().answering()), (2, 1));
        left.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_the_log_no_longer_serves_gets_a_snapshot() {
    let cluster = Cluster::new();
    let options = consensus::Options { snapshot_entries: 20, keep_entries: 5, ..consensus::Options::default() };
    let first = cluster.member(1, options.clone(), everybody()).await;
    first.consensus.initialize(&first.peer.address).await.expect("initialises");
    for number in 0..100 {
        first.consensus.propose(domain(&format!("n{number}.test"))).await.expect("accepted");
    }
    until("a snapshot", || first.consensus.status().snapshot.is_some_and(|index| index > 50)).await;
    until("the log begins later", || first.consensus.status().log_size.0 < 90).await;
    // It makes none of its own.
    let late = consensus::Options { snapshot_entries: u64::MAX / 4, ..options };
    let late = cluster.member(2, late, everybody()).await;
    first.consensus.add_learner(&late.peer).await.expect("a learner");
    until("it has the newest", || late.domain() == "n99.test").await;
    assert!(late.consensus.status().snapshot.is_some(), "it came as a snapshot: {:?}", late.consensus.status());
    let (ours, theirs) = (first.consensus.latest().state, late.consensus.latest().state);
    assert!(ours.records().eq(theirs.records()));
    first.end().await;
    late.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_snapshot_cannot_be_read_ends_when_another_one_needs_it() {
    let cluster = Cluster::new();
    let options = consensus::Options { snapshot_entries: 20, keep_entries: 5, ..consensus::Options::default() };
    let first = cluster.member(1, options.clone(), everybody()).await;
    first.consensus.initialize(&first.peer.address).await.expect("initialises");
    for number in 0..100 {
        first.consensus.propose(domain(&format!("n{number}.test"))).await.expect("accepted");
    }
    until("the last snapshot", || first.consensus.status().snapshot.is_some_and(|index| index > 85)).await;
    until("the log begins later", || first.consensus.status().log_size.0 < 90).await;
    let folder = first.folder().join("snapshots");
    let snapshots = || std::fs::read_dir(&folder).expect("a folder").flatten().map(|file| file.path());
    until("only that", || snapshots().count() == 1).await;
    let path = snapshots().next().expect("one");
    let mut bytes = std::fs::read(&path).expect("a snapshot");
    // The last of it: everything before it is read and sent.
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    let late = cluster.member(2, consensus::Options::default(), everybody()).await;
    first.consensus.add_learner(&late.peer).await.expect("a learner");
    until("the node ends", || first.failed()).await;
    assert!(!late.domain().starts_with('n'), "nothing of it was taken: {}", late.domain());
    late.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_deposed_leader_is_not_put_on_disk() {
    let cluster = Cluster::new();
    let members = cluster.three(&consensus::Options::default()).await;
    members[0].consensus.hand_over(members[2].peer.node).await.expect("hands over");
    until("the third leads", || leader(&members).is_some_and(|leader| leader.peer.node == NodeId(3))).await;
    let status = members[2].consensus.status();
    until("the second follows it", || members[1].consensus.status().term == status.term).await;
    let ballot = v1::Ballot { term: status.term - 1, node: 1, committed: true };
    let meta = store::encode_meta(&store::SnapshotMeta::default()).expect("encodes");
    let head = v1::SnapshotHead { ballot: Some(ballot), meta };
    let head = v1::SnapshotPart { part: Some(v1::snapshot_part::Part::Head(head)) };
    // It breaks off after its head: whoever reads on says that, and whoever does not says who leads.
    let deposed = Peers::new(cluster.tls(NodeId(1)), members[0].witness.clone());
    let sent = deposed.snapshot(&members[1].peer, futures::stream::iter([head]).boxed()).await;
    assert_eq!(sent.expect("answered").ballot.expect("one").term, status.term);
    for member in members {
        member.end().await;
    }
}

/// A machine that is up, while narvana is not: every attempt is refused at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_refuses_every_connection_is_not_asked_without_a_pause() {
    let cluster = Cluster::new();
    let first = cluster.member(1, consensus::Options::default(), everybody()).await;
    first.consensus.initialize(&first.peer.address).await.expect("initialises");
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let gone = Peer { node: NodeId(2), address: port.local_addr().expect("bound").to_string() };
    first.consensus.add_learner(&gone).await.expect("a learner");
    let attempts = async {
        for _ in 0..12 {
            drop(port.accept().await.expect("an attempt"));
        }
    };
    let begun = Instant::now();
    tokio::time::timeout(Duration::from_secs(30), attempts).await.expect("it is asked again and again");
    // Heartbeats are ten a second, replication asks five times.
    assert!(begun.elapsed() > Duration::from_millis(400), "{:?}", begun.elapsed());
    first.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_hands_over_and_followers_become_learners() {
    let cluster = Cluster::new();
    let members = cluster.three(&consensus::Options::default()).await;
    members[0].consensus.hand_over(members[2].peer.node).await.expect("hands over");
    until("the third leads", || leader(&members).is_some_and(|leader| leader.peer.node == NodeId(3))).await;
    let leading = &members[2].consensus;
    leading.set_voters(&BTreeSet::from([NodeId(3)])).await.expect("one voter");
    leading.remove_learners(&BTreeSet::from([NodeId(1)])).await.expect("removed");
    let status = leading.status();
    assert_eq!((status.voters, status.learners), (vec![NodeId(3)], vec![NodeId(2)]));
    leading.propose(domain("three.test")).await.expect("accepted by one");
    until("the learner has it", || members[1].domain() == "three.test").await;
    for member in &members {
        member.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_steps_aside_before_it_stops() {
    let cluster = Cluster::new();
    let members = cluster.three(&consensus::Options::default()).await;
    members[1].consensus.step_aside().await;
    assert_eq!(
        leader(&members).map(|leader| leader.peer.node),
        Some(NodeId(1)),
        "who does not lead has nothing to hand over"
    );
    // Nobody asks the one that is gone.
    members[2].end().await;
    until("it is missed", || !members[0].consensus.quorum().missing.is_empty()).await;
    members[0].consensus.step_aside().await;
    until("the second leads", || leader(&members[..2]).is_some_and(|leader| leader.peer.node == NodeId(2))).await;
    members[0].end().await;
    members[1].end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_in_an_older_term_is_refused() {
    let cluster = Cluster::new();
    let members = cluster.three(&consensus::Options::default()).await;
    let old = members[0].consensus.leading_term().expect("it leads");
    members[0].consensus.propose_in_term(old, domain("one.test")).await.expect("in time");
    members[0].consensus.hand_over(members[1].peer.node).await.expect("hands over");
    let late = async || members[0].consensus.propose_in_term(old, domain("two.test")).await;
    let refused = late().await;
    assert!(matches!(refused, Err(consensus::ProposeError::NoLeader { .. })), "not passed on: {refused:?}");
    members[1].consensus.hand_over(members[0].peer.node).await.expect("hands back");
    until("it leads again", || members[0].consensus.leading_term().is_some_and(|term| term > old)).await;
    let refused = late().await;
    assert!(matches!(refused, Err(consensus::ProposeError::NoLeader { .. })), "of another term: {refused:?}");
    assert_eq!(members[0].consensus.linearizable().await.expect("reads").state, members[0].consensus.latest().state);
    assert_eq!(members[0].domain(), "one.test");
    for member in &members {
        member.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_passes_a_command_on_and_is_told_nothing_says_what_became_of_it() {
    let cluster = Cluster::new();
    let options = consensus::Options { patience: Duration::from_secs(1), ..consensus::Options::default() };
    let mut members = cluster.three(&options).await;
    members[0].consensus.propose(domain("one.test")).await.expect("accepted");
    until("all have it", || members.iter().all(|member| member.domain() == "one.test")).await;
    members[2].close().await;
    let asked = members[2].consensus.propose(domain("two.test")).await;
    let Err(consensus::ProposeError::NotYetHere { index }) = asked else { panic!("{asked:?}") };
    assert_eq!(members[2].domain(), "one.test");
    until("the others have it", || members[..2].iter().all(|member| member.domain() == "two.test")).await;
    assert!(members[0].consensus.latest().index >= index);
    for member in &members {
        member.end().await;
    }
}
