//! The machines of a run with their nodes, disks and proxies.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::dice::Dice;
use super::line::{API_PORT, Line};
use super::plan::Plan;
use super::proxy::{PEER_PORT, Proxy};
use super::shim::{self, Control};
use crate::harness::Harness;
use crate::harness::disk::SmallDisk;
use crate::harness::node::Node;
use crate::harness::site::Site;

/// How long the cluster may take until all vote.
const START: Duration = Duration::from_secs(60);
/// A machine with less free space may not join.
const JOIN_MEBIBYTES: u64 = 1_200;
const NO_ENGINE: &str = "unix:///nowhere/engine.sock";

pub(super) struct Ground {
    /// Before the machines they are on.
    pub(super) seats: Vec<Seat>,
    /// One more than there are nodes: for one that comes and goes.
    pub(super) site: Site<Option<Harness>>,
    pub(super) token: String,
    env: Vec<(String, String)>,
    /// Where the nodes' logs are put in the end.
    logs: PathBuf,
    _folder: tempfile::TempDir,
}

/// A node and what is its own.
pub(super) struct Seat {
    pub(super) node: Node,
    pub(super) disk: SmallDisk,
    pub(super) proxy: Option<Proxy>,
    pub(super) control: Control,
    pub(super) id: u64,
}

impl Ground {
    pub(super) async fn prepare(plan: &Plan, logs: &Path) -> Self {
        let site = Site::partly(plan.members + 1, if plan.engines { plan.members } else { 0 }).await;
        let folder = tempfile::tempdir().expect("a folder");
        let library = shim::build(folder.path());
        let mut env = vec![
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("NARVANA_SNAPSHOT_ENTRIES".to_owned(), plan.snapshot_entries.to_string()),
        ];
        env.extend(plan.plant.iter().map(|bug| ("NARVANA_PLANT".to_owned(), bug.clone())));
        let mut ground =
            Self { seats: Vec::new(), site, token: String::new(), env, logs: logs.to_owned(), _folder: folder };
        for number in 0..plan.members {
            ground.seat(number, plan);
        }
        ground.wait_until_all_vote();
        ground
    }

    fn seat(&mut self, number: usize, plan: &Plan) {
        let machine = &self.site.machines[number];
        let proxy = plan.proxied.then(|| {
            let rule = [&Proxy::rule()[..], &Proxy::rule_end()[..]].concat();
            machine.run(&rule.iter().map(String::as_str).collect::<Vec<_>>());
            Proxy::start(machine.network(), Dice::of(plan.seed, 1_000 + number as u64))
        });
        let disk = SmallDisk::new(JOIN_MEBIBYTES);
        let control = Control::new(self.folder().join(format!("control-{number}")));
        let mut node = self.node(&format!("n{number}"), number, disk.path.join("data"), &control.path);
        match self.seats.first() {
            None => {
                node.start("init");
                node.register();
                self.token.clone_from(&node.token);
            }
            Some(first) => {
                let token = first.node.join_token(&[]);
                self.join(&mut node, &token);
            }
        }
        disk.resize(plan.disk_mebibytes);
        let id = id_of(&node);
        self.seats.push(Seat { node, disk, proxy, control, id });
    }

    /// A node on this machine that does not run yet.
    pub(super) fn node(&self, name: &str, machine: usize, data: PathBuf, control: &Path) -> Node {
        let machine = &self.site.machines[machine];
        let engine = machine.harness.as_ref().map_or(NO_ENGINE, Harness::address);
        let mut node = Node::placed(name, data, machine, engine);
        node.ports = (API_PORT, PEER_PORT);
        node.env.extend(self.env.iter().cloned());
        node.env.push(("TORTURE_CONTROL".to_owned(), control.display().to_string()));
        node.token.clone_from(&self.token);
        node
    }

    fn join(&self, node: &mut Node, token: &str) {
        let file = self.folder().join(format!("token-{}", node.name()));
        std::fs::write(&file, token).expect("written");
        node.env.push(("NARVANA_JOIN_TOKEN_FILE".to_owned(), file.display().to_string()));
        node.start("join");
    }

    /// For what belongs to the run.
    pub(super) fn folder(&self) -> &Path {
        self._folder.path()
    }

    /// A client of this node.
    pub(super) fn line(&self, number: usize) -> Line {
        Line::to(&self.site.machines[number].network(), &self.token)
    }

    fn wait_until_all_vote(&self) {
        let deadline = Instant::now() + START;
        let mut line = self.line(0);
        loop {
            let voters = line.get("/v1/status").ok().and_then(|reply| Some(reply.body["voters"].as_array()?.len()));
            if voters == Some(self.seats.len()) {
                return;
            }
            assert!(Instant::now() < deadline, "{voters:?} vote: {}", self.seats[0].node.log());
            std::thread::sleep(Duration::from_millis(50)); // poll
        }
    }

    /// Who leads and in which term, by what most nodes say that answer soon.
    pub(super) fn leader(&self) -> Option<(usize, u64)> {
        let mut newest = None;
        for number in 0..self.seats.len() {
            let mut line = Line::hasty(&self.site.machines[number].network(), &self.token);
            let Ok(reply) = line.get("/v1/status") else { continue };
            let (leader, term) = (reply.body["leader"].as_u64(), reply.body["term"].as_u64().unwrap_or(0));
            if let Some(leader) = leader.and_then(|id| self.seats.iter().position(|seat| seat.id == id))
                && newest.is_none_or(|(_, known)| known < term)
            {
                newest = Some((leader, term));
            }
        }
        newest
    }

    /// Packets that the filter of this machine has thrown away since it was told to.
    pub(super) fn dropped(&self) -> u64 {
        let of = |rules: String| {
            let drops = rules.lines().filter(|line| line.contains("DROP"));
            drops.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>()
        };
        let machines = self.site.machines.iter();
        machines.map(|machine| of(machine.run(&["iptables", "-w", "-L", "INPUT", "-nvx"]))).sum()
    }

    /// Throws away what one machine sends to another.
    pub(super) fn lose(&self, from: usize, to: usize) {
        self.site.lose(from, to);
    }

    /// All cables work, nothing is thrown away, every proxy passes on.
    pub(super) fn mend(&self) {
        for (number, machine) in self.site.machines.iter().enumerate() {
            machine.run(&["iptables", "-w", "-F", "INPUT"]);
            self.site.plug(number);
        }
    }
}

impl Drop for Ground {
    /// Also when the run fails in the middle.
    fn drop(&mut self) {
        for (number, seat) in self.seats.iter().enumerate() {
            let _best_effort = std::fs::write(self.logs.join(format!("node-{number}.log")), seat.node.log());
        }
    }
}

/// The id that a node was let in with.
pub(super) fn id_of(node: &Node) -> u64 {
    let text = std::fs::read(node.data.join("identity.json")).expect("a node has one");
    let identity: Value = serde_json::from_slice(&text).expect("JSON");
    identity["node"].as_u64().expect("an id")
}
