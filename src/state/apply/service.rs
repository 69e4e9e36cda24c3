//! Commands about services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{
    AppId, Desired, EnvVars, Invalid, Service, ServiceId, ServiceSpec, SettingKey, UploadedSource, check_dependencies,
    check_env, check_service_name,
};
use crate::state::{EnvExpectation, Key, NewService, Outcome, Rejection};

use super::{Answer, Draft, not_found};

/// Longest DNS label, in bytes (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;
/// What an instance takes in the state, about.
const INSTANCE_BYTES: u64 = 512;

impl Draft {
    pub(super) fn service(&self, id: ServiceId) -> Result<Service, Rejection> {
        self.state.service(id).map(|service| Service::clone(service)).ok_or_else(|| not_found("service", id))
    }

    pub(super) fn create_service(&mut self, app: AppId, new: &NewService) -> Answer {
        self.app(app)?;
        self.insert_service(app, new)?;
        self.check_app_dependencies(app)?;
        Ok(Outcome::Service(new.id))
    }

    /// Adds a service without looking at its dependencies, which may be added by the same command.
    pub(super) fn insert_service(&mut self, app: AppId, new: &NewService) -> Result<(), Rejection> {
        self.check_new(Key::Service(new.id))?;
        let mut invalid = Invalid::default();
        invalid.check("name", check_service_name(&new.name));
        invalid.into_result()?;
        new.spec.check()?;
        if self.state.service_by_name(app, &new.name).is_some() {
            return Err(Rejection::Conflict(format!("a service named {} exists already in this app", new.name)));
        }
        let limit = self.state.setting(SettingKey::MaxServicesPerApp).parse().unwrap_or(usize::MAX);
        if self.state.services_of(app).count() >= limit {
            return Err(Rejection::Quota(format!(
                "the app has {limit} services, which is the limit; an administrator can raise max_services_per_app"
            )));
        }
        let app_name = self.app(app)?.name.clone();
        self.put(Service {
            id: new.id,
            app,
            name: new.name.clone(),
            host_label: self.free_host_label(&new.name, &app_name, new.id),
            spec: new.spec.clone(),
            desired: Desired::Running,
            source: None,
            last_version: 0,
            serving: None,
            generation: 1,
            created_at: self.now,
            updated_at: self.now,
        });
        Ok(())
    }

    /// `<service>-<app>`, or that with a suffix from the service's id when it is taken or too long for a label: names
    /// are unique only within an app and an organisation, and `a-b` + `c` reads the same as `a` + `b-c`.
    fn free_host_label(&self, service: &str, app: &str, id: ServiceId) -> String {
        let plain = format!("{service}-{app}");
        if plain.len() <= LABEL_BYTES_MAX && self.state.service_by_host(&plain).is_none() {
            return plain;
        }
        // The last digits of an id are random; should even they collide, more of them do not.
        let hex = id.0.as_simple().to_string();
        (6..=hex.len())
            .map(|digits| {
                let suffix = &hex[hex.len() - digits..];
                let room = LABEL_BYTES_MAX - digits - 1;
                format!("{}-{suffix}", plain[..plain.len().min(room)].trim_end_matches('-'))
            })
            .find(|label| self.state.service_by_host(label).is_none())
            .unwrap_or(hex)
    }

    pub(super) fn check_app_dependencies(&self, app: AppId) -> Result<(), Rejection> {
        let services: Vec<Arc<Service>> = self.state.services_of(app).cloned().collect();
        let graph: BTreeMap<&str, &BTreeSet<String>> =
            services.iter().map(|service| (service.name.as_str(), &service.spec.depends_on)).collect();
        check_dependencies(&graph).map_err(|problem| Rejection::Invalid(Invalid::field("depends_on", problem.0)))
    }

    pub(super) fn update_service(&mut self, id: ServiceId, expected_generation: u64, spec: &ServiceSpec) -> Answer {
        let service = self.service(id)?;
        if service.generation != expected_generation {
            return Err(Rejection::Conflict(format!(
                "service {} was changed meanwhile; read it again and retry",
                service.name
            )));
        }
        let app = service.app;
        self.put_spec(service, spec.clone())?;
        self.check_app_dependencies(app)?;
        Ok(Outcome::Service(id))
    }

    fn put_spec(&mut self, mut service: Service, spec: ServiceSpec) -> Result<(), Rejection> {
        spec.check()?;
        // The leader makes the instances, and its commands are not refused.
        let more = spec.replicas.saturating_sub(service.spec.replicas);
        if more > 0 {
            self.check_room(u64::from(more) * INSTANCE_BYTES)?;
        }
        service.spec = spec;
        service.generation += 1;
        service.updated_at = self.now;
        self.put(service);
        Ok(())
    }

    pub(super) fn delete_service(&mut self, id: ServiceId) -> Answer {
        let service = self.service(id)?;
        let dependants: Vec<String> = self
            .state
            .services_of(service.app)
            .filter(|other| other.spec.depends_on.contains(&service.name))
            .map(|other| other.name.clone())
            .collect();
        if !dependants.is_empty() {
            return Err(Rejection::Conflict(format!(
                "service {} is needed by {}; change their depends_on first",
                service.name,
                dependants.join(", ")
            )));
        }
        self.remove_service(id);
        Ok(Outcome::Done)
    }

    /// Removes a service with all it has. Its containers have no record then, which makes their nodes remove them.
    pub(super) fn remove_service(&mut self, id: ServiceId) {
        let deployments: Vec<_> = self.state.deployments_of(id).cloned().collect();
        for deployment in deployments {
            let instances: Vec<_> = self.state.instances_of(deployment.id).map(|instance| instance.id).collect();
            for instance in instances {
                self.delete(Key::Instance(instance));
            }
            self.delete_builds_of(deployment.id);
            self.delete(Key::Deployment(deployment.id));
        }
        let sources: Vec<_> = self.state.sources_of(id).map(|source| source.id).collect();
        for source in sources {
            self.delete(Key::Source(source));
        }
        self.delete(Key::Service(id));
    }

    pub(super) fn set_env(&mut self, id: ServiceId, entries: &EnvVars, expectation: EnvExpectation) -> Answer {
        let service = self.service(id)?;
        let mut invalid = Invalid::default();
        for (key, value) in entries {
            invalid.check(format!("env_vars.{key}"), check_env(key, value));
        }
        invalid.into_result()?;
        let mut spec = service.spec.clone();
        for (key, value) in entries {
            let exists = spec.env.contains_key(key);
            match expectation {
                EnvExpectation::Absent if exists => {
                    return Err(Rejection::Conflict(format!("{key} is set already; change it with PUT")));
                }
                EnvExpectation::Present if !exists => return Err(not_found("environment variable", key)),
                _ => {}
            }
            spec.env.insert(key.clone(), value.clone());
        }
        self.put_spec(service, spec)?;
        Ok(Outcome::Service(id))
    }

    pub(super) fn unset_env(&mut self, id: ServiceId, keys: &BTreeSet<String>) -> Answer {
        let service = self.service(id)?;
        let mut spec = service.spec.clone();
        for key in keys {
            if spec.env.remove(key).is_none() {
                return Err(not_found("environment variable", key));
            }
        }
        self.put_spec(service, spec)?;
        Ok(Outcome::Service(id))
    }

    pub(super) fn attach_source(&mut self, source: &UploadedSource) -> Answer {
        let mut service = self.service(source.service)?;
        if service.spec.source != crate::model::Source::Upload {
            return Err(Rejection::Precondition(format!(
                "service {0} has the source type {1}, not upload; change that first: `narvana service update {0} --upload` \
                 (source_type upload)",
                service.name,
                service.spec.source.type_name()
            )));
        }
        self.check_new(Key::Source(source.id))?;
        service.source = Some(source.id);
        service.updated_at = self.now;
        self.put(service);
        self.put(source.clone());
        Ok(Outcome::Source(source.id))
    }

    pub(super) fn set_desired(&mut self, id: ServiceId, desired: Desired) -> Answer {
        let mut service = self.service(id)?;
        if desired == Desired::Stopped
            && self.state.deployments_of(id).all(|deployment| deployment.status.is_terminal())
        {
            return Err(Rejection::Precondition(format!("service {} is not running", service.name)));
        }
        service.desired = desired;
        service.updated_at = self.now;
        self.put(service);
        Ok(Outcome::Service(id))
    }

    pub(super) fn scale(&mut self, id: ServiceId, replicas: u32) -> Answer {
        let service = self.service(id)?;
        let spec = ServiceSpec { replicas, ..service.spec.clone() };
        self.put_spec(service, spec)?;
        Ok(Outcome::Service(id))
    }
}
