//! Faults with an answer of their own: what a node must refuse, and what must not run twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use super::exclusive;
use super::ground::id_of;
use super::line::Line;
use super::nemesis::{Nemesis, hold, said};
use super::shim::Control;

/// How long a node may take to refuse what is on its disk.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);
/// How long a node that is cut off may take to end what must not run twice: ten seconds until it knows, and then to stop it.
const ENDED_WITHIN: Duration = Duration::from_secs(28);
/// How long what must not run twice may take to run again after another fault.
const HOME_WITHIN: Duration = Duration::from_secs(60);
/// What a node ends with whose data cannot be used.
const DAMAGED: i32 = 78;

impl Nemesis<'_> {
    /// The log of a node goes back in time, as a disk that lost its writes would have it: nothing may come of what it
    /// promised since. It must refuse, and goes on when it has its log again.
    pub(super) fn start_with_old_log(&mut self, number: usize, time: Duration) -> String {
        let node = &mut self.ground.seats[number].node;
        let file = |name: &str| node.data.join(name);
        let (log, old, new) = (file("raft.redb"), file("raft.old"), file("raft.new"));
        node.kill();
        std::fs::copy(&log, &old).expect("copied");
        node.run();
        hold(time);
        node.kill();
        let differs = std::fs::read(&log).expect("read") != std::fs::read(&old).expect("read");
        std::fs::rename(&log, &new).expect("moved");
        std::fs::rename(&old, &log).expect("moved");
        node.begin("run");
        let refused = node.ends_within(REFUSED_WITHIN);
        match refused.map(|status| status.code()) {
            Some(Some(DAMAGED)) => {}
            Some(code) => {
                self.broken.push(format!("with an older log, node {number} ended with {code:?}, not {DAMAGED}"))
            }
            None => {
                self.broken.push(format!("node {number} started with a log that lacks what it had answered"));
                self.ground.seats[number].node.kill();
            }
        }
        std::fs::rename(&new, &log).expect("moved");
        self.ground.seats[number].node.begin("run");
        said(u64::from(differs), "node was given its log of some time before")
    }

    /// Twice, so that the second one comes after a node was removed.
    pub(super) fn churn(&mut self) -> String {
        let came = (0..2).filter(|_| self.come_and_go()).count();
        if came == 2 { "2 machines joined and were removed".to_owned() } else { String::new() }
    }

    fn come_and_go(&mut self) -> bool {
        self.churned += 1;
        let machine = self.ground.seats.len();
        let folder = tempfile::tempdir().expect("a folder");
        let control = Control::new(folder.path().join("control"));
        let Some(token) = self.join_token() else {
            self.broken.push(format!("no join token is made within {REFUSED_WITHIN:?}"));
            return false;
        };
        let file = folder.path().join("token");
        std::fs::write(&file, token).expect("written");
        let newcomer = |which: &str| {
            let name = format!("x{}{which}", self.churned);
            let mut node = self.ground.node(&name, machine, folder.path().join(which), &control.path);
            node.env.push(("NARVANA_JOIN_TOKEN_FILE".to_owned(), file.display().to_string()));
            node
        };
        let (mut first, mut second) = (newcomer("a"), newcomer("b"));
        // A cluster that has just been hurt may say that it cannot let nodes in now, which is safe to ask again.
        let deadline = Instant::now() + 2 * REFUSED_WITHIN;
        while !first.try_join() {
            if Instant::now() > deadline {
                self.broken.push(format!("no machine can join: {}", first.log()));
                return false;
            }
        }
        let id = id_of(&first);
        if self.ids.contains(&id) {
            self.broken.push(format!("two nodes were given the id {id}"));
        }
        self.ids.push(id);
        first.kill();
        // Refused for another reason it would show nothing.
        while !second.log().contains("used already") {
            if second.try_join() {
                self.broken.push("one join token of one use let two nodes in".to_owned());
                self.ids.push(id_of(&second));
                second.kill();
                break;
            }
            if Instant::now() > deadline {
                self.broken.push(format!("a used join token is not refused as such: {}", second.log()));
                break;
            }
        }
        self.remove(id);
        true
    }

    fn join_token(&self) -> Option<String> {
        let deadline = Instant::now() + REFUSED_WITHIN;
        while Instant::now() < deadline {
            for number in 0..self.ground.seats.len() {
                let made = self.ground.line(number).ask("POST", "/v1/join-tokens", None, Some(&json!({"uses": 1})));
                if let Ok(made) = made
                    && let Some(token) = made.body["token"].as_str()
                {
                    return Some(token.to_owned());
                }
            }
        }
        None
    }

    fn remove(&mut self, id: u64) {
        let deadline = Instant::now() + REFUSED_WITHIN;
        let path = format!("/v1/nodes/{id}");
        let mut statuses = BTreeSet::new();
        while Instant::now() < deadline {
            for number in 0..self.ground.seats.len() {
                let status = self.ground.line(number).ask("DELETE", &path, None, None).map_or(0, |reply| reply.status);
                if matches!(status, 200..300 | 404) {
                    return;
                }
                statuses.insert(status);
            }
        }
        self.broken.push(format!("node {id} is not removed within {REFUSED_WITHIN:?}: {statuses:?}"));
    }

    pub(super) fn kill_engine(&mut self, time: Duration) -> String {
        let number = self.dice.below(self.ground.seats.len());
        let Some(harness) = &mut self.ground.site.machines[number].harness else { return String::new() };
        harness.daemon().kill();
        hold(time);
        harness.daemon().start_again();
        "an engine was killed".to_owned()
    }

    /// Cuts the machine off on which the exclusive service runs: it ends there before it starts elsewhere, which is for
    /// somebody else to watch.
    pub(super) fn isolate_exclusive(&mut self, time: Duration) -> String {
        let count = self.ground.seats.len();
        // What was hurt just before comes back first.
        let deadline = Instant::now() + HOME_WITHIN;
        let home = loop {
            let found = (0..count).find_map(|number| {
                let mut line = Line::hasty(&self.ground.site.machines[number].network(), &self.ground.token);
                exclusive::home(&mut line)
            });
            match found.and_then(|id| self.ground.seats.iter().position(|seat| seat.id == id)) {
                Some(home) => break home,
                None if Instant::now() > deadline => return String::new(),
                None => std::thread::sleep(Duration::from_millis(100)), // poll
            }
        };
        for other in (0..count).filter(|other| *other != home) {
            self.ground.lose(other, home);
            self.ground.lose(home, other);
        }
        let began = Instant::now();
        hold(ENDED_WITHIN);
        let machines = &self.ground.site.machines;
        let runs_on = |number: usize| {
            let engine = machines[number].harness.as_ref().map(|harness| harness.address());
            engine.and_then(exclusive::running).is_some_and(|ids| !ids.is_empty())
        };
        if runs_on(home) {
            self.broken.push(format!(
                "machine {home} was cut off for {ENDED_WITHIN:?} and still runs what must not run twice"
            ));
        }
        hold(time.saturating_sub(began.elapsed()));
        // Whoever took it over has it by now.
        let is_elsewhere = (0..count).filter(|other| *other != home).any(runs_on);
        let dropped = self.ground.dropped();
        self.ground.mend();
        if is_elsewhere {
            said(dropped, "packets were thrown away, and it came to run elsewhere")
        } else {
            String::new()
        }
    }
}
