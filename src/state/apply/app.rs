//! Commands about apps.

use std::sync::Arc;

use crate::model::{App, AppId, Invalid, OrgId, check_app_name};
use crate::state::{Key, NewApp, Outcome, Rejection};

use super::{Answer, Draft, not_found};

/// Longest description or picture address, in bytes.
const TEXT_BYTES_MAX: usize = 4_096;

impl Draft {
    pub(super) fn app(&self, id: AppId) -> Result<Arc<App>, Rejection> {
        self.state.app(id).cloned().ok_or_else(|| not_found("app", id))
    }

    pub(super) fn create_app(&mut self, new: &NewApp) -> Answer {
        self.check_new(Key::App(new.id))?;
        check_app(Some(&new.name), Some(&new.description), Some(&new.icon_url))?;
        if self.state.org(new.org).is_none() {
            return Err(not_found("organisation", new.org));
        }
        self.check_app_name_free(new.org, &new.name)?;
        self.put(App {
            id: new.id,
            org: new.org,
            owner: new.owner,
            name: new.name.clone(),
            description: new.description.clone(),
            icon_url: new.icon_url.clone(),
            version: 1,
            created_at: self.now,
            updated_at: self.now,
        });
        for service in &new.services {
            self.insert_service(new.id, service)?;
        }
        self.check_app_dependencies(new.id)?;
        Ok(Outcome::App(new.id))
    }

    pub(super) fn update_app(
        &mut self,
        id: AppId,
        expected_version: u64,
        name: Option<&str>,
        description: Option<&str>,
        icon_url: Option<&str>,
    ) -> Answer {
        let mut app = App::clone(&*self.app(id)?);
        if app.version != expected_version {
            return Err(Rejection::Conflict(format!(
                "app {} is at version {}, the change was made for version {expected_version}; read it again and retry",
                app.name, app.version
            )));
        }
        check_app(name, description, icon_url)?;
        if let Some(name) = name.filter(|name| *name != app.name) {
            self.check_app_name_free(app.org, name)?;
            name.clone_into(&mut app.name);
        }
        if let Some(description) = description {
            description.clone_into(&mut app.description);
        }
        if let Some(icon_url) = icon_url {
            icon_url.clone_into(&mut app.icon_url);
        }
        app.version += 1;
        app.updated_at = self.now;
        self.put(app);
        Ok(Outcome::App(id))
    }

    pub(super) fn delete_app(&mut self, id: AppId) -> Answer {
        self.app(id)?;
        let services: Vec<_> = self.state.services_of(id).map(|service| service.id).collect();
        for service in services {
            self.remove_service(service);
        }
        self.delete(Key::App(id));
        Ok(Outcome::Done)
    }

    fn check_app_name_free(&self, org: OrgId, name: &str) -> Result<(), Rejection> {
        match self.state.app_by_name(org, name) {
            Some(_) => Err(Rejection::Conflict(format!("an app named {name} exists already in this organisation"))),
            None => Ok(()),
        }
    }
}

fn check_app(name: Option<&str>, description: Option<&str>, icon_url: Option<&str>) -> Result<(), Invalid> {
    let mut invalid = Invalid::default();
    if let Some(name) = name {
        invalid.check("name", check_app_name(name));
    }
    for (field, text) in [("description", description), ("icon_url", icon_url)] {
        if text.is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
            invalid.add(field, format!("must have at most {TEXT_BYTES_MAX} bytes"));
        }
    }
    invalid.into_result()
}
