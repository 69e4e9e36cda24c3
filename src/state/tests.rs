//! What must hold for every sequence of commands, however senseless.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use uuid::Uuid;

use super::*;
use crate::model::{
    BuildRecipe, Cause, DeploymentStatus, Desired, EnvVars, Health, Incarnation, InstanceState, InstanceStatus,
    JoinToken, Lease, NodeId, NodeRole, Placement, Relocation, RequestId, ServiceSpec, SettingKey, Source, Timestamp,
};

/// Ids come from a small pool, so that commands meet the rows of others.
fn id<T: From<Uuid>>(kind: u128, number: u8) -> T {
    T::from(Uuid::from_u128(kind << 16 | u128::from(number % 3)))
}

fn sample_spec() -> ServiceSpec {
    let services = sample_entries().into_iter().find_map(|entry| match entry.command {
        Command::CreateService { service, .. } => Some(service.spec),
        _ => None,
    });
    services.expect("a sample")
}

fn facts() -> NodeFacts {
    let facts = sample_entries().into_iter().find_map(|entry| match entry.command {
        Command::RegisterNode(facts) => Some(facts),
        _ => None,
    });
    facts.expect("a sample")
}

fn spec(kind: u8) -> ServiceSpec {
    let mut spec = sample_spec();
    spec.depends_on = if kind & 1 == 0 { BTreeSet::new() } else { BTreeSet::from([name(kind >> 1)]) };
    if kind & 2 == 0 {
        spec.volumes.clear();
    }
    match kind % 3 {
        0 => spec.source = Source::Image { image: "registry.test/web:1".to_owned() },
        1 => spec.source = Source::Upload,
        _ => {}
    }
    spec
}

fn name(number: u8) -> String {
    ["web", "db", "api", "job", "x"][usize::from(number % 5)].to_owned()
}

/// Commands that refer to each other's rows often enough to get somewhere.
fn command() -> impl Strategy<Value = Command> {
    let small = || any::<u8>();
    prop_oneof![
        (small(), small()).prop_map(|(app, kind)| Command::CreateApp(NewApp {
            id: id(5, app),
            org: id(2, 0),
            owner: id(3, 0),
            name: name(app),
            description: String::new(),
            icon_url: String::new(),
            services: (0..kind % 3)
                .map(|number| NewService { id: id(6, app.wrapping_add(number)), name: name(number), spec: spec(kind) })
                .collect(),
        })),
        (small(), small(), small()).prop_map(|(app, service, kind)| Command::CreateService {
            app: id(5, app),
            service: NewService { id: id(6, service), name: name(service), spec: spec(kind) },
        }),
        (small(), 1_u64..4, small()).prop_map(|(service, generation, kind)| Command::UpdateService {
            service: id(6, service),
            expected_generation: generation,
            spec: spec(kind),
        }),
        small().prop_map(|app| Command::DeleteApp(id(5, app))),
        small().prop_map(|service| Command::DeleteService(id(6, service))),
        (small(), small()).prop_map(|(service, key)| Command::SetEnv {
            service: id(6, service),
            entries: EnvVars::from([(name(key).to_uppercase(), "1".to_owned())]),
            expectation: EnvExpectation::Absent,
        }),
        (small(), small()).prop_map(|(service, key)| Command::UnsetEnv {
            service: id(6, service),
            keys: BTreeSet::from([name(key).to_uppercase()]),
        }),
        (small(), small(), small(), small()).prop_map(|(deployment, service, cause, of)| {
            let of = id(9, of);
            let cause = match cause % 4 {
                0 => Cause::Rollback(of),
                1 => Cause::Restart(of),
                _ => Cause::Deploy,
            };
            let (id, build, service) = (id(9, deployment), id(10, deployment), id(6, service));
            let new = vec![NewDeployment { id, build, service, cause, git_ref: None }];
            if deployment % 4 == 3 { Command::DeployAnew(new) } else { Command::Deploy(new) }
        }),
        (small(), any::<bool>()).prop_map(|(service, stop)| Command::SetDesired {
            service: id(6, service),
            desired: if stop { Desired::Stopped } else { Desired::Running },
        }),
        (small(), 0_u32..4).prop_map(|(service, replicas)| Command::Scale { service: id(6, service), replicas }),
        small().prop_map(|build| Command::CancelBuild(id(10, build))),
        small().prop_map(|build| Command::LeaseBuild { build: id(10, build), lease: lease() }),
        (small(), small()).prop_map(|(build, retry)| Command::LoseBuild {
            build: id(10, build),
            reason: "test".to_owned(),
            retry: id(10, retry),
        }),
        (small(), small()).prop_map(|(build, result)| Command::FinishBuild {
            build: id(10, build),
            lease: lease(),
            result: sample_entries()
                .into_iter()
                .filter_map(|entry| match entry.command {
                    Command::FinishBuild { result, .. } => Some(result),
                    _ => None,
                })
                .nth(usize::from(result % 3))
                .expect("three samples"),
        }),
        (small(), 0_usize..9, 0_usize..9).prop_map(|(deployment, from, to)| Command::AdvanceDeployment {
            deployment: id(9, deployment),
            from: STATUSES[from],
            to: STATUSES[to],
            reason: Some("test".to_owned()),
            log_tail: Vec::new(),
        }),
        (small(), any::<u8>()).prop_map(|(build, digest)| Command::KeepRecipe {
            recipe: BuildRecipe { build: id(10, build), digest: [digest; 32], bytes: 1 },
            lease: lease(),
        }),
        (small(), 0_u8..2, prop::option::of(small())).prop_map(|(build, part, missing)| Command::NoteInput {
            build: id(10, build),
            parts: BTreeMap::from([("source".to_owned(), [part; 32])]),
            missing: missing.map(|missing| id(10, missing)),
            lease: lease(),
        }),
        (small(), small(), 0_u32..2).prop_map(|(deployment, instance, slot)| Command::AssignInstances {
            deployment: id(9, deployment),
            instances: vec![NewInstance {
                relocation: (instance % 4 == 3)
                    .then(|| Relocation { from: id(11, instance - 1), reason: "test".to_owned() }),
                id: id(11, instance),
                slot,
                attempt: 0,
                placement: Placement { node: if instance & 16 == 0 { NodeId(1) } else { SECOND }, reasons: Vec::new() },
                start_after: Timestamp(0),
            }],
        }),
        small().prop_map(|instance| Command::StopInstances {
            instances: vec![id(11, instance)],
            reason: "test".to_owned()
        }),
        (small(), 0_usize..8).prop_map(|(instance, state)| Command::ReportInstance {
            instance: id(11, instance),
            node: NodeId(1),
            status: InstanceStatus { state: STATES[state], health: Health::Healthy, ..InstanceStatus::assigned() },
        }),
        (small(), small()).prop_map(|(deployment, digest)| Command::PinImage {
            deployment: id(9, deployment),
            node: NodeId(1),
            digest: [digest % 2; 32],
            image_id: format!("sha256:{}", "1".repeat(64)),
        }),
        small().prop_map(|deployment| Command::Promote(id(9, deployment))),
        (small(), small()).prop_map(|(instance, deployment)| Command::Sweep {
            instances: vec![id(11, instance)],
            deployments: vec![id(9, deployment)],
            sources: Vec::new(),
            sessions: vec![id(4, 0)],
        }),
        node_command(),
        // They are many.
        node_command(),
        Just(Command::SetSettings(BTreeMap::from([(SettingKey::MaxServicesPerApp, "2".to_owned())]))),
    ]
}

/// The id of the node that joins in [`begin`].
const SECOND: NodeId = NodeId(6);

fn token_of(number: u8, uses_left: u32) -> JoinToken {
    JoinToken {
        id: id(14, number),
        digest: [number % 3; 32],
        role: if number & 4 == 0 { NodeRole::VoterEligible } else { NodeRole::Worker },
        uses_left,
        expires_at: Timestamp(1_750_000_010_000),
        revoked: false,
        created_by: id(3, 0),
        created_at: Timestamp(0),
    }
}

/// Commands about who belongs to the cluster.
fn node_command() -> impl Strategy<Value = Command> {
    let small = || any::<u8>();
    prop_oneof![
        (small(), 0_u32..3).prop_map(|(token, uses_left)| Command::CreateJoinToken(token_of(token, uses_left))),
        (small(), small(), small()).prop_map(|(token, digest, node)| Command::AdmitNode {
            token: id(14, token),
            digest: [if digest < 200 { token % 3 } else { digest % 3 }; 32],
            name: name(node),
            address: format!("10.0.0.{node}:9090"),
            cluster_version_max: u32::from(digest) % 3,
        }),
        (small(), 1_u64..60).prop_map(|(kind, node)| match kind % 8 {
            0 => Command::RevokeJoinToken(id(14, kind)),
            1 if kind & 16 == 0 =>
                Command::DrainNode { node: NodeId(node), stop_exclusive: kind & 8 == 0, stop_volumes: kind & 32 == 0 },
            1 => Command::CordonNode { node: NodeId(node), cordoned: kind & 8 == 0 },
            2 => Command::NoteAbsence { node: NodeId(node), absent: kind & 8 == 0 },
            3 => Command::LoseInstances { instances: vec![id(11, kind)], reason: "test".to_owned() },
            4 => Command::RemoveNode(if kind & 8 == 0 { SECOND } else { NodeId(node) }),
            _ => Command::RegisterNode(NodeFacts { id: NodeId(node), ..facts() }),
        }),
    ]
}

const STATUSES: [DeploymentStatus; 9] = [
    DeploymentStatus::Pending,
    DeploymentStatus::Building,
    DeploymentStatus::Built,
    DeploymentStatus::Scheduled,
    DeploymentStatus::Starting,
    DeploymentStatus::Running,
    DeploymentStatus::Stopping,
    DeploymentStatus::Stopped,
    DeploymentStatus::Failed,
];
const STATES: [InstanceState; 8] = [
    InstanceState::Assigned,
    InstanceState::Pulling,
    InstanceState::Starting,
    InstanceState::Running,
    InstanceState::Stopping,
    InstanceState::Stopped,
    InstanceState::Failed,
    InstanceState::Lost,
];

fn lease() -> Lease {
    Lease { node: NodeId(1), incarnation: Incarnation(Uuid::from_u128(12)) }
}

/// Who asks, whether with a request id, and what.
fn entries() -> impl Strategy<Value = Vec<LogEntry>> {
    let one = (command(), prop::option::of(0_u8..20), any::<bool>(), 0_i64..100);
    prop::collection::vec(one, 1..150).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        let random = numbered.map(|(position, (command, request, other, pause))| LogEntry {
            proposed_at: Timestamp(1_750_000_000_000 + position as i64 * 100 + pause),
            actor: Actor::System,
            request: request.map(|number| Request {
                id: RequestId(Uuid::from_u128(u128::from(number))),
                fingerprint: [u8::from(other); 32],
            }),
            command,
        });
        begin().into_iter().chain(random).collect()
    })
}

/// A cluster with a node, a user, an organisation and an app with a service that is built and one that is not, under the
/// ids that the commands above name.
fn begin() -> Vec<LogEntry> {
    let wanted = ["init_cluster", "register_node", "register_first_user"];
    let mut entries: Vec<_> =
        sample_entries().into_iter().filter(|entry| wanted.contains(&entry.command.name())).collect();
    for entry in &mut entries {
        // The samples have one request among them, and a repeated request changes nothing.
        entry.request = None;
        match &mut entry.command {
            Command::RegisterNode(facts) => (facts.id, facts.incarnation) = (lease().node, lease().incarnation),
            Command::RegisterFirstUser { user, org, session, .. } => {
                (user.id, *org) = (id(3, 0), id(2, 0));
                (session.id, session.user) = (id(4, 0), user.id);
            }
            _ => {}
        }
    }
    let service = |number: u8, kind| NewService { id: id(6, number), name: name(number), spec: spec(kind) };
    let app = NewApp {
        id: id(5, 0),
        org: id(2, 0),
        owner: id(3, 0),
        name: name(0),
        description: String::new(),
        icon_url: String::new(),
        services: vec![service(0, 0), service(1, 8)],
    };
    let joins = Command::AdmitNode {
        token: id(14, 0),
        digest: [0; 32],
        name: "second".to_owned(),
        address: "10.0.0.2:9090".to_owned(),
        cluster_version_max: 2,
    };
    let more = [Command::CreateApp(app), Command::CreateJoinToken(token_of(0, 2)), joins];
    let first = entries[0].clone();
    entries.extend(more.map(|command| LogEntry { command, ..first.clone() }));
    entries
}

fn replay(entries: &[LogEntry]) -> State {
    entries.iter().zip(1..).fold(State::default(), |state, (entry, index)| apply(&state, index, entry).state)
}

fn with_changes(state: &State, changes: &ChangeSet) -> State {
    let mut rows: BTreeMap<Key, Record> = state.records().map(|record| (record.key(), record)).collect();
    for change in &changes.0 {
        match change {
            Change::Put(record) => drop(rows.insert(record.key(), record.clone())),
            Change::Delete(key) => drop(rows.remove(key)),
        }
    }
    State::from_records(rows.into_values())
}

/// The rows as another process would have them.
fn copies(state: &State) -> Vec<Record> {
    let config = bincode::config::standard();
    let copy = |row: Record| {
        let bytes = bincode::serde::encode_to_vec(&row, config).expect("encodes");
        bincode::serde::decode_from_slice(&bytes, config).expect("decodes").0
    };
    state.records().map(copy).collect()
}

/// Whether two rows are one in memory.
fn is_same(one: &Record, other: &Record) -> bool {
    match (one, other) {
        (Record::App(one), Record::App(other)) => std::sync::Arc::ptr_eq(one, other),
        (Record::Service(one), Record::Service(other)) => std::sync::Arc::ptr_eq(one, other),
        (Record::Deployment(one), Record::Deployment(other)) => std::sync::Arc::ptr_eq(one, other),
        (Record::Instance(one), Record::Instance(other)) => std::sync::Arc::ptr_eq(one, other),
        (Record::User(one), Record::User(other)) => std::sync::Arc::ptr_eq(one, other),
        // The other kinds are stored in the same way.
        (one, other) => one == other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_step_keeps_the_state_sound_and_says_exactly_what_it_changed(entries in entries()) {
        let mut state = State::default();
        for (entry, index) in entries.iter().zip(1..) {
            let applied = apply(&state, index, entry);
            prop_assert_eq!(violations(&applied.state), Vec::<String>::new(), "after {}", entry.command.name());
            let encoded = |row: &Record| bincode::serde::encode_to_vec(row, bincode::config::standard()).expect("encodes").len();
            let bytes: usize = applied.state.records().map(|row| encoded(&row)).sum();
            prop_assert_eq!(applied.state.bytes(), bytes as u64, "after {}", entry.command.name());
            prop_assert!(with_changes(&state, &applied.changes) == applied.state, "{}", entry.command.name());
            if applied.result.is_err() {
                prop_assert!(applied.state == state, "a refusal changed something");
                prop_assert!(applied.changes.0.is_empty());
            }
            state = applied.state;
        }
    }

    #[test]
    fn the_same_log_gives_the_same_state_also_through_a_snapshot(entries in entries(), cut in any::<prop::sample::Index>()) {
        let whole = replay(&entries);
        prop_assert!(whole == replay(&entries));
        let cut = cut.index(entries.len());
        let snapshot = replay(&entries[..cut]);
        let restored = State::from_records(snapshot.records());
        prop_assert!(restored == snapshot);
        let rest = entries[cut..].iter().zip(cut as u64 + 1..);
        let resumed = rest.fold(restored, |state, (entry, index)| apply(&state, index, entry).state);
        prop_assert!(resumed == whole);
    }

    #[test]
    fn a_replacement_is_the_state_of_its_rows_and_shares_what_is_equal(
        entries in entries(), cut in any::<prop::sample::Index>(), other in entries(), turn in any::<prop::sample::Index>(),
    ) {
        let older = replay(&entries[..cut.index(entries.len())]);
        for newer in [replay(&entries), replay(&other), State::default()] {
            let mut rows: Vec<Record> = copies(&newer);
            prop_assert!(rows.is_sorted_by_key(Record::key));
            let mut replacement = older.replacement();
            rows.iter().cloned().for_each(|row| replacement.row(row));
            let replaced = replacement.finish();
            prop_assert!(replaced == newer);
            for row in older.records().filter(|row| rows.contains(row)) {
                let kept = replaced.record(row.key()).expect("it came");
                prop_assert!(is_same(&row, &kept), "{:?} was copied", row.key());
            }
            if !rows.is_empty() {
                let middle = turn.index(rows.len());
                rows.rotate_left(middle);
            }
            let mut replacement = older.replacement();
            rows.into_iter().for_each(|row| replacement.row(row));
            prop_assert!(replacement.finish() == newer, "the order matters");
        }
    }

    #[test]
    fn repeating_a_request_changes_nothing_and_gets_the_same_answer(entries in entries()) {
        let mut state = State::default();
        for (entry, index) in entries.iter().zip(1..) {
            let applied = apply(&state, index, entry);
            state = applied.state;
            let (Some(request), Ok(outcome)) = (entry.request, applied.result) else { continue };
            let again = apply(&state, index + 1_000, entry);
            prop_assert_eq!(again.result, Ok(outcome));
            prop_assert!(again.state == state);
            prop_assert!(again.changes.0.is_empty());
            let fingerprint = [request.fingerprint[0] ^ 1; 32];
            let other = LogEntry { request: Some(Request { fingerprint, ..request }), ..entry.clone() };
            let refused = apply(&state, index + 1_000, &other);
            prop_assert!(matches!(refused.result, Err(Rejection::Conflict(_))));
            prop_assert!(refused.state == state);
        }
    }

    #[test]
    fn what_has_ended_never_changes_again(entries in entries()) {
        let mut state = State::default();
        for (entry, index) in entries.iter().zip(1..) {
            let next = apply(&state, index, entry).state;
            for before in state.deployments().filter(|deployment| deployment.status.is_terminal()) {
                let after = next.deployment(before.id);
                prop_assert!(after.is_none_or(|after| after == before), "{}", entry.command.name());
            }
            for before in state.deployments().filter(|deployment| !deployment.spec.source.needs_build()) {
                let tag = before.artifact.as_ref().is_some_and(|artifact| artifact.image_id.is_none());
                let after = next.deployment(before.id);
                prop_assert!(tag || after.is_none_or(|after| after.artifact == before.artifact), "pinned twice");
            }
            for before in state.instances() {
                let Some(after) = next.instance(before.id) else { continue };
                prop_assert!(after.status.state >= before.status.state, "{}", entry.command.name());
                prop_assert!(before.stop_requested.is_none() || after.stop_requested == before.stop_requested);
                prop_assert!(!before.status.state.is_terminal() || after.status == before.status);
            }
            for before in state.admissions() {
                let after = next.admission(before.node).expect("kept for ever");
                prop_assert!(before.removed_at.is_none() || after == before, "{}", entry.command.name());
            }
            for before in state.join_tokens() {
                let Some(after) = next.join_token(before.id) else { continue };
                let admitted = next.admissions().count() - state.admissions().count();
                prop_assert!(before.uses_left - after.uses_left <= admitted as u32, "used without a node");
                prop_assert!(!before.revoked || after.revoked);
            }
            for before in state.builds().filter(|build| build.status.is_terminal()) {
                let after = next.build(before.id);
                prop_assert!(after.is_none_or(|after| after == before), "{}", entry.command.name());
                let recipe = next.recipe(before.id);
                prop_assert!(recipe.is_none() || recipe == state.recipe(before.id), "{}", entry.command.name());
                let input = next.input(before.id);
                prop_assert!(input.is_none() || input == state.input(before.id), "{}", entry.command.name());
            }
            state = next;
        }
    }
}

#[test]
fn the_random_commands_get_somewhere() {
    // Guards the properties above against a generator that is refused every time.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = entries();
    let mut reached = BTreeSet::new();
    for _ in 0..1_000 {
        let entries = strategy.new_tree(&mut runner).expect("a value").current();
        let mut state = State::default();
        for (entry, index) in entries.iter().zip(1..) {
            let applied = apply(&state, index, entry);
            // A repeated request is answered as well.
            if applied.result.is_ok() && !applied.changes.0.is_empty() {
                reached.insert(entry.command.name());
            }
            state = applied.state;
        }
    }
    for name in [
        "keep_recipe",
        "note_input",
        "deploy_anew",
        "create_app",
        "create_service",
        "delete_app",
        "deploy",
        "lease_build",
        "finish_build",
        "lose_build",
        "advance_deployment",
        "assign_instances",
        "report_instance",
        "pin_image",
        "promote",
        "sweep",
        "create_join_token",
        "revoke_join_token",
        "admit_node",
        "remove_node",
        "note_absence",
        "lose_instances",
    ] {
        assert!(reached.contains(name), "{name} was never accepted; accepted were {reached:?}");
    }
}

#[test]
fn a_tag_is_pinned_once_by_a_node_that_runs_it() {
    const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
    const OTHER_ID: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
    let mut state = replay(&begin());
    let mut index = 100;
    let mut run = |command: Command| {
        index += 1;
        let entry = LogEntry { command, request: None, ..begin()[0].clone() };
        let applied = apply(&state, index, &entry);
        state = applied.state;
        (applied.result, state.deployment(id(9, 0)).and_then(|deployment| deployment.artifact.clone()))
    };
    let deploy = |number: u8, service: u8, cause: Cause| {
        let (id, build, service) = (id(9, number), id(10, number), id(6, service));
        Command::Deploy(vec![NewDeployment { id, build, service, cause, git_ref: None }])
    };
    let pin = |deployment: u8, node: NodeId, digest: u8, image_id: &str| Command::PinImage {
        deployment: id(9, deployment),
        node,
        digest: [digest; 32],
        image_id: image_id.to_owned(),
    };
    let assign = |deployment: u8| Command::AssignInstances {
        deployment: id(9, deployment),
        instances: vec![NewInstance {
            id: id(11, deployment),
            slot: 0,
            attempt: 0,
            placement: Placement { node: NodeId(1), reasons: Vec::new() },
            start_after: Timestamp(0),
            relocation: None,
        }],
    };
    run(deploy(0, 0, Cause::Deploy)).0.expect("deployed");
    let (refused, _) = run(pin(0, NodeId(1), 1, ID));
    assert!(matches!(refused, Err(Rejection::Conflict(_))), "nobody runs it: {refused:?}");
    run(assign(0)).0.expect("assigned");
    assert!(run(pin(0, SECOND, 1, ID)).0.is_err(), "it does not run there");
    for bad in ["", "nginx", "sha256:1"] {
        assert!(matches!(run(pin(0, NodeId(1), 1, bad)).0, Err(Rejection::Invalid(_))));
    }
    let (done, artifact) = run(pin(0, NodeId(1), 1, ID));
    assert_eq!(done, Ok(Outcome::Done));
    let artifact = artifact.expect("named");
    assert_eq!(artifact.image, format!("registry.test/web@sha256:{}", "01".repeat(32)));
    assert_eq!(artifact.image_id.as_deref(), Some(ID));
    assert_eq!(run(pin(0, NodeId(1), 1, ID)), (Ok(Outcome::Done), Some(artifact.clone())), "once more");
    let (refused, same) = run(pin(0, NodeId(1), 2, OTHER_ID));
    assert!(matches!(refused, Err(Rejection::Conflict(_))), "{refused:?}");
    assert_eq!(same, Some(artifact.clone()));

    // The same again is the same image, and a new deployment is free to run another one.
    run(deploy(1, 0, Cause::Restart(id(9, 0)))).0.expect("restarted");
    run(deploy(2, 0, Cause::Deploy)).0.expect("deployed");
    let image =
        |number: u8| state.deployment(id(9, number)).and_then(|it| it.artifact.as_ref()).map(|it| it.image.clone());
    assert_eq!(image(1), Some(artifact.image));
    assert_eq!(image(2).as_deref(), Some("registry.test/web:1"));
}
