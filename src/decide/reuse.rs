//! Whether a build takes the result of another one, and if not, why not: for people.

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
    /// It runs, for this reason.
    Built(String),
}

/// Of a build whose builder has seen its source.
pub fn reuse(state: &State, build: &Build) -> Option<Reuse> {
    let input = state.input(build.id).filter(|input| !input.parts.is_empty())?;
    Some(input.same_as.map_or_else(|| Reuse::Built(why_built(state, build, input)), Reuse::Of))
}

fn why_built(state: &State, build: &Build, input: &BuildInput) -> String {
    if input.no_cache {
        return "it was asked for that nothing be reused".to_owned();
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
    match (changed.as_slice(), before.status) {
        ([MAKER], _) => format!("since build {} narvana has changed how it builds this", before.id),
        ([], BuildStatus::Succeeded) => {
            format!("build {} made the same, and no node that answers has its image", before.id)
        }
        ([], status) => format!("build {} of the same ended as {status}", before.id),
        (changed, _) => format!("changed since build {}: {}", before.id, listed(changed, ", ")),
    }
}

/// The newest build of the service before this one of which it is known what it was made from.
fn build_before<'a>(state: &'a State, build: &Build) -> Option<(&'a Build, &'a BuildInput)> {
    let is_before = |other: &Build| (other.created_at, other.id) < (build.created_at, build.id);
    let newest_first = state.deployments_of(build.service);
    newest_first
        .flat_map(|deployment| Vec::from_iter(state.builds_of(deployment.id)).into_iter().rev())
        .filter(|other| is_before(other))
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

    fn note_as(world: &mut World, deployment: DeploymentId, of: &[(&str, u8)], insist: bool) -> Option<Reuse> {
        let build = build_of(world, deployment);
        let lease = build.lease.expect("leased");
        world.command(Command::NoteInput { build: build.id, parts: parts(of), insist, lease });
        reuse(&world.state, &build)
    }

    /// Deploys, and has the builder say what it builds.
    fn begin(world: &mut World, service: &str, of: &[(&str, u8)]) -> (DeploymentId, Option<Reuse>) {
        let deployment = world.deploy(service);
        world.settle_rounds();
        let reuse = note_as(world, deployment, of, false);
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
        let asked = note_as(&mut world, second, &[("source", 1)], false);
        assert!(matches!(asked, Some(Reuse::Built(_))), "nobody else builds it: {asked:?}");
        let asked = note_as(&mut world, first, &[("source", 1)], false);
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
        let asked = note_as(&mut world, second, &[("source", 1)], true);
        let gone = format!("build {before} made the same, and no node that answers has its image");
        assert_eq!(asked, Some(Reuse::Built(gone)));
        let anew = world.deploy_anew("api");
        world.settle_rounds();
        let asked = note_as(&mut world, anew, &[("source", 1)], false);
        assert_eq!(asked, Some(Reuse::Built("it was asked for that nothing be reused".to_owned())));
        // That holds for the run that follows a lost one, too.
        let (lost, retry) = (build_of(&world, anew).id, world.id());
        world.command(Command::LoseBuild { build: lost, reason: "its node is gone".to_owned(), retry });
        world.settle_rounds();
        let asked = note_as(&mut world, anew, &[("source", 1)], false);
        assert_eq!(asked, Some(Reuse::Built("it was asked for that nothing be reused".to_owned())));
    }
}
