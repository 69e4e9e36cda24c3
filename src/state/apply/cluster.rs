//! Commands about the cluster, its nodes and its settings.

use std::collections::BTreeMap;

use crate::model::{Cluster, Invalid, Node, Setting, SettingKey};
use crate::state::{NodeFacts, Outcome, Rejection};

use super::{Answer, Draft};

impl Draft {
    pub(super) fn init_cluster(&mut self, cluster: &Cluster) -> Answer {
        if self.state.cluster().is_some() {
            return Err(Rejection::Conflict("the cluster exists already".to_owned()));
        }
        self.put(cluster.clone());
        Ok(Outcome::Done)
    }

    pub(super) fn register_node(&mut self, facts: &NodeFacts) -> Answer {
        let known = self.state.node(facts.id).cloned();
        let facts = facts.clone();
        self.put(Node {
            id: facts.id,
            name: facts.name,
            address: facts.address,
            api_port: facts.api_port,
            grpc_port: facts.grpc_port,
            ingress_http_port: facts.ingress_http_port,
            arch: facts.arch,
            version: facts.version,
            engine: facts.engine,
            resources: facts.resources,
            labels: facts.labels,
            cordoned: known.as_ref().is_some_and(|node| node.cordoned),
            incarnation: facts.incarnation,
            joined_at: known.as_ref().map_or(self.now, |node| node.joined_at),
            // A node says the same again when its engine comes or goes; that is not a new start.
            started_at: known
                .filter(|node| node.incarnation == facts.incarnation)
                .map_or(self.now, |node| node.started_at),
        });
        Ok(Outcome::Done)
    }

    pub(super) fn set_settings(&mut self, values: &BTreeMap<SettingKey, String>) -> Answer {
        let mut invalid = Invalid::default();
        for (key, value) in values {
            invalid.check(key.as_str(), key.check(value));
        }
        invalid.into_result()?;
        for (key, value) in values {
            self.put(Setting { key: *key, value: value.clone() });
        }
        Ok(Outcome::Done)
    }
}
