//! Makes things go wrong, undoes them, and says whether they really happened.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Serialize;

use super::dice::Dice;
use super::fault::{Fault, Whom};
use super::ground::Ground;
use super::history::micros;
use super::plan::Step;
use super::proxy::Weather;
use crate::harness::daemon::wait_stopped;

/// How long somebody is looked for who leads, before anybody will do.
const LEADER_WAIT: Duration = Duration::from_secs(4);
const MIB: u64 = 1 << 20;

/// What became of one fault.
#[derive(Debug, Serialize)]
pub(super) struct Happened {
    pub(super) fault: Fault,
    pub(super) nodes: Vec<usize>,
    /// Microseconds since the run began.
    pub(super) from: u64,
    pub(super) to: u64,
    /// What shows that it happened; an empty text means that nothing does.
    pub(super) seen: String,
    /// The terms of the leaders before and after it.
    pub(super) terms: (Option<u64>, Option<u64>),
}

pub(super) struct Nemesis<'a> {
    pub(super) ground: &'a mut Ground,
    pub(super) dice: Dice,
    pub(super) began: Instant,
    /// Promises that were broken.
    pub(super) broken: Vec<String>,
    /// Ids of nodes that were let in.
    pub(super) ids: Vec<u64>,
    pub(super) churned: usize,
}

impl Nemesis<'_> {
    /// Does it, waits, and undoes it.
    pub(super) fn carry_out(&mut self, step: &Step) -> Happened {
        let led = self.find_leader();
        let nodes = self.whom(step.fault, led.map(|(leader, _)| leader));
        let from = micros(self.began);
        let seen = self.act(step, &nodes);
        let to = micros(self.began);
        std::thread::sleep(step.calm); // poll: a while in which nothing is wrong
        let terms = (led.map(|(_, term)| term), self.find_leader().map(|(_, term)| term));
        Happened { fault: step.fault, nodes, from, to, seen, terms }
    }

    fn find_leader(&self) -> Option<(usize, u64)> {
        let deadline = Instant::now() + LEADER_WAIT;
        loop {
            let led = self.ground.leader();
            if led.is_some() || Instant::now() > deadline {
                return led;
            }
            std::thread::sleep(Duration::from_millis(50)); // poll
        }
    }

    fn whom(&mut self, fault: Fault, leader: Option<usize>) -> Vec<usize> {
        let count = self.ground.seats.len();
        let leader = leader.unwrap_or_else(|| self.dice.below(count));
        let after = |steps: usize| (leader + steps) % count;
        let whom = match fault {
            Fault::Kill(whom)
            | Fault::Pause(whom)
            | Fault::Isolate(whom)
            | Fault::Deaf(whom)
            | Fault::Mute(whom)
            | Fault::Flap(whom)
            | Fault::SlowDisk { whom, .. }
            | Fault::FullDisk(whom)
            | Fault::Clock { whom, .. }
            | Fault::Delay { whom, .. }
            | Fault::BlackHole(whom)
            | Fault::Cut { whom, .. } => whom,
            Fault::OldLog => Whom::Follower,
            Fault::Loss { .. } | Fault::EngineDeath | Fault::IsolateExclusive | Fault::Churn => Whom::All,
            // The leader is in the smaller half as often as not.
            Fault::Halves | Fault::Bridge => {
                let first = self.dice.below(count);
                return (0..count).map(|step| (first + step) % count).collect();
            }
        };
        match whom {
            Whom::Leader => vec![leader],
            Whom::Follower => vec![after(1 + self.dice.below(count - 1))],
            Whom::Majority => (0..=count / 2).map(after).collect(),
            Whom::All => (0..count).collect(),
        }
    }

    fn act(&mut self, step: &Step, nodes: &[usize]) -> String {
        match step.fault {
            Fault::Kill(_) => self.kill(nodes, step.hold),
            Fault::Pause(_) => self.pause(nodes, step.hold),
            Fault::Isolate(_) | Fault::Halves | Fault::Bridge | Fault::Deaf(_) | Fault::Mute(_) => {
                self.partition(step.fault, nodes, step.hold)
            }
            Fault::Flap(_) => self.flap(nodes[0], step.hold),
            Fault::Loss { percent } => self.lose_some(percent, step.hold),
            Fault::SlowDisk { millis, .. } => {
                let before = self.touched(nodes).0;
                self.each(nodes, |ground, node| ground.seats[node].control.set_sync_delay(millis));
                hold(step.hold);
                self.each(nodes, |ground, node| ground.seats[node].control.set_sync_delay(0));
                said(self.touched(nodes).0 - before, "syncs were late")
            }
            Fault::Clock { seconds, .. } => {
                let before = self.touched(nodes).1;
                self.each(nodes, |ground, node| ground.seats[node].control.set_clock(seconds));
                hold(step.hold);
                self.each(nodes, |ground, node| ground.seats[node].control.set_clock(0));
                said(self.touched(nodes).1 - before, "readings of the clock were wrong")
            }
            Fault::FullDisk(_) => self.fill_disk(nodes[0], step.hold),
            Fault::Delay { millis, .. } => self.weather(nodes, Weather::Slow(Duration::from_millis(millis)), step.hold),
            Fault::BlackHole(_) => self.weather(nodes, Weather::Hole, step.hold),
            Fault::Cut { bytes, .. } => self.weather(nodes, Weather::Breaks(bytes), step.hold),
            Fault::EngineDeath => self.kill_engine(step.hold),
            Fault::IsolateExclusive => self.isolate_exclusive(step.hold),
            Fault::OldLog => self.start_with_old_log(nodes[0], step.hold),
            Fault::Churn => self.churn(),
        }
    }

    fn each(&self, nodes: &[usize], act: impl Fn(&Ground, usize)) {
        for node in nodes {
            act(self.ground, *node);
        }
    }

    fn touched(&self, nodes: &[usize]) -> (u64, u64) {
        let all = nodes.iter().map(|node| self.ground.seats[*node].control.touched());
        all.fold((0, 0), |(syncs, clocks), (s, c)| (syncs + s, clocks + c))
    }

    fn kill(&mut self, nodes: &[usize], time: Duration) -> String {
        // All at once: what one of them has, another one may have too.
        self.each(nodes, |ground, node| ground.seats[node].node.signal(Signal::KILL));
        let mut ended = 0;
        for node in nodes {
            let status = self.ground.seats[*node].node.wait_end();
            ended += u64::from(status.signal() == Some(Signal::KILL.as_raw()));
        }
        hold(time);
        for node in nodes {
            self.ground.seats[*node].node.begin("run");
        }
        if ended == nodes.len() as u64 { said(ended, "processes were killed") } else { String::new() }
    }

    fn pause(&self, nodes: &[usize], time: Duration) -> String {
        self.each(nodes, |ground, node| ground.seats[node].node.signal(Signal::STOP));
        self.each(nodes, |ground, node| wait_stopped(ground.seats[node].node.pid()));
        hold(time);
        self.each(nodes, |ground, node| ground.seats[node].node.signal(Signal::CONT));
        said(nodes.len() as u64, "processes stood still")
    }

    fn partition(&self, fault: Fault, nodes: &[usize], time: Duration) -> String {
        let count = self.ground.seats.len();
        let others = |of: usize| (0..count).filter(move |other| *other != of);
        let (deaf, mute) = match fault {
            Fault::Deaf(_) => (true, false),
            Fault::Mute(_) => (false, true),
            _ => (true, true),
        };
        let half = count / 2;
        let pairs: Vec<(usize, usize)> = match fault {
            Fault::Halves => {
                let (one, other) = nodes.split_at(half);
                both_ways(one, other)
            }
            // In the middle is the first one.
            Fault::Bridge => {
                let (one, other) = nodes[1..].split_at(half);
                both_ways(one, other)
            }
            _ => nodes
                .iter()
                .flat_map(|node| {
                    let heard = others(*node).filter(move |_| deaf).map(|other| (other, *node));
                    let said = others(*node).filter(move |_| mute).map(|other| (*node, other));
                    heard.chain(said).collect::<Vec<_>>()
                })
                .collect(),
        };
        for (from, to) in pairs {
            self.ground.lose(from, to);
        }
        hold(time);
        let dropped = self.ground.dropped();
        self.ground.mend();
        said(dropped, "packets were thrown away")
    }

    fn lose_some(&self, percent: u64, time: Duration) -> String {
        let share = format!("0.{percent:02}");
        for machine in &self.ground.site.machines {
            let random = ["-m", "statistic", "--mode", "random", "--probability", &share, "-j", "DROP"];
            machine.run(&[&["iptables", "-w", "-A", "INPUT", "-i", "eth0"], &random[..]].concat());
        }
        hold(time);
        let dropped = self.ground.dropped();
        self.ground.mend();
        said(dropped, "packets were lost")
    }

    fn flap(&mut self, node: usize, time: Duration) -> String {
        let over = Instant::now() + time;
        let mut times = 0;
        while Instant::now() < over {
            self.ground.site.unplug(node);
            let state = self.ground.site.machines[node].run(&["ip", "link", "show", "eth0"]);
            times += u64::from(state.contains("NO-CARRIER") || state.contains("state DOWN"));
            hold(self.dice.millis(50..=900));
            self.ground.site.plug(node);
            hold(self.dice.millis(50..=900));
        }
        said(times, "times its cable was out")
    }

    fn fill_disk(&mut self, node: usize, time: Duration) -> String {
        let disk = &self.ground.seats[node].disk;
        disk.fill_to(3 * MIB);
        hold(time);
        let mut line = self.ground.line(node);
        let refused = line.ask("POST", "/v1/apps", None, Some(&serde_json::json!({"name": "too-much"})));
        disk.clear();
        match refused {
            Ok(reply) if reply.status == 507 => "it said that its disk is full".to_owned(),
            // Without a quorum nobody looks at the disk.
            Ok(reply) if reply.status == 503 => "its disk was full, and there was no quorum".to_owned(),
            Ok(reply) if reply.status < 300 => {
                self.broken.push(format!("with 3 MiB left on its disk, node {node} took a change"));
                String::new()
            }
            _ => String::new(),
        }
    }

    fn weather(&self, nodes: &[usize], weather: Weather, time: Duration) -> String {
        let proxies = || nodes.iter().filter_map(|node| self.ground.seats[*node].proxy.as_ref());
        let touched = || proxies().map(super::proxy::Proxy::touched).sum::<u64>();
        let before = touched();
        proxies().for_each(|proxy| proxy.set(weather));
        hold(time);
        proxies().for_each(|proxy| proxy.set(Weather::Fine));
        said(touched() - before, "pieces were touched by proxies")
    }
}

pub(super) fn hold(time: Duration) {
    std::thread::sleep(time); // poll: this is how long a fault lasts
}

fn both_ways(one: &[usize], other: &[usize]) -> Vec<(usize, usize)> {
    one.iter().flat_map(|a| other.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect()
}

/// Nothing when it did not happen.
pub(super) fn said(count: u64, what: &str) -> String {
    if count == 0 { String::new() } else { format!("{count} {what}") }
}
