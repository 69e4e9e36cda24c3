//! What a seed means: the cluster, its load, and what goes wrong when.

use std::time::Duration;

use serde::Serialize;

use super::dice::Dice;
use super::fault::{Fault, Whom};

/// One fault of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Step {
    pub(super) fault: Fault,
    /// How long it lasts.
    pub(super) hold: Duration,
    /// How long nothing is wrong after it.
    pub(super) calm: Duration,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) members: usize,
    /// Whether the machines have engines, on which a service runs that must never run twice.
    pub(super) engines: bool,
    /// Whether what nodes say to each other goes through proxies.
    pub(super) proxied: bool,
    pub(super) clients: usize,
    /// Objects of each kind at a time.
    pub(super) objects: usize,
    /// A snapshot after so many entries.
    pub(super) snapshot_entries: u64,
    pub(super) disk_mebibytes: u64,
    pub(super) steps: Vec<Step>,
    /// A bug in the program.
    pub(super) plant: Option<String>,
}

/// What is asked of the runs, from the environment: see `scripts/torture.sh`.
pub(super) struct Wanted {
    pub(super) seed: u64,
    pub(super) members: Option<usize>,
    pub(super) steps: usize,
    pub(super) engines: Option<bool>,
    pub(super) plant: Option<String>,
}

impl Wanted {
    /// The run of this seed, unless the environment says otherwise.
    pub(super) fn or_asked(seed: u64, members: usize, steps: usize) -> Self {
        let read = |name: &str| std::env::var_os(format!("NARVANA_TORTURE_{name}"))?.into_string().ok();
        let number = |name: &str| read(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")));
        let asked = number("SEED");
        Self {
            seed: asked.unwrap_or(seed),
            members: number("MEMBERS")
                .map(|members: u64| usize::try_from(members).expect("small"))
                .or_else(|| asked.is_none().then_some(members)),
            steps: number("STEPS").map_or(steps, |steps| usize::try_from(steps).expect("small")),
            engines: number("ENGINES").map(|number| number != 0).or_else(|| asked.is_none().then_some(false)),
            plant: read("PLANT"),
        }
    }
}

impl Plan {
    pub(super) fn of(wanted: &Wanted) -> Self {
        let mut dice = Dice::new(wanted.seed);
        let by_chance = if dice.percent(70) { 3 } else { 5 };
        let members = wanted.members.unwrap_or(by_chance);
        let with_engines = dice.percent(10);
        let engines = wanted.engines.unwrap_or(with_engines) && members == 3;
        let proxied = dice.percent(60);
        let mut steps: Vec<Step> = Vec::new();
        while steps.len() < wanted.steps {
            let fault = Fault::any(&mut dice, proxied);
            // The same one again tells little.
            if steps.last().is_some_and(|last| last.fault == fault) {
                continue;
            }
            steps.push(Step { fault, hold: hold(fault, &mut dice), calm: dice.millis(500..=2_500) });
        }
        if engines {
            let places = [steps.len() / 3, 2 * steps.len() / 3 + 1];
            for (place, fault) in places.into_iter().zip([Fault::IsolateExclusive, Fault::EngineDeath]) {
                let hold = hold(fault, &mut dice);
                steps.insert(place, Step { fault, hold, calm: dice.millis(2_000..=4_000) });
            }
        }
        Self {
            seed: wanted.seed,
            members,
            engines,
            proxied,
            clients: usize::try_from(dice.within(8..=16)).expect("small"),
            objects: usize::try_from(dice.within(2..=6)).expect("small"),
            snapshot_entries: dice.pick(&[40, 100, 100, 300, 1_000]),
            disk_mebibytes: 200,
            steps,
            plant: wanted.plant.clone(),
        }
    }

    /// The command that does all of this again.
    pub(super) fn command(&self) -> String {
        let engines = if self.engines { " --engines" } else { "" };
        let plant = self.plant.as_ref().map(|bug| format!(" --plant {bug}")).unwrap_or_default();
        let steps = self.steps.len() - if self.engines { 2 } else { 0 };
        format!(
            "scripts/torture.sh --runs 1 --seed {} --members {} --steps {steps}{engines}{plant}",
            self.seed, self.members
        )
    }
}

fn hold(fault: Fault, dice: &mut Dice) -> Duration {
    match fault {
        Fault::Pause(_) => {
            let longest = if dice.percent(20) { 20_000 } else { 6_000 };
            dice.millis(1_000..=longest)
        }
        Fault::Kill(Whom::Majority | Whom::All) => dice.millis(0..=3_000),
        Fault::Kill(_) => dice.millis(0..=5_000),
        // Until another machine runs what must not run twice, which nobody starts before 45 s.
        Fault::IsolateExclusive => dice.millis(55_000..=65_000),
        Fault::OldLog | Fault::Churn => dice.millis(500..=1_500),
        _ => dice.millis(2_000..=7_000),
    }
}
