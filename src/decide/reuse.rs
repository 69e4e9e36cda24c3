//! Whether a build takes the result of another one, and if not, why not: for people.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::model::{Build, BuildId, BuildInput, BuildStatus};
use crate::state::State;

use super::schedule::listed;

/// The part of an input that only differs when narvana builds the same in another way than before.
pub const MAKER: &str = "narvana";

/// What became of the question whether it was built before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It takes the result of this build, or waits for it: that is made from the same.
    Of(BuildId),
    /// It waited for this one, and ended before that came to anything.
    WaitedFor(BuildId),
    /// It runs, for this reason.
    Built(String),
}

/// Of a build whose builder has seen its source.
pub fn reuse(state: &State, build: &Build) -> Option<Reuse> {
    let input = state.input(build.id).filter(|input| !input.parts.is_empty())?;
    let has_ended_without = build.status.is_terminal() && build.status != BuildStatus::Succeeded;
    Some(match input.same_as {
        Some(other) if has_ended_without => Reuse::WaitedFor(other),
        Some(other) => Reuse::Of(other),
        None => Reuse::Built(why_built(state, build, input)),
    })
}

fn why_built(state: &State, build: &Build, input: &BuildInput) -> String {
    if input.no_cache {
        return "it was asked for that nothing be reused".to_owned();
    }
    if let Some(other) = input.missing {
        return format!("build {other} made the same, and no node that answers has its image");
    }
    let Some((before, parts)) = build_before(state, build) else {
        return "no earlier build of the service is on record with what it was made from".to_owned();
    };
    let names: BTreeSet<&String> = parts.parts.keys().chain(input.parts.keys()).collect();
    let mut changed: Vec<&str> =
        names.into_iter().filter(|name| parts.parts.get(*name) != input.parts.get(*name)).map(String::as_str).collect();
    // What is generated changes with whatever it is made from.
    if changed.len() > 1 {
        changed.retain(|name| *name != MAKER);
    }
    match changed.as_slice() {
        [MAKER] => format!("since build {} narvana has changed how it builds this", before.id),
        [] => format!("build {} of the same ended as {}", before.id, before.status),
        changed => format!("changed since build {}: {}", before.id, listed(changed, ", ")),
    }
}

/// The newest build of the service before this one of which it is known what it was made from.
fn build_before<'a>(state: &'a State, build: &Build) -> Option<(&'a Build, &'a BuildInput)> {
    let version = state.deployment(build.deployment)?.version;
    let older = state.deployments_of(build.service).filter(|deployment| deployment.version <= version);
    let newest_first = older.flat_map(|deployment| {
        let mut builds: Vec<_> = state.builds_of(deployment.id).collect();
        builds.sort_by_key(|other| Reverse(other.attempt));
        builds
    });
    newest_first
        .filter(|other| other.deployment != build.deployment || other.attempt < build.attempt)
        .find_map(|other| Some((&**other, &**state.input(other.id).filter(|input| !input.parts.is_empty())?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::World;
    use crate::model::{BuildParts, DeploymentId, DeploymentStatus, Source};
    use crate::state::{BuildResult, Command};

    fn world(services: &[&str]) -> World {
        let mut world = World::with_nodes(2);
        for name in services {
            world.service(name, |spec| {
                spec.source = Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() }
            });
        }
        world
    }

    fn parts(of: &[(&str, u8)]) -> BuildParts {
        of.iter().map(|(name, byte)| ((*name).to_owned(), [*byte; 32])).collect()
    }

    fn build_of(world: &World, deployment: DeploymentId) -> Build {
        let id = world.deployment(deployment).build.expect("it is built");
        Build::clone(world.state.build(id).expect("on record"))
    }

    fn note_as(
        world: &mut World,
        deployment: DeploymentId,
        of: &[(&str, u8)],
        missing: Option<BuildId>,
    ) -> Option<Reuse> {
        let build = build_of(world, deployment);
        let lease = build.lease.expect("leased");
        world.command(Command::NoteInput { build: build.id, parts: parts(of), missing, lease });
        reuse(&world.state, &build)
    }

    /// Deploys, and has the builder say what it builds.
    fn begin(world: &mut World, service: &str, of: &[(&str, u8)]) -> (DeploymentId, Option<Reuse>) {
        let deployment = world.deploy(service);
        world.settle_rounds();
        let reuse = note_as(world, deployment, of, None);
        (deployment, reuse)
    }

    #[test]
    fn the_same_is_built_once_and_another_service_takes_it() {
        let mut world = world(&["web", "api"]);
        let (first, asked) = begin(&mut world, "web", &[("source", 1)]);
        assert!(matches!(asked, Some(Reuse::Built(_))), "{asked:?}");
        // Whoever comes while it is built waits for it.
        let (_, asked) = begin(&mut world, "api", &[("source", 1)]);
        assert_eq!(asked, Some(Reuse::Of(build_of(&world, first).id)));
        world.finish_build(first);
        let (_, asked) = begin(&mut world, "web", &[("source", 1)]);
        assert_eq!(asked, Some(Reuse::Of(build_of(&world, first).id)));
    }

    #[test]
    fn what_waits_for_a_build_that_fails_runs_and_is_waited_for() {
        let mut world = world(&["web", "api"]);
        let (first, _) = begin(&mut world, "web", &[("source", 1)]);
        let (second, _) = begin(&mut world, "api", &[("source", 1)]);
        let lost = build_of(&world, first);
        let retry = world.id();
        world.command(Command::LoseBuild { build: lost.id, reason: "its node is gone".to_owned(), retry });
        world.settle_rounds();
        let asked = note_as(&mut world, second, &[("source", 1)], None);
        assert!(matches!(asked, Some(Reuse::Built(_))), "nobody else builds it: {asked:?}");
        let asked = note_as(&mut world, first, &[("source", 1)], None);
        assert_eq!(asked, Some(Reuse::Of(build_of(&world, second).id)), "the retry waits for it");
    }

    #[test]
    fn a_miss_says_what_changed() {
        let mut world = world(&["web"]);
        let (first, asked) = begin(&mut world, "web", &[("source", 1), ("nixpkgs", 1), (MAKER, 1)]);
        let no_other = "no earlier build of the service is on record with what it was made from";
        assert_eq!(asked, Some(Reuse::Built(no_other.to_owned())));
        world.finish_build(first);
        let before = build_of(&world, first).id;
        let said = |world: &mut World, of: &[(&str, u8)]| {
            let (deployment, asked) = begin(world, "web", of);
            let build = build_of(world, deployment);
            world.command(Command::CancelBuild(build.id));
            let lease = build.lease.expect("leased");
            world.command(Command::FinishBuild { build: build.id, lease, result: BuildResult::Cancelled });
            assert_eq!(world.deployment(deployment).status, DeploymentStatus::Failed);
            let Some(Reuse::Built(why)) = asked else { panic!("{asked:?}") };
            (build.id, why)
        };
        let (cancelled, why) = said(&mut world, &[("source", 2), ("dockerfile", 1), (MAKER, 2)]);
        assert_eq!(why, format!("changed since build {before}: dockerfile, nixpkgs, source"));
        let (_, why) = said(&mut world, &[("source", 2), ("dockerfile", 1), (MAKER, 2)]);
        assert_eq!(why, format!("build {cancelled} of the same ended as cancelled"));
        let (latest, why) = said(&mut world, &[("source", 2), ("dockerfile", 1), (MAKER, 3)]);
        assert!(why.ends_with("narvana has changed how it builds this"), "{why}");
        let (_, why) = said(&mut world, &[("source", 9), ("dockerfile", 1), (MAKER, 9)]);
        assert_eq!(why, format!("changed since build {latest}: source"));
    }

    #[test]
    fn who_insists_or_wants_nothing_reused_builds() {
        let mut world = world(&["web", "api"]);
        let (first, _) = begin(&mut world, "web", &[("source", 1)]);
        world.finish_build(first);
        let before = build_of(&world, first).id;
        let (second, _) = begin(&mut world, "web", &[("source", 1)]);
        let asked = note_as(&mut world, second, &[("source", 1)], Some(before));
        let gone = format!("build {before} made the same, and no node that answers has its image");
        assert_eq!(asked, Some(Reuse::Built(gone)));
        let anew = world.deploy_anew("api");
        world.settle_rounds();
        let asked = note_as(&mut world, anew, &[("source", 1)], None);
        assert_eq!(asked, Some(Reuse::Built("it was asked for that nothing be reused".to_owned())));
        // That holds for the run that follows a lost one, too.
        let (lost, retry) = (build_of(&world, anew).id, world.id());
        world.command(Command::LoseBuild { build: lost, reason: "its node is gone".to_owned(), retry });
        world.settle_rounds();
        let asked = note_as(&mut world, anew, &[("source", 1)], None);
        assert_eq!(asked, Some(Reuse::Built("it was asked for that nothing be reused".to_owned())));
    }
    #[test]
    fn of_many_that_insist_one_builds() {
        let mut world = world(&["web", "api", "blog"]);
        let (first, _) = begin(&mut world, "web", &[("source", 1)]);
        world.finish_build(first);
        let gone = build_of(&world, first).id;
        let (second, _) = begin(&mut world, "api", &[("source", 1)]);
        let (third, _) = begin(&mut world, "blog", &[("source", 1)]);
        assert!(matches!(note_as(&mut world, second, &[("source", 1)], Some(gone)), Some(Reuse::Built(_))));
        let runs = Some(Reuse::Of(build_of(&world, second).id));
        assert_eq!(note_as(&mut world, third, &[("source", 1)], Some(gone)), runs);
        // Said once more by the one that runs, late, nothing changes.
        assert!(matches!(note_as(&mut world, second, &[("source", 1)], None), Some(Reuse::Built(_))));
        // The one that waits is cancelled: it took nothing.
        let waits = build_of(&world, third);
        let lease = waits.lease.expect("leased");
        world.command(Command::FinishBuild { build: waits.id, lease, result: BuildResult::Cancelled });
        let asked = reuse(&world.state, &build_of(&world, third));
        assert_eq!(asked, Some(Reuse::WaitedFor(build_of(&world, second).id)));
    }

    #[test]
    fn the_newest_image_is_the_one_that_was_made_last_whatever_clocks_say() {
        let mut world = world(&["web", "api", "blog"]);
        let (first, _) = begin(&mut world, "web", &[("source", 1)]);
        world.finish_build(first);
        let anew = world.deploy_anew("api");
        world.settle_rounds();
        note_as(&mut world, anew, &[("source", 1)], None);
        // Noted before that ends, and finished after it, with a clock that is ahead.
        let (taken, _) = begin(&mut world, "blog", &[("source", 1)]);
        world.finish_build(anew);
        world.pass(3_600);
        world.take_image(taken, first);
        let (_, asked) = begin(&mut world, "web", &[("source", 1)]);
        assert_eq!(asked, Some(Reuse::Of(build_of(&world, anew).id)));
    }

    #[test]
    fn nobody_gets_what_another_organisation_has_built() {
        let mut world = world(&["web"]);
        let (first, _) = begin(&mut world, "web", &[("source", 1)]);
        world.finish_build(first);
        world.enter_another_org();
        world.service("web", |spec| {
            spec.source = Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() }
        });
        let (_, asked) = begin(&mut world, "web", &[("source", 1)]);
        assert!(matches!(asked, Some(Reuse::Built(_))), "{asked:?}");
    }
}
