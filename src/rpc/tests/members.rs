//! A group whose leader keeps its members as the state says.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::group::{Cluster, Member, everybody, leader, until};
use crate::consensus::{self, Status};
use crate::control::{self, Control};
use crate::model::{Cpu, JoinToken, Memory, NEWEST_CLUSTER_VERSION, NodeId, NodeResources, NodeRole};
use crate::state::{Actor, Command, LogEntry, NodeFacts, Outcome};
use crate::task::{OnError, Supervisor};
use crate::{clock, random};

/// A member that was silent for this long does not answer.
const HEALTH_THRESHOLD: Duration = Duration::from_secs(2);

/// Members that run the leader's loops, and know of each other through the state alone.
pub(super) struct Group {
    cluster: Cluster,
    token: JoinToken,
    pub(super) members: Vec<Member>,
    controls: Vec<Supervisor>,
}

impl Group {
    pub(super) async fn of(count: usize) -> Self {
        let cluster = Cluster::new();
        let token = JoinToken {
            id: random::id(),
            digest: [7; 32],
            role: NodeRole::VoterEligible,
            uses_left: 100,
            expires_at: clock::now().plus(Duration::from_secs(600)),
            revoked: false,
            created_by: random::id(),
            created_at: clock::now(),
        };
        let mut group = Self { cluster, token, members: Vec::new(), controls: Vec::new() };
        group.start(1).await;
        let first = &group.members[0];
        first.consensus.initialize(&first.peer.address).await.expect("initialises");
        group.register(0).await;
        group.command(Command::CreateJoinToken(group.token.clone())).await;
        for _ in 1..count {
            group.join().await;
        }
        group
    }

    async fn start(&mut self, number: u64) {
        let health_threshold = HEALTH_THRESHOLD;
        let options = consensus::Options::of_threshold(health_threshold);
        let member = self.cluster.member(number, options, everybody()).await;
        let supervisor = Supervisor::new("control", CancellationToken::new());
        let options = control::Options { health_threshold, ..control::Options::default() };
        let control = Control::new(options, member.consensus.clone());
        supervisor.spawn("control", OnError::Log, control.run(supervisor.stopping()));
        self.members.push(member);
        self.controls.push(supervisor);
    }

    /// One more node is let in, starts, and registers, as in a real cluster: the address it was let in with need not be
    /// where it is.
    async fn join(&mut self) {
        let name = format!("n{}", self.members.len() + 1);
        let admit = Command::AdmitNode {
            token: self.token.id,
            digest: self.token.digest,
            name,
            address: "127.0.0.1:1".to_owned(),
            cluster_version_max: NEWEST_CLUSTER_VERSION,
        };
        let Outcome::Node(node) = self.command(admit).await else { panic!("a node") };
        self.start(node.0).await;
        self.register(self.members.len() - 1).await;
    }

    /// On behalf of the node, by whoever leads.
    async fn register(&self, position: usize) {
        let peer = &self.members[position].peer;
        let address: std::net::SocketAddr = peer.address.parse().expect("an address");
        self.command(Command::RegisterNode(NodeFacts {
            id: peer.node,
            name: format!("n{}", position + 1),
            address: address.ip().to_string(),
            api_port: 8080,
            grpc_port: address.port(),
            ingress_http_port: 0,
            arch: "amd64".to_owned(),
            version: "0.1.0".to_owned(),
            cluster_version_max: NEWEST_CLUSTER_VERSION,
            engine: Ok("fake".to_owned()),
            resources: NodeResources {
                cpu: Cpu::from_millis(4_000),
                memory: Memory::from_mebibytes(4_096),
                disk: Memory::from_mebibytes(4_096),
            },
            labels: BTreeMap::from([("position".to_owned(), position.to_string())]),
            incarnation: random::id(),
        }))
        .await;
    }

    pub(super) async fn command(&self, command: Command) -> Outcome {
        until("somebody leads", || leader(&self.members).is_some()).await;
        let entry = LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command };
        let leader = leader(&self.members).expect("leads");
        leader.consensus.propose(entry).await.expect("accepted").outcome
    }

    fn status(&self) -> Option<Status> {
        leader(&self.members).map(|leader| leader.consensus.status())
    }

    pub(super) fn nodes(&self, positions: &[usize]) -> Vec<NodeId> {
        positions.iter().map(|position| self.members[*position].peer.node).collect()
    }

    /// Waits until these vote and these do not, and nobody else belongs to the group.
    pub(super) async fn until_members(&self, voters: &[NodeId], learners: &[NodeId]) {
        until(&format!("{voters:?} vote and {learners:?} do not"), || {
            self.status().is_some_and(|status| status.voters == voters && status.learners == learners)
        })
        .await;
    }

    pub(super) async fn end(&self, position: usize) {
        self.controls[position].stop(Duration::from_secs(5)).await;
        self.members[position].end().await;
    }

    async fn end_all(&self) {
        for position in 0..self.members.len() {
            self.end(position).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_become_learners_and_voters_by_themselves() {
    let mut group = Group::of(2).await;
    group.until_members(&group.nodes(&[0]), &group.nodes(&[1])).await;
    group.join().await;
    group.join().await;
    let spare = group.nodes(&[3]);
    // Three of the four, whoever caught up first.
    until("three vote", || group.status().is_some_and(|status| status.voters.len() == 3)).await;
    until("all have the same", || {
        group.members.iter().all(|member| member.consensus.latest().state.nodes().count() == 4)
    })
    .await;
    let status = group.status().expect("led");
    assert_eq!((status.voters.contains(&NodeId(1)), status.learners.len()), (true, 1), "{spare:?} {status:?}");
    group.end_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_moved_is_found_again() {
    let mut group = Group::of(2).await;
    group.until_members(&group.nodes(&[0]), &group.nodes(&[1])).await;
    let second = group.nodes(&[1])[0];
    until("it has all", || group.members[1].consensus.latest().index == group.members[0].consensus.latest().index)
        .await;
    group.members[1].move_away().await;
    group.register(1).await;
    until("it hears again", || {
        let seen = group.members[1].consensus.latest().state;
        seen.node(second).is_some_and(|node| node.peer_address() == group.members[1].peer.address)
    })
    .await;
    group.end_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_leader_hands_over_and_leaves_the_group() {
    let group = Group::of(3).await;
    group.until_members(&group.nodes(&[0, 1, 2]), &[]).await;
    let leading = leader(&group.members).expect("leads").peer.node;
    group.command(Command::RemoveNode(leading)).await;
    let left: Vec<NodeId> = group.nodes(&[0, 1, 2]).into_iter().filter(|node| *node != leading).collect();
    until("one of the others leads alone", || {
        group.status().is_some_and(|status| {
            status.leader.is_some_and(|node| left.contains(&node))
                && status.voters.len() == 1
                && status.learners.len() == 1
                && status.voters.iter().chain(&status.learners).all(|node| left.contains(node))
        })
    })
    .await;
    group.end_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_is_found_and_replaced_and_welcome_when_it_is_back() {
    let mut group = Group::of(4).await;
    until("three vote", || group.status().is_some_and(|status| status.voters.len() == 3)).await;
    let voters = group.status().expect("led").voters;
    let leading = leader(&group.members).expect("leads").peer.node;
    let position =
        group.members.iter().position(|member| member.peer.node != leading && voters.contains(&member.peer.node));
    let position = position.expect("another voter");
    let dead = group.nodes(&[position])[0];
    group.members[position].close().await;
    let absent =
        |group: &Group| leader(&group.members).map(|leader| leader.consensus.latest().state.absence(dead).is_some());
    until("it is found absent", || absent(&group) == Some(true)).await;
    until("another one has its vote", || {
        group.status().is_some_and(|status| status.voters.len() == 3 && status.learners == [dead])
    })
    .await;
    group.members[position].move_away().await;
    group.register(position).await;
    until("it is found back", || absent(&group) == Some(false)).await;
    assert_eq!(group.status().map(|status| status.voters.len()), Some(3));
    group.end_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_join_with_one_token_at_once_one_is_let_in() {
    let group = Group::of(2).await;
    for round in 0..20_u8 {
        let token = JoinToken { id: random::id(), digest: [round; 32], uses_left: 1, ..group.token.clone() };
        let (id, digest) = (token.id, token.digest);
        group.command(Command::CreateJoinToken(token)).await;
        // Each asks another member.
        let ask = async |position: usize| {
            let command = Command::AdmitNode {
                token: id,
                digest,
                name: format!("racer-{round}-{position}"),
                address: "127.0.0.1:1".to_owned(),
                cluster_version_max: NEWEST_CLUSTER_VERSION,
            };
            let entry = LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command };
            group.members[position].consensus.propose(entry).await
        };
        let mut in_now = Vec::new();
        for answer in <[_; 2]>::from(tokio::join!(ask(0), ask(1))) {
            match answer {
                Ok(committed) => in_now.push(committed.outcome),
                Err(consensus::ProposeError::Rejected(refusal)) => {
                    assert!(format!("{refusal:?}").contains("used"), "round {round}: {refusal:?}");
                }
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        let [Outcome::Node(node)] = in_now[..] else { panic!("round {round}: {in_now:?} were let in") };
        group.command(Command::RemoveNode(node)).await;
    }
    group.end_all().await;
}

/// Here only the first decides: the second leads, and sees that the third is gone.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_lead_any_more_stops_deciding_at_once() {
    let group = Group::of(3).await;
    group.until_members(&group.nodes(&[0, 1, 2]), &[]).await;
    let [first, second, third] = &group.members[..] else { panic!("three members") };
    for control in &group.controls[1..] {
        control.stop(Duration::from_secs(5)).await;
    }
    let term = first.consensus.leading_term().expect("it leads");
    first.consensus.hand_over(second.peer.node).await.expect("hands over");
    let deposed = tokio::time::timeout(Duration::from_secs(1), first.consensus.deposed(term)).await;
    deposed.expect("whatever it does as a leader is dropped");
    let silent_for = || second.consensus.group()?.members.get(&third.peer.node)?.silent_for;
    until("the second has heard the third", || silent_for().is_some()).await;
    third.end().await;
    until("and missed it for long", || silent_for().is_some_and(|time| time > 3 * HEALTH_THRESHOLD)).await;
    let absent = |member: &Member| member.consensus.latest().state.absence(third.peer.node).is_some();
    assert!(!absent(first) && !absent(second));
    second.consensus.hand_over(first.peer.node).await.expect("hands back");
    until("the first decides", || absent(first)).await;
    group.end(0).await;
    group.end(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_not_in_the_log() {
    let group = Group::of(3).await;
    group.until_members(&group.nodes(&[0, 1, 2]), &[]).await;
    let leading = &leader(&group.members).expect("leads").consensus;
    let silences = || leading.group().map(|group| group.members.values().map(|of| of.silent_for).collect::<Vec<_>>());
    let logs = || group.members.iter().map(|member| member.consensus.status().last_log).collect::<Vec<_>>();
    let mut log = Vec::new();
    until("all have the same log and nothing changes", || {
        log = logs();
        let changes = leading.group().is_none_or(|group| group.changing);
        !changes && log.windows(2).all(|pair| pair[0] == pair[1])
    })
    .await;
    let (mut seen, mut beats) = (silences(), 0);
    until("twenty heartbeats were answered", || {
        let now = silences();
        // Silence grows until something is heard.
        if let (Some(before), Some(now)) = (&seen, &now) {
            beats += before.iter().zip(now).filter(|(before, now)| now < before).count();
        }
        seen = now;
        beats >= 20
    })
    .await;
    assert_eq!(logs(), log);
    group.end_all().await;
}
