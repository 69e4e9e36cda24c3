//! Commands about the cluster and its settings.

use std::collections::BTreeMap;

use crate::model::{Cluster, Invalid, Setting, SettingKey};
use crate::state::{Outcome, Rejection};

use super::{Answer, Draft};

impl Draft {
    pub(super) fn init_cluster(&mut self, cluster: &Cluster) -> Answer {
        if self.state.cluster().is_some() {
            return Err(Rejection::Conflict("the cluster exists already".to_owned()));
        }
        self.put(cluster.clone());
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
