//! Who is heard between nodes: members, in their own name, each process for itself.

use super::*;

/// It may be an old copy, and only one of the others may know.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_not_introduced_itself_promises_nothing_and_asks_for_nothing() {
    let cluster = Cluster::new();
    let member = cluster.member(1, consensus::Options::default(), everybody()).await;
    let starting = cluster.starting(2, consensus::Options::default(), everybody()).await;
    let ask = async |from: &Witness, node: u64, to: &Peer| {
        let ballot = Some(narvana_proto::v1::Ballot { term: 1_000, node, committed: false });
        let request = narvana_proto::v1::VoteRequest { ballot, ..Default::default() };
        Peers::new(cluster.tls(NodeId(node)), from.clone()).vote(to, request).await
    };
    for (from, node, to) in [(&member, 1, &starting), (&starting, 2, &member)] {
        let refused = ask(&from.witness, node, &to.peer).await;
        let refused = refused.expect_err("nothing is voted on").to_string();
        assert!(refused.contains("takes no part in Raft"), "{refused}");
    }
    let peers = Peers::new(cluster.tls(NodeId(1)), member.witness.clone());
    peers.greet(&starting.peer, Mark::default()).await.expect("who asks who it is gets an answer");
    starting.witness.take_part();
    assert!(ask(&member.witness, 1, &starting.peer).await.expect("a vote").granted);
    member.end().await;
    starting.end().await;
}

/// A node that is refused needs a while until it has ended what it runs. Streams that are open end too.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_takes_no_part_from_that_moment_on() {
    for refused in [0, 2] {
        let cluster = Cluster::new();
        let members = cluster.three(&consensus::Options::default()).await;
        members[0].consensus.propose(domain("one.test")).await.expect("accepted");
        until("all have it", || members.iter().all(|member| member.domain() == "one.test")).await;
        members[refused].witness.end(Refusal::end("it is an old copy"));
        let rest: Vec<&Member> =
            members.iter().filter(|member| member.peer.node != members[refused].peer.node).collect();
        until("another one leads, or still does", || {
            rest.iter().any(|member| member.consensus.status().role == RaftRole::Leader)
        })
        .await;
        let asked = rest[0].consensus.propose(domain("two.test")).await;
        asked.expect("two of three agree");
        until("both have it", || rest.iter().all(|member| member.domain() == "two.test")).await;
        assert_eq!(members[refused].domain(), "one.test", "it was told nothing");
        for member in &members {
            member.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_are_heard_and_only_in_their_own_name() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let removed: Admit = Arc::new(|node| match node {
        NodeId(4) => Err("node 4 was removed from this cluster".to_owned()),
        NodeId(5) => Ok(NodeRole::Worker),
        _ => Ok(NodeRole::VoterEligible),
    });
    let member = cluster.member(1, consensus::Options::default(), removed).await;
    member.consensus.initialize(&member.peer.address).await.expect("initialises");
    let own = witness(Mark::default()).own();
    let ask = async |tls: watch::Receiver<Arc<Tls>>, to: &Peer, claimed: u64| {
        // Whoever was refused asks nobody else.
        let own = Witness::new(own, []);
        own.take_part();
        let ballot = Some(narvana_proto::v1::Ballot { term: 1_000, node: claimed, committed: false });
        let request = narvana_proto::v1::VoteRequest { ballot, pre_vote: true, ..Default::default() };
        Peers::new(tls, own).vote(to, request).await
    };
    let refused = async |tls, to: &Peer, claimed, words: &str| {
        let error = ask(tls, to, claimed).await.expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    ask(cluster.tls(NodeId(2)), &member.peer, 2).await.expect("node 2 is heard");
    refused(cluster.tls(NodeId(2)), &member.peer, 3, "in the name of node 3").await;
    refused(cluster.tls(NodeId(4)), &member.peer, 4, "node 4 was removed").await;
    refused(cluster.tls(NodeId(5)), &member.peer, 5, "joined as a worker").await;
    refused(cluster.tls(NodeId(5)), &member.peer, 5, "joined as a worker").await;
    // Of another authority: neither side trusts the other.
    let error = ask(other.tls(NodeId(2)), &member.peer, 2).await.expect_err("a stranger");
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
    // Whoever answers there has to be the node that was asked for.
    let wrong = Peer { node: NodeId(7), ..member.peer.clone() };
    refused(cluster.tls(NodeId(2)), &wrong, 2, "not valid for name").await;
    assert_eq!(member.consensus.status().role, RaftRole::Leader);
    member.end().await;
}

/// Whatever it sends as if it voted or led: nothing of it is heard, and nobody's term moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_votes_for_nobody_and_leads_nobody() {
    let cluster = Cluster::new();
    let (worker, leading) = (NodeId(2), NodeId(1));
    let admit: Admit =
        Arc::new(move |node| Ok(if node == worker { NodeRole::Worker } else { NodeRole::VoterEligible }));
    let member = cluster.member(leading.0, consensus::Options::default(), admit).await;
    member.consensus.initialize(&member.peer.address).await.expect("initialises");
    let before = member.consensus.status();
    let own = Witness::new(witness(Mark::default()).own(), []);
    own.take_part();
    let peers = Peers::new(cluster.tls(worker), own);
    let to = &member.peer;
    let ballot = |committed| Some(v1::Ballot { term: before.term + 1, node: worker.0, committed });
    let (asks, leads) = (ballot(false), ballot(true));
    let entries = v1::AppendRequest { ballot: leads, ..Default::default() };
    let meta = store::encode_meta(&store::SnapshotMeta::default()).expect("encodes");
    let head = v1::snapshot_part::Part::Head(v1::SnapshotHead { ballot: leads, meta });
    let head = v1::SnapshotPart { part: Some(head) };
    let replies = async {
        let mut replies = peers.append(to, futures::stream::iter([entries]).boxed()).await?;
        replies.next().await.expect("an answer").map(drop)
    };
    let answers = [
        (
            "pre-vote",
            peers.vote(to, v1::VoteRequest { ballot: asks, pre_vote: true, ..Default::default() }).await.err(),
        ),
        ("vote", peers.vote(to, v1::VoteRequest { ballot: asks, ..Default::default() }).await.err()),
        ("entries", replies.await.err()),
        ("snapshot", peers.snapshot(to, futures::stream::iter([head]).boxed()).await.err()),
        ("transfer", peers.transfer(to, v1::TransferRequest { ballot: leads, ..Default::default() }).await.err()),
    ];
    for (what, answer) in answers {
        let words = answer.expect(what).to_string();
        assert!(words.contains("joined as a worker"), "{what}: {words}");
    }
    let after = member.consensus.status();
    assert_eq!((after.term, after.role, after.last_log), (before.term, RaftRole::Leader, before.last_log));
    member.end().await;
}

/// A resumed session would skip the certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_never_resumed() {
    use rustls::HandshakeKind;
    use rustls::client::Resumption;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let cluster = Cluster::new();
    let member = cluster.member(1, consensus::Options::default(), everybody()).await;
    let own = cluster.tls(NodeId(2)).borrow().clone();
    let mut config = rustls::ClientConfig::clone(&own.client);
    config.resumption = Resumption::in_memory_sessions(16);
    let config = Arc::new(config);
    for attempt in 0..2 {
        let stream = tokio::net::TcpStream::connect(&member.peer.address).await.expect("connects");
        let name = super::super::tls::name_of(own.cluster, NodeId(1));
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let mut stream = connector.connect(name, stream).await.expect("shakes hands");
        // It hangs up on what is no greeting; a ticket would have come before that.
        stream.write_all(&[0xFF; 64]).await.expect("writes");
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection stays open");
        let session = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full), "connection {attempt}");
        assert_eq!(session.tls13_tickets_received(), 0, "connection {attempt}");
    }
    member.end().await;
}
