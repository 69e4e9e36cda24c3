//! One client: it stays with a node, asks for things, repeats what got no answer, and writes down what it was told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::dice::Dice;
use super::history::{Action, Event, Outcome, micros};
use super::line::{Line, Reply, Silence};

/// Attempts at one change, all with one key.
const ATTEMPTS: u32 = 4;
/// An object of this age is left alone, and another one takes its place: the search for an order grows with what is unknown
/// of one object.
const EPOCH: Duration = Duration::from_secs(5);
/// The service whose variables are objects.
pub(super) const VARIABLES: &str = "/v1/apps/registry/services/web/env";

/// What all clients share.
pub(super) struct Field {
    pub(super) networks: Vec<PathBuf>,
    pub(super) token: String,
    pub(super) began: Instant,
    pub(super) over: AtomicBool,
    pub(super) objects: usize,
}

pub(super) struct Client<'a> {
    field: &'a Field,
    number: u32,
    dice: Dice,
    node: usize,
    line: Line,
    failures: u32,
    asked: u64,
    /// Versions of apps as they were seen last.
    versions: BTreeMap<String, u64>,
    pub(super) events: Vec<Event>,
    /// Promises that an answer broke.
    pub(super) broken: Vec<String>,
}

impl<'a> Client<'a> {
    pub(super) fn new(field: &'a Field, number: u32, dice: Dice) -> Self {
        let node = number as usize % field.networks.len();
        let line = Line::to(&field.networks[node], &field.token);
        let (versions, events, broken) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { field, number, dice, node, line, failures: 0, asked: 0, versions, events, broken }
    }

    /// Works until it is over.
    pub(super) fn run(mut self) -> Self {
        while !self.field.over.load(Ordering::Relaxed) {
            if self.dice.percent(1) || self.failures > 2 && self.dice.percent(40) {
                self.move_on();
            }
            let (object, action) = self.choose();
            self.operate(object, action);
            let pause = self.dice.millis(0..=if self.failures > 0 { 60 } else { 12 });
            std::thread::sleep(pause); // poll: clients are not always busy
        }
        self
    }

    fn move_on(&mut self) {
        self.node = self.dice.below(self.field.networks.len());
        self.line = Line::to(&self.field.networks[self.node], &self.field.token);
    }

    fn choose(&mut self) -> (String, Action) {
        let epoch = self.field.began.elapsed().as_secs() / EPOCH.as_secs();
        let slot = self.dice.below(self.field.objects);
        self.asked += 1;
        let value = format!("10.{}.{}.{}", self.number, self.asked / 250 % 250, self.asked % 250);
        match self.dice.below(10) {
            0 => {
                let action = if self.dice.percent(50) { Action::Get } else { Action::Set(value) };
                ("setting".to_owned(), action)
            }
            1..=3 => {
                let action = match self.dice.below(10) {
                    0..=3 => Action::Get,
                    4..=5 => Action::Create(value),
                    6..=8 => Action::Replace(None, value),
                    _ => Action::Delete,
                };
                (format!("V{slot}E{epoch}"), action)
            }
            _ => {
                let object = format!("a{slot}e{epoch}");
                let action = match (self.dice.below(20), self.versions.get(&object)) {
                    (0..=6, _) => Action::Get,
                    (7..=8, _) | (_, None) => Action::Create(value),
                    (9, _) => Action::Delete,
                    (_, Some(version)) => Action::Replace(Some(*version), value),
                };
                (object, action)
            }
        }
    }

    /// Does one thing and writes down what came of it.
    pub(super) fn operate(&mut self, object: String, action: Action) {
        let key = format!("c{}-{}", self.number, self.asked);
        let call = micros(self.field.began);
        let (mut statuses, mut doubtful, mut last) = (Vec::new(), false, None);
        while statuses.len() < ATTEMPTS as usize {
            let reply = self.send(&object, &action, &key);
            statuses.push(reply.as_ref().map_or(0, |reply| reply.status));
            let outcome = match &reply {
                Err(Silence::NotSent) => Outcome::Refused,
                Err(Silence::NoAnswer) => Outcome::Unknown,
                Ok(reply) => read(&object, &action, reply),
            };
            if let Ok(Reply { status: status @ (400..=403 | 405..=408 | 411..500), body, .. }) = &reply {
                self.broken.push(format!("{action:?} of {object} is right, and was answered {status}: {body}"));
            }
            doubtful |= outcome == Outcome::Unknown;
            let settled = !matches!(outcome, Outcome::Unknown | Outcome::Refused);
            last = Some((outcome, reply));
            self.failures = if settled { 0 } else { self.failures + 1 };
            if settled || action == Action::Get || !doubtful || self.field.over.load(Ordering::Relaxed) {
                break;
            }
            if self.dice.percent(30) {
                self.move_on();
            }
            std::thread::sleep(self.dice.millis(5..=150)); // poll: what was not taken may be taken soon
        }
        let (mut outcome, reply) = last.expect("at least one attempt");
        // A refusal says nothing of an attempt before it that got no answer, and that may still be on its way.
        if doubtful && outcome != Outcome::Done && action != Action::Get {
            outcome = Outcome::Unknown;
        }
        self.learn(&object, &action, &outcome);
        let end = micros(self.field.began);
        let index = reply.map_or(0, |reply| reply.index);
        let attempts = u32::try_from(statuses.len()).expect("few");
        let is_done = outcome == Outcome::Done;
        let (client, node) = (self.number, self.node);
        self.events.push(Event {
            client,
            node,
            object: object.clone(),
            action: action.clone(),
            outcome,
            call,
            end,
            index,
            attempts,
            statuses,
        });
        if is_done && self.dice.percent(8) {
            self.repeat(&object, &action, &key);
        }
    }

    /// The same request again, maybe to another node: it must not be done again.
    fn repeat(&mut self, object: &str, action: &Action, key: &str) {
        if self.dice.percent(50) {
            self.move_on();
        }
        let Ok(reply) = self.send(object, action, key) else { return };
        // What it made may be gone by now, which is said by a 410.
        let right = match action {
            Action::Create(_) | Action::Replace(..) => matches!(reply.status, 200 | 201 | 410 | 500..),
            _ => matches!(reply.status, 200 | 204 | 500..),
        };
        if !right {
            self.broken.push(format!(
                "{action:?} of {object} was done and answered {} when it was repeated with its key {key}: {}",
                reply.status, reply.body
            ));
        }
    }

    fn learn(&mut self, object: &str, action: &Action, outcome: &Outcome) {
        let version = match (action, outcome) {
            (_, Outcome::Saw(Some(version), _)) => Some(*version),
            (Action::Create(_), Outcome::Done) => Some(1),
            (Action::Replace(Some(version), _), Outcome::Done) => Some(version + 1),
            (_, Outcome::Missing | Outcome::Conflict) | (Action::Delete, _) => None,
            _ => return,
        };
        match version {
            Some(version) => self.versions.insert(object.to_owned(), version),
            None => self.versions.remove(object),
        };
    }

    fn send(&mut self, object: &str, action: &Action, key: &str) -> Result<Reply, Silence> {
        let key = (*action != Action::Get).then_some(key);
        let mut ask = |method, path: &str, body: Option<Value>| self.line.ask(method, path, key, body.as_ref());
        let app = format!("/v1/apps/{object}");
        let variable = format!("{VARIABLES}/{object}");
        match (object.as_bytes()[0], action) {
            (b'a', Action::Create(value)) => {
                ask("POST", "/v1/apps", Some(json!({"name": object, "description": value})))
            }
            (b'a', Action::Replace(version, value)) => {
                ask("PATCH", &app, Some(json!({"version": version, "description": value})))
            }
            (b'a', Action::Delete) => ask("DELETE", &app, None),
            (b'a', _) => ask("GET", &app, None),
            (b'V', Action::Create(value)) => ask("POST", VARIABLES, Some(json!({"key": object, "value": value}))),
            (b'V', Action::Replace(_, value)) => ask("PUT", &variable, Some(json!({"value": value}))),
            (b'V', Action::Delete) => ask("DELETE", &variable, None),
            (b'V', _) => ask("GET", VARIABLES, None),
            (_, Action::Set(value)) => ask("PATCH", "/v1/settings", Some(json!({"public_ip": value}))),
            _ => ask("GET", "/v1/settings", None),
        }
    }
}

/// What an answer means.
fn read(object: &str, action: &Action, reply: &Reply) -> Outcome {
    let code = reply.body["code"].as_str().unwrap_or_default();
    match (reply.status, code) {
        (200..300, _) if *action == Action::Get => seen(object, &reply.body),
        // It was done, and somebody has deleted it since.
        (200..300 | 410, _) => Outcome::Done,
        (404, _) => Outcome::Missing,
        (409, _) => Outcome::Conflict,
        (503, "no_quorum") | (507, _) => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

fn seen(object: &str, body: &Value) -> Outcome {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match object.as_bytes()[0] {
        b'a' => Outcome::Saw(body["version"].as_u64(), text(&body["description"])),
        b'V' => {
            let variables = body["variables"].as_array().into_iter().flatten();
            let found = variables.into_iter().find(|variable| variable["key"] == object);
            found.map_or(Outcome::Missing, |variable| Outcome::Saw(None, text(&variable["value"])))
        }
        _ => match text(&body["public_ip"]) {
            unset if unset.is_empty() => Outcome::Missing,
            address => Outcome::Saw(None, address),
        },
    }
}
