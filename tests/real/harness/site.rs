//! Machines of their own: network namespaces with an engine each, on one cable that a test can cut.
//!
//! Each machine has an address of 10.99.0.0/24 on a bridge in a namespace of its own; nothing leads out. Everything goes with
//! the [`Site`], and what a test left that was killed goes with the next one.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, test_kill_process};

use super::Harness;

const PREFIX: &str = "nvt-";

pub(crate) struct Site<Engine = Harness> {
    /// Before the namespaces, so that the engines end first.
    pub(crate) machines: Vec<Machine<Engine>>,
    switch: Namespace,
}

/// A machine: its network, and a Docker of its own, or none.
pub(crate) struct Machine<Engine = Harness> {
    pub(crate) harness: Engine,
    pub(crate) address: String,
    /// Its end of the cable, at the switch.
    port: String,
    namespace: Namespace,
}

/// A network namespace, deleted when dropped.
struct Namespace(String);

impl Site {
    /// So many machines that reach each other.
    pub(crate) async fn of(machines: usize) -> Self {
        let site = Site::bare(machines);
        let machines = site.machines.into_iter().map(Machine::with_docker);
        let machines = futures::future::join_all(machines).await;
        Self { machines, switch: site.switch }
    }
}

impl Site<Option<Harness>> {
    /// The same, where only so many of the machines have an engine.
    pub(crate) async fn partly(machines: usize, engines: usize) -> Self {
        let mut site = Site::bare(machines);
        let bare = site.machines.split_off(engines).into_iter().map(|machine| machine.equip(|_| None));
        let equipped = site.machines.into_iter().map(Machine::with_docker);
        let equipped = futures::future::join_all(equipped).await;
        let machines = equipped.into_iter().map(|machine| machine.equip(Some)).chain(bare).collect();
        Self { machines, switch: site.switch }
    }
}

impl Site<()> {
    /// Machines without engines.
    fn bare(machines: usize) -> Self {
        remove_stale();
        let switch = Namespace::new("switch");
        switch.ip(&["link", "add", "br0", "type", "bridge"]);
        switch.ip(&["link", "set", "br0", "up"]);
        let machines = (1..=machines).map(|number| Machine::new(number, &switch)).collect();
        Self { machines, switch }
    }
}

impl<Engine> Site<Engine> {
    /// Pulls a machine's cable out.
    pub(crate) fn unplug(&self, machine: usize) {
        self.switch.ip(&["link", "set", &self.machines[machine].port, "down"]);
    }

    /// Puts it in again.
    pub(crate) fn plug(&self, machine: usize) {
        self.switch.ip(&["link", "set", &self.machines[machine].port, "up"]);
    }

    /// Loses everything that one machine sends to another; the other way is left alone.
    pub(crate) fn lose(&self, from: usize, to: usize) {
        self.filter("-I", from, to);
    }

    /// Ends that.
    pub(crate) fn lose_no_more(&self, from: usize, to: usize) {
        self.filter("-D", from, to);
    }

    /// From now on the machines reach nothing of each other but this port.
    pub(crate) fn only_port(&self, port: u16) {
        let port = port.to_string();
        for machine in &self.machines {
            // Calls to it, and the answers of others to calls of this one.
            for side in ["--dport", "--sport"] {
                machine.iptables(&["-A", "INPUT", "-i", "eth0", "-p", "tcp", side, &port, "-j", "ACCEPT"]);
            }
            machine.iptables(&["-A", "INPUT", "-i", "eth0", "-j", "DROP"]);
        }
    }

    fn filter(&self, action: &str, from: usize, to: usize) {
        let from = &self.machines[from].address;
        self.machines[to].iptables(&[action, "INPUT", "-s", from, "-j", "DROP"]);
    }
}

impl Machine<()> {
    fn new(number: usize, switch: &Namespace) -> Self {
        let namespace = Namespace::new(&number.to_string());
        let (port, address) = (format!("port{number}"), format!("10.99.0.{number}"));
        switch.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace.0]);
        switch.ip(&["link", "set", &port, "master", "br0", "up"]);
        namespace.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace.ip(&["link", "set", "eth0", "up"]);
        Self { harness: (), address, port, namespace }
    }

    async fn with_docker(self) -> Machine {
        let harness = Harness::docker_within(&self.within()).await;
        self.equip(|()| harness)
    }
}

impl<Engine> Machine<Engine> {
    fn equip<Other>(self, with: impl FnOnce(Engine) -> Other) -> Machine<Other> {
        Machine { harness: with(self.harness), address: self.address, port: self.port, namespace: self.namespace }
    }

    /// Where its network is found, for a thread that enters it.
    pub(crate) fn network(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.namespace.0)
    }

    /// Runs a program on this machine's network, which must succeed; what it prints.
    pub(crate) fn run(&self, command_line: &[&str]) -> String {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network().display())).args(command_line);
        succeed(command)
    }

    fn iptables(&self, arguments: &[&str]) {
        let [program, before @ ..] = &self.within()[..] else { unreachable!("a command") };
        let mut command = Command::new(program);
        command.args(before).args(["iptables", "-w"]).args(arguments);
        succeed(command);
    }

    /// What a command line begins with that runs on this machine.
    pub(crate) fn within(&self) -> Vec<String> {
        within(&self.namespace.0)
    }
}

/// Not `ip netns exec`: that hides the control groups.
fn within(namespace: &str) -> Vec<String> {
    vec!["nsenter".to_owned(), format!("--net=/run/netns/{namespace}")]
}

impl Namespace {
    fn new(name: &str) -> Self {
        let namespace = Self(format!("{PREFIX}{}-{name}", std::process::id()));
        let mut command = Command::new("ip");
        command.args(["netns", "add", &namespace.0]);
        succeed(command);
        namespace
    }

    fn ip(&self, arguments: &[&str]) {
        let mut command = Command::new("ip");
        command.args(["-n", &self.0]).args(arguments);
        succeed(command);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _best_effort = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn succeed(mut command: Command) -> String {
    let output = command.output().expect("the packages iproute2, iptables and util-linux are installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Namespaces of tests that were killed.
fn remove_stale() {
    for entry in std::fs::read_dir(PathBuf::from("/run/netns")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')?.0.parse().ok());
        if let Some(process) = process.and_then(Pid::from_raw)
            && test_kill_process(process).is_err()
        {
            drop(Namespace(name));
        }
    }
}
