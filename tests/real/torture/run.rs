//! One run: from the seed to the verdict.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::check;
use super::client::{Client, Field};
use super::dice::Dice;
use super::exclusive;
use super::ground::Ground;
use super::history::{Action, Event};
use super::nemesis::{Happened, Nemesis};
use super::plan::Plan;
use super::stream::Follower;
use super::verdict::Verdict;

/// Every node must take a change within this time after the last fault.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// The run is of no use with fewer answers.
const ANSWERS_MIN: usize = 1_000;
/// Nor with fewer lines of a stream that is followed.
const LINES_MIN: usize = 100;
/// Nor when fewer than so many of a hundred came while something was wrong.
const DURING_FAULTS_MIN: usize = 5;

/// Carries the plan out. What is worth keeping is in the folder.
pub(super) fn carry_out(plan: &Plan, folder: &Path) -> Verdict {
    let began = Instant::now();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut ground = runtime.block_on(Ground::prepare(plan, folder));
    prepare_objects(&ground, plan);
    let mut verdict = Verdict { started: began.elapsed(), ..Verdict::default() };
    let field = Field {
        networks: ground.site.machines[..plan.members].iter().map(|machine| machine.network()).collect(),
        token: ground.token.clone(),
        began: Instant::now(),
        over: AtomicBool::new(false),
        objects: plan.objects,
    };
    let engines: Vec<String> = ground
        .site
        .machines
        .iter()
        .filter_map(|machine| Some(machine.harness.as_ref()?.address().to_owned()))
        .collect();
    let mut happened = Vec::new();
    let events = std::thread::scope(|scope| {
        // Also when the nemesis panics: the others would go on for ever.
        let _over = Over(&field.over);
        let clients: Vec<_> = (0..plan.clients)
            .map(|number| {
                let dice = Dice::of(plan.seed, number as u64);
                let number = u32::try_from(number).expect("few");
                let client = Client::new(&field, number, dice);
                scope.spawn(move || client.run())
            })
            .collect();
        let watcher = scope.spawn(|| exclusive::watch(&engines, &field.over));
        let follower = plan.engines.then(|| scope.spawn(|| Follower::default().run(&field, Dice::of(plan.seed, 600))));
        let (broken, ids) = torment(plan, &mut ground, field.began, &mut happened);
        verdict.broken.extend(broken);
        verdict.joined = ids;
        match recover(&ground) {
            Ok(took) => {
                verdict.recovered = took;
                verdict.has_recovered = true;
            }
            Err(words) => verdict.broken.push(words),
        }
        field.over.store(true, Ordering::Relaxed);
        let (looks, twice) = watcher.join().expect("the watcher ends");
        verdict.looks = if engines.is_empty() { 0 } else { looks };
        verdict.broken.extend(twice);
        if let Some(follower) = follower {
            let followed = follower.join().expect("the follower ends");
            verdict.followed = (followed.lines, followed.connections);
            verdict.broken.extend(followed.broken.into_iter().take(5));
        }
        let mut events = Vec::new();
        for client in clients {
            let client = client.join().expect("the client ends");
            events.extend(client.events);
            verdict.broken.extend(client.broken);
        }
        events
    });
    // One that has not recovered answers none of them, and takes its time for each.
    let events = if verdict.has_recovered { with_last_reads(events, &field, plan, &mut verdict) } else { events };
    judge(&mut verdict, plan, &ground, &events, &happened);
    keep(folder, plan, &events, &happened, &verdict);
    verdict
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn prepare_objects(ground: &Ground, plan: &Plan) {
    let node = &ground.seats[0].node;
    node.post("/v1/apps", &json!({"name": "registry"})).expect(201);
    node.post("/v1/apps/registry/services", &json!({"name": "web", "image": "localhost/none:1"})).expect(201);
    if plan.engines {
        exclusive::deploy(node);
    }
}

fn torment(plan: &Plan, ground: &mut Ground, began: Instant, happened: &mut Vec<Happened>) -> (Vec<String>, usize) {
    let ids = ground.seats.iter().map(|seat| seat.id).collect();
    let dice = Dice::of(plan.seed, 500);
    let mut nemesis = Nemesis { ground, dice, began, broken: Vec::new(), ids, churned: 0 };
    for step in &plan.steps {
        let what = nemesis.carry_out(step);
        println!("{:>6.1} s  {:?} of {:?}: {}", began.elapsed().as_secs_f64(), what.fault, what.nodes, what.seen);
        happened.push(what);
    }
    (nemesis.broken, nemesis.churned)
}

/// How long it took until every node took a change.
fn recover(ground: &Ground) -> Result<Duration, String> {
    ground.mend();
    let healed = Instant::now();
    for number in 0..ground.seats.len() {
        let mut line = ground.line(number);
        loop {
            let body = json!({"description": "it goes on", "name": format!("back-{number}")});
            let last = line.ask("POST", "/v1/apps", Some(&format!("back-{number}")), Some(&body));
            if last.as_ref().is_ok_and(|reply| reply.status == 201) {
                break;
            }
            if healed.elapsed() > RECOVERED_WITHIN {
                return Err(format!(
                    "node {number} takes no change {RECOVERED_WITHIN:?} after the last fault: {last:?}"
                ));
            }
            std::thread::sleep(Duration::from_millis(20)); // poll
        }
    }
    Ok(healed.elapsed())
}

/// Every object is read once more from every node, until that answers.
fn with_last_reads(mut events: Vec<Event>, field: &Field, plan: &Plan, verdict: &mut Verdict) -> Vec<Event> {
    let mut objects: Vec<String> = events.iter().map(|event| event.object.clone()).collect();
    objects.sort();
    objects.dedup();
    for node in 0..plan.members {
        let number = u32::try_from(1_000 * plan.members + node).expect("few");
        let mut reader = Client::new(field, number, Dice::new(0));
        let deadline = Instant::now() + RECOVERED_WITHIN;
        for object in &objects {
            reader.operate(object.clone(), Action::Get);
            while !reader.events.last().is_some_and(Event::is_answered) && Instant::now() < deadline {
                reader.operate(object.clone(), Action::Get);
            }
            if !reader.events.last().is_some_and(Event::is_answered) {
                verdict.broken.push(format!("node {node} does not answer a last read of {object}"));
            }
        }
        events.extend(reader.events);
        verdict.broken.extend(reader.broken);
    }
    events
}

fn judge(verdict: &mut Verdict, plan: &Plan, ground: &Ground, events: &[Event], happened: &[Happened]) {
    verdict.answers = events.iter().filter(|event| event.is_answered()).count();
    let during = |event: &&Event| happened.iter().any(|fault| event.end > fault.from && event.call < fault.to);
    verdict.during = events.iter().filter(|event| event.is_answered()).filter(during).count();
    verdict.unknown = events.iter().filter(|event| event.outcome == super::history::Outcome::Unknown).count();
    verdict.faults = happened.len();
    let elections =
        happened.iter().filter(|fault| matches!(fault.terms, (Some(before), Some(after)) if after > before));
    verdict.elections = elections.count();
    for fault in happened {
        if fault.seen.is_empty() {
            verdict.missed.push(format!("{:?} did not happen", fault.fault));
        }
        let longer_than_an_election = fault.to - fault.from > 4_000_000;
        if fault.fault.deposes() && longer_than_an_election && fault.terms.0.is_some() && fault.terms.0 == fault.terms.1
        {
            verdict.missed.push(format!("nobody else came to lead by {:?}", fault.fault));
        }
    }
    if verdict.answers < ANSWERS_MIN {
        verdict.missed.push(format!("only {} answers", verdict.answers));
    }
    if plan.engines && verdict.followed.0 < LINES_MIN {
        verdict.missed.push(format!("only {} lines were followed", verdict.followed.0));
    }
    if verdict.during * 100 < verdict.answers * DURING_FAULTS_MIN {
        verdict
            .missed
            .push(format!("only {} of {} answers while something was wrong", verdict.during, verdict.answers));
    }
    let checking = Instant::now();
    let (orders, objects) = super::model::check(events);
    verdict.lost = orders.len();
    verdict.objects = objects;
    let stale = check::indexes(events);
    verdict.stale = stale.len();
    verdict.broken.extend(orders);
    verdict.broken.extend(stale.into_iter().take(5));
    verdict.checked = checking.elapsed();
    if verdict.has_recovered {
        match check::agreement(ground) {
            Ok(index) => verdict.index = index,
            Err(words) => verdict.broken.push(words),
        }
    }
    if plan.plant.is_none() {
        verdict.broken.extend(check::logs(ground));
    }
}

/// Writes down what happened.
fn keep(folder: &Path, plan: &Plan, events: &[Event], happened: &[Happened], verdict: &Verdict) {
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("written");
    let lines =
        |events: &[Event]| events.iter().map(|event| serde_json::to_string(event).expect("JSON") + "\n").collect();
    write("plan.json", serde_json::to_string_pretty(plan).expect("JSON"));
    write("faults.json", serde_json::to_string_pretty(happened).expect("JSON"));
    let mut sorted = events.to_vec();
    sorted.sort_by_key(|event| event.call);
    write("history.jsonl", lines(&sorted));
    write("verdict", format!("{verdict:#?}\n"));
}

/// The folder of a run.
pub(super) fn folder_of(plan: &Plan) -> PathBuf {
    let kept = std::env::var_os("NARVANA_TORTURE_KEEP").map(PathBuf::from);
    let folder = kept.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("torture"));
    let plant = plan.plant.as_ref().map(|bug| format!("-{bug}")).unwrap_or_default();
    let folder = folder.join(format!("seed-{}-members-{}{plant}", plan.seed, plan.members));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
