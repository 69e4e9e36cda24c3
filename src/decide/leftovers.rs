//! Which images and networks on a node's engine nobody needs any more.
//!
//! Comes in: what carries the labels of this cluster (networks: and of this node), so that nothing of another cluster or
//! another program is ever looked at. Goes out: what to remove. The state must be at least as new as the lists: an
//! image is made under a build that the state knows, and a network for an app that it knows, so whatever is listed and
//! not known is over. Deliberately absent: volumes. Data is never removed by itself.

use std::collections::BTreeSet;

use crate::model::{AppId, BuildId, Repository};
use crate::state::State;

/// What the references of images begin with that narvana built.
pub const BUILT: &str = "localhost/narvana/";

/// An image that a build of this cluster made, here or on a node that this one had it from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The engine's id.
    pub id: String,
    /// All its references.
    pub references: Vec<String>,
    /// The build that made it, by label; none when the label cannot be read.
    pub build: Option<BuildId>,
}

/// A network that this node made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its app; none when the name is not one of an app's network.
    pub app: Option<AppId>,
}

/// What to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// References of images, and ids of those without any.
    pub images: Vec<String>,
    /// Names of networks.
    pub networks: Vec<String>,
}

/// Compares what the engine keeps with what the state knows.
pub fn leftovers(state: &State, images: &[Image], networks: &[Network]) -> Leftovers {
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    // A deployment that goes back to an older one runs what that one's build made, and may outlive the record of it.
    for artifact in state.deployments().filter_map(|deployment| deployment.artifact.as_ref()) {
        needed.insert(&artifact.image);
        needed.extend(artifact.image_id.as_deref());
    }
    let is_needed = |image: &Image| {
        image.build.is_none_or(|build| state.build(build).is_some())
            || needed.contains(image.id.as_str())
            || image.references.iter().any(|reference| needed.contains(reference.as_str()))
    };
    let mut left = Leftovers::default();
    for image in images.iter().filter(|image| !is_needed(image)) {
        if image.references.is_empty() {
            left.images.push(image.id.clone());
        }
        // A name that somebody else gave it keeps the image.
        left.images.extend(image.references.iter().filter(|reference| is_ours(reference)).cloned());
    }
    let forsaken = networks.iter().filter(|network| network.app.is_some_and(|app| state.app(app).is_none()));
    left.networks = forsaken.map(|network| network.name.clone()).collect();
    left
}

/// Whether narvana gave that name: to what it built, or for its way to or from a registry of its own.
fn is_ours(reference: &str) -> bool {
    let of_a_registry = || {
        let (_port, name) = reference.strip_prefix("127.0.0.1:")?.split_once('/')?;
        name.split([':', '@']).next()?.parse::<Repository>().ok()
    };
    reference.starts_with(BUILT) || of_a_registry().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::World;
    use crate::model::{BuildStatus, Cause, DeploymentId, Source};
    use crate::state::{Command, NewDeployment};

    /// A service that is built from source, deployed `versions` times.
    fn world(versions: usize) -> (World, Vec<DeploymentId>) {
        let mut world = World::with_nodes(1);
        world.service("web", |spec| {
            spec.source = Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() };
        });
        let deployments = (0..versions).map(|_| {
            let deployment = world.deploy("web");
            world.settle_rounds();
            world.finish_build(deployment);
            world.run_until_quiet();
            deployment
        });
        let deployments = deployments.collect();
        (world, deployments)
    }

    fn build_of(world: &World, deployment: DeploymentId) -> BuildId {
        world.deployment(deployment).build.expect("it is built")
    }

    fn image(id: &str, references: &[&str], build: BuildId) -> Image {
        let references = references.iter().map(|reference| (*reference).to_owned()).collect();
        Image { id: id.to_owned(), references, build: Some(build) }
    }

    fn removed(world: &World, images: &[Image]) -> Vec<String> {
        leftovers(&world.state, images, &[]).images
    }

    #[test]
    fn an_image_stays_as_long_as_its_build_is_on_record() {
        let (mut world, deployments) = world(1);
        let build = build_of(&world, deployments[0]);
        let made = [image("sha256:1", &["localhost/narvana/web:v1"], build)];
        assert_eq!(removed(&world, &made), [""; 0]);
        let app = world.app;
        world.command(Command::DeleteApp(app));
        assert_eq!(removed(&world, &made), ["localhost/narvana/web:v1"]);
    }

    #[test]
    fn an_image_that_was_made_and_not_yet_reported_stays() {
        let (mut world, _) = world(0);
        let deployment = world.deploy("web");
        let build = build_of(&world, deployment);
        world.settle_rounds();
        assert_eq!(world.state.build(build).map(|build| build.status), Some(BuildStatus::Running));
        let made = [image("sha256:1", &["localhost/narvana/web:v1"], build)];
        assert_eq!(removed(&world, &made), [""; 0]);
    }

    #[test]
    fn what_a_rollback_runs_outlives_the_deployment_that_built_it() {
        let (mut world, deployments) = world(2);
        let artifact = world.deployment(deployments[0]).artifact.clone().expect("built");
        let first = build_of(&world, deployments[0]);
        let (id, build, service) = (world.id(), world.id(), world.service_row("web").id);
        let cause = Cause::Rollback(deployments[0]);
        world.command(Command::Deploy(vec![NewDeployment { id, build, service, cause, git_ref: None }]));
        world.run_until_quiet();
        let ended = world.state.instances_of(deployments[0]).map(|instance| instance.id).collect();
        world.command(Command::Sweep {
            instances: ended,
            deployments: vec![deployments[0]],
            sources: Vec::new(),
            sessions: Vec::new(),
        });
        assert!(world.state.build(first).is_none(), "its build went with it");
        let forgotten = image("sha256:2", &["localhost/narvana/web:v0"], first);
        let images = [image("sha256:1", &[artifact.image.as_str()], first), forgotten];
        assert_eq!(removed(&world, &images), ["localhost/narvana/web:v0"]);
    }

    #[test]
    fn only_names_that_narvana_gave_are_taken_away() {
        let (mut world, _) = world(0);
        let stranger: BuildId = world.id();
        let pushed = format!("127.0.0.1:5000/{}:{stranger}", Repository(world.id()));
        let images = [
            image("sha256:1", &["localhost/narvana/web:v1", "registry.example.org/kept:1"], stranger),
            image("sha256:2", &["registry.example.org/derived:1"], stranger),
            image("sha256:3", &[], stranger),
            image("sha256:5", &[pushed.as_str(), "127.0.0.1:5000/web:1"], stranger),
            Image { build: None, ..image("sha256:4", &["localhost/narvana/unreadable:v1"], stranger) },
        ];
        assert_eq!(removed(&world, &images), ["localhost/narvana/web:v1", "sha256:3", pushed.as_str()]);
    }

    #[test]
    fn a_network_goes_with_its_app() {
        let (mut world, _) = world(1);
        let network = |name: &str, app| Network { name: name.to_owned(), app };
        let networks = [network("narvana-app", Some(world.app)), network("unreadable", None)];
        assert_eq!(leftovers(&world.state, &[], &networks), Leftovers::default());
        let app = world.app;
        world.command(Command::DeleteApp(app));
        assert_eq!(leftovers(&world.state, &[], &networks).networks, ["narvana-app"]);
    }
}
