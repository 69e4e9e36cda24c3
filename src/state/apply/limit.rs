//! The limit on the size of the state: every node holds all of it in memory, and in files of about that size.
//!
//! Only what people ask for is refused. What the platform records about it (builds, instances, answers to requests) is
//! bounded by what people asked for and by the sweep, and may take the state past the limit.

use crate::state::{LogEntry, Outcome, Rejection};

use super::{Answer, Draft};

impl Draft {
    /// Runs a command, and refuses it when it made the state larger than it may be. One that leaves it no larger than it
    /// was is never refused, so that a full state can be worked with.
    pub(super) fn run_within_limit(&mut self, entry: &LogEntry, bytes_before: u64) -> Answer {
        let outcome: Outcome = self.run(entry)?;
        if entry.command.grows() && self.state.bytes() > bytes_before {
            self.check_room(0)?;
        }
        Ok(outcome)
    }

    /// Refuses when the state cannot take this many bytes more.
    pub(super) fn check_room(&self, more: u64) -> Result<(), Rejection> {
        let (bytes, limit) = (self.state.bytes().saturating_add(more), self.state.bytes_max());
        if bytes > limit { Err(Rejection::StateFull { bytes, limit }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use uuid::Uuid;

    use super::*;
    use crate::model::{
        AppId, Cause, Desired, EnvVars, OrgId, ServiceId, ServiceSpec, SettingKey, Source, Timestamp, UserId,
    };
    use crate::state::{
        Actor, Applied, Command, EnvExpectation, NewApp, NewDeployment, NewService, State, apply, sample_entries,
    };

    fn id<T: From<Uuid>>(number: u128) -> T {
        T::from(Uuid::from_u128(number))
    }

    fn run(state: &State, command: Command) -> Applied {
        let actor = Actor::User(id(3));
        apply(state, 1, &LogEntry { proposed_at: Timestamp(1_750_000_000_000), actor, request: None, command })
    }

    fn accepted(state: State, command: Command) -> State {
        let applied = run(&state, command);
        applied.result.expect("accepted");
        applied.state
    }

    fn spec() -> ServiceSpec {
        let mut commands = sample_entries().into_iter().map(|entry| entry.command);
        let sample = commands.find_map(|command| match command {
            Command::CreateService { service, .. } => Some(service.spec),
            _ => None,
        });
        let source = Source::Image { image: "localhost/web:1".to_owned() };
        ServiceSpec { source, depends_on: BTreeSet::new(), volumes: Vec::new(), ..sample.expect("a sample") }
    }

    fn app(number: u128) -> Command {
        let service = NewService { id: id(number), name: "web".to_owned(), spec: spec() };
        Command::CreateApp(NewApp {
            id: id(number),
            org: id::<OrgId>(2),
            owner: id::<UserId>(3),
            name: format!("app-{number}"),
            description: String::new(),
            icon_url: String::new(),
            services: vec![service],
        })
    }

    fn env(service: u128, key: &str, bytes: usize) -> Command {
        Command::SetEnv {
            service: id::<ServiceId>(service),
            entries: EnvVars::from([(key.to_owned(), "x".repeat(bytes))]),
            expectation: EnvExpectation::Any,
        }
    }

    fn deploy(service: u128, number: u128) -> Command {
        let (id, build, service) = (id(number), id(number), id::<ServiceId>(service));
        Command::Deploy(vec![NewDeployment { id, build, service, cause: Cause::Deploy, git_ref: None }])
    }

    /// A cluster that may have one mebibyte, and has less than 32 KiB left.
    fn nearly_full() -> State {
        let founding = ["init_cluster", "register_node", "register_first_user"];
        let entries = sample_entries().into_iter().filter(|entry| founding.contains(&entry.command.name()));
        let state = entries.fold(State::default(), |state, entry| accepted(state, entry.command));
        let limit = BTreeMap::from([(SettingKey::MaxStateSize, "1Mi".to_owned())]);
        let mut state = accepted(state, Command::SetSettings(limit));
        for command in [app(1), app(2), app(3), deploy(3, 3)] {
            state = accepted(state, command);
        }
        for key in 0..16 {
            state = accepted(state, env(1, &format!("A{key}"), 30_000));
            state = accepted(state, env(2, &format!("A{key}"), 30_000));
        }
        accepted(accepted(state, env(1, "B", 30_000)), env(3, "B", 32_000))
    }

    #[test]
    fn what_grows_is_refused_exactly_from_the_limit_on_and_nothing_is_changed() {
        let state = nearly_full();
        let room = state.bytes_max() - state.bytes();
        assert!((8_000..32_000).contains(&room), "{room}");
        let fitting = usize::try_from(room).expect("small") - 100;
        let full = accepted(state, env(2, "LAST", fitting));
        for command in [app(9), env(2, "MORE", 200), deploy(1, 9), scale(1, 1_000)] {
            let name = command.name();
            let applied = run(&full, command);
            let Err(Rejection::StateFull { bytes, limit }) = applied.result else {
                panic!("{name}: {:?}", applied.result);
            };
            assert!(bytes > limit && limit == 1 << 20, "{name}: {bytes}, {limit}");
            assert!(applied.state == full && applied.changes.0.is_empty(), "{name}");
        }
        let text = Rejection::StateFull { bytes: (1 << 20) + 1, limit: 1 << 20 }.to_string();
        assert!(text.contains("2 MiB") && text.contains("1 MiB") && text.contains("max_state_size"), "{text}");
    }

    #[test]
    fn a_full_state_can_be_made_smaller_stopped_and_given_more_room() {
        let full = nearly_full();
        let fitting = usize::try_from(full.bytes_max() - full.bytes()).expect("small") - 100;
        let full = accepted(full, env(2, "LAST", fitting));
        let limit = |size: &str| Command::SetSettings(BTreeMap::from([(SettingKey::MaxStateSize, size.to_owned())]));
        let service = id::<ServiceId>(1);
        let smaller = ServiceSpec { replicas: 0, ..spec() };
        for command in [
            Command::UnsetEnv { service, keys: BTreeSet::from(["A1".to_owned()]) },
            env(1, "A1", 10),
            Command::UpdateService { service, expected_generation: 18, spec: smaller },
            Command::SetDesired { service: id(3), desired: Desired::Stopped },
            scale(1, 0),
            Command::DeleteService(service),
            Command::DeleteApp(id::<AppId>(2)),
            Command::CloseSession(id(4)),
            limit("2Mi"),
        ] {
            let name = command.name();
            let applied = run(&full, command);
            assert!(applied.result.is_ok(), "{name}: {:?}", applied.result);
        }
        let roomy = accepted(full.clone(), limit("2Mi"));
        accepted(accepted(roomy, app(9)), deploy(9, 9));
        let emptier = accepted(full, Command::DeleteApp(id::<AppId>(1)));
        accepted(emptier, app(9));
    }

    fn scale(service: u128, replicas: u32) -> Command {
        Command::Scale { service: id(service), replicas }
    }
}
