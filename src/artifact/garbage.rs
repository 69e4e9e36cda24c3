//! Which blobs nobody needs any more. Pure: the store is asked and obeyed elsewhere.
//!
//! What the state references is kept, exactly: uploaded sources, and the images of deployments and builds with all
//! their parts. Everything else goes after [`GRACE_LOOKS`] looks in a row that found it unneeded and unused: a blob is
//! stored before the state knows it, and a push relies on layers that it finds here before its manifest names them.

use std::collections::{BTreeMap, BTreeSet};

use super::Digest;
use crate::model::BuiltImage;
use crate::state::State;

/// Looks in a row that must find a blob unneeded and unused. With the time between two looks that must be longer than
/// the slowest push takes from its first layer until its build is on record.
pub const GRACE_LOOKS: u32 = 6;

/// What the state references. Of a manifest, the parts it names are needed too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Archives of uploaded sources.
    pub sources: BTreeSet<Digest>,
    /// Recipes of builds. Nothing runs by them.
    pub recipes: BTreeSet<Digest>,
    /// Manifests of images that were built.
    pub manifests: BTreeSet<Digest>,
}

impl Roots {
    /// Of this state. A deployment on record can be gone back to, whether it runs or not.
    pub fn of(state: &State) -> Self {
        // An image that a user names is somebody else's, whatever its name looks like.
        let deployed = state.deployments().filter(|deployment| deployment.spec.source.needs_build());
        let deployed = deployed.filter_map(|deployment| deployment.artifact.as_ref());
        let built = state.builds().filter_map(|build| build.artifact.as_ref());
        let images = deployed.chain(built).filter_map(|artifact| artifact.image.parse::<BuiltImage>().ok());
        let recipes = state.recipes().map(|recipe| Digest::new(recipe.digest));
        Self {
            sources: state.sources().filter_map(|source| source.sha256.parse().ok()).collect(),
            recipes: recipes.collect(),
            manifests: images.map(|image| image.manifest).collect(),
        }
    }

    /// All without which something cannot start.
    pub fn all(&self) -> BTreeSet<Digest> {
        self.sources.union(&self.manifests).copied().collect()
    }
}

/// Blobs that nobody needed lately, with how many looks in a row found that.
#[derive(Clone, Debug, Default)]
pub struct Suspects(BTreeMap<Digest, u32>);

impl Suspects {
    /// One more look: `stored` is what there is, `needed` what the state references, `used` what was stored or relied
    /// on since the look before. Returns what is to be removed.
    pub fn look(
        &mut self,
        stored: &BTreeSet<Digest>,
        needed: &BTreeSet<Digest>,
        used: &BTreeSet<Digest>,
    ) -> BTreeSet<Digest> {
        let suspects = stored.difference(needed).filter(|digest| !used.contains(digest));
        self.0 = suspects.map(|digest| (*digest, self.0.get(digest).map_or(1, |looks| looks + 1))).collect();
        self.0.iter().filter(|(_, looks)| **looks >= GRACE_LOOKS).map(|(digest, _)| *digest).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Source;
    use crate::state::{Record, sample_records};

    fn set(numbers: &BTreeSet<u8>) -> BTreeSet<Digest> {
        numbers.iter().map(|number| Digest::new([*number; 32])).collect()
    }

    fn some() -> impl Strategy<Value = BTreeSet<u8>> {
        prop::collection::btree_set(0_u8..8, 0..8)
    }

    #[test]
    fn images_and_sources_of_the_state_are_roots() {
        let built = |byte| BuiltImage {
            repository: crate::model::Repository(crate::model::ServiceId::from(uuid::Uuid::nil())),
            manifest: Digest::new([byte; 32]),
        };
        let roots = |source: Option<Source>| {
            let mut records = sample_records();
            for record in &mut records {
                match record {
                    Record::Deployment(deployment) => {
                        let deployment = Arc::make_mut(deployment);
                        deployment.artifact.as_mut().expect("it has one").image = built(1).to_string();
                        if let Some(source) = &source {
                            deployment.spec.source = source.clone();
                        }
                    }
                    Record::Build(build) => {
                        let artifact = &mut Arc::make_mut(build).artifact;
                        artifact.as_mut().expect("it has one").image = built(2).to_string();
                    }
                    _ => {}
                }
            }
            Roots::of(&State::from_records(records))
        };
        let of_the_sample = roots(Some(Source::Upload));
        assert_eq!(of_the_sample.manifests, [built(1).manifest, built(2).manifest].into());
        // What was uploaded, and the recipe of the build.
        assert_eq!(of_the_sample.sources, [Digest::new([0xab; 32])].into());
        assert_eq!(of_the_sample.recipes, [Digest::new([12; 32])].into());
        let named = Source::Image { image: built(1).to_string() };
        assert_eq!(roots(Some(named)).manifests, [built(2).manifest].into(), "what a user names is no root");
    }

    proptest! {
        /// Against the rule in its own words, over the whole history.
        #[test]
        fn what_goes_was_unneeded_and_unused_for_so_many_looks(
            history in prop::collection::vec((some(), some(), some()), 1..20),
        ) {
            let mut suspects = Suspects::default();
            for now in 0..history.len() {
                let (stored, needed, used) = &history[now];
                let removed = suspects.look(&set(stored), &set(needed), &set(used));
                let last: Vec<_> = history[..=now].iter().rev().take(GRACE_LOOKS as usize).collect();
                let is_garbage = |number: &u8| {
                    last.len() == GRACE_LOOKS as usize
                        && last.iter().all(|(stored, needed, used)| {
                            stored.contains(number) && !needed.contains(number) && !used.contains(number)
                        })
                };
                prop_assert_eq!(removed, set(&(0..8).filter(is_garbage).collect()));
            }
        }
    }
}
