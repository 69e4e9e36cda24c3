//! What every command that talks to a cluster starts from.

use anyhow::bail;
use clap::Args;

use super::Global;
use super::context::{Context, Contexts};
use super::outcome::{Exit, failure};
use super::output::{Output, warn};
use crate::client::view::Cluster;
use crate::client::{Client, Options};
use crate::model::Secret;

/// The node of a machine that runs one.
pub(super) const DEFAULT_API: &str = "http://127.0.0.1:8080";

/// Which app.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct AppArg {
    /// App, by name or id [default: the only one there is]
    #[arg(short, long, env = "NARVANA_APP")]
    pub(super) app: Option<String>,
}

/// Which service of which app.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ServiceArg {
    #[command(flatten)]
    pub(super) app: AppArg,
    /// Service, by name [default: the only one of the app]
    #[arg(short, long, env = "NARVANA_SERVICE")]
    pub(super) service: Option<String>,
}

/// A cluster, somebody who is logged in there, and where to write.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) output: Output,
    /// The context that the session is of, if its addresses are.
    context: Option<String>,
}

/// What a session is opened with: the flags, completed from the user's contexts.
pub(super) fn options(global: &Global, contexts: &Contexts) -> anyhow::Result<Options> {
    // An empty variable is one that is not set.
    let wanted = global.context.as_deref().filter(|name| !name.is_empty());
    let given: Vec<String> = global.api.iter().filter(|address| !address.is_empty()).cloned().collect();
    let name = contexts.name(wanted);
    let context = contexts.contexts.get(&name).cloned();
    if context.is_none() && wanted.is_some() && given.is_empty() {
        let message =
            format!("there is no context {name:?}; `narvana context ls` lists them, `narvana login` makes one");
        return Err(failure(Exit::Usage, message));
    }
    let context = context.unwrap_or_default();
    let addresses = match (given.is_empty(), context.api.is_empty()) {
        (false, _) => given,
        (true, false) => context.addresses(),
        (true, true) => vec![DEFAULT_API.to_owned()],
    };
    // A log-in is shown to the cluster it belongs to, and to no other.
    let belongs = addresses.iter().all(|address| context.knows(address));
    let token = global.token.clone().filter(|token| !token.is_empty());
    let token = token.or_else(|| context.token.clone().filter(|_| belongs)).map(Secret::new);
    let ca_cert = global.ca_cert.clone().filter(|path| !path.as_os_str().is_empty());
    let ca_cert = ca_cert.or_else(|| context.ca_cert.clone().filter(|_| belongs));
    let authority = context.authority.filter(|_| belongs);
    let on_other_version = Some(warn_of_version as fn(&str, &str));
    Ok(Options { addresses, token, ca_cert, authority, stale: global.stale, on_other_version })
}

fn warn_of_version(address: &str, version: &str) {
    let own = env!("CARGO_PKG_VERSION");
    warn(&format!(
        "the node at {address} is narvana {version}, this command line is {own}; they may not understand each other"
    ));
}

impl Session {
    pub(super) fn open(global: &Global) -> anyhow::Result<Self> {
        let contexts = Contexts::load()?;
        let options = options(global, &contexts)?;
        let name = contexts.name(global.context.as_deref().filter(|name| !name.is_empty()));
        let own = |context: &Context| options.addresses.iter().all(|address| context.knows(address));
        let context = contexts.contexts.get(&name).is_some_and(own).then_some(name);
        Ok(Self { client: Client::new(&options)?, output: global.printer(), context })
    }

    /// Keeps where the nodes are, to be asked when those that are known do not answer.
    pub(super) fn learn(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let Some(name) = &self.context else { return Ok(()) };
        let mut contexts = Contexts::load()?;
        let learnt =
            contexts.contexts.get_mut(name).is_some_and(|context| context.learn(&self.client.address(), cluster));
        if learnt { contexts.save() } else { Ok(()) }
    }

    /// The app that is meant.
    pub(super) async fn app(&self, arg: &AppArg) -> anyhow::Result<String> {
        if let Some(app) = &arg.app {
            return Ok(app.clone());
        }
        let apps = self.client.apps().await?.view;
        let names: Vec<&str> = apps.iter().map(|app| app.name.as_str()).collect();
        match names.as_slice() {
            [] => bail!("there are no apps; `narvana deploy .` makes one from a folder"),
            [only] => Ok((*only).to_owned()),
            _ => {
                Err(failure(Exit::Usage, format!("there are several apps ({}); name one with --app", names.join(", "))))
            }
        }
    }

    /// The service that is meant, after its app.
    pub(super) async fn service(&self, arg: &ServiceArg) -> anyhow::Result<(String, String)> {
        let app = self.app(&arg.app).await?;
        if let Some(service) = &arg.service {
            return Ok((app, service.clone()));
        }
        let services = self.client.services(&app).await?.view;
        let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        match names.as_slice() {
            [] => bail!("{app} has no services; `narvana service create` or `narvana deploy . --app {app}` makes one"),
            [only] => Ok((app, (*only).to_owned())),
            _ => {
                let message = format!("{app} has several services ({}); name one with --service", names.join(", "));
                Err(failure(Exit::Usage, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        let context = Context { api: vec!["http://a:1".into()], token: Some("t".into()), ..Context::default() };
        let mut contexts = Contexts { current: Some("here".into()), ..Contexts::default() };
        contexts.contexts.insert("here".into(), context);
        contexts
    }

    fn has_token(global: &Global) -> bool {
        options(global, &contexts()).expect("options").token.is_some()
    }

    #[test]
    fn a_token_goes_to_its_own_cluster_only() {
        assert!(has_token(&Global::default()));
        assert!(has_token(&Global { api: vec!["http://a:1/".into()], ..Global::default() }));
        assert!(!has_token(&Global { api: vec!["http://b:1".into()], ..Global::default() }));
        assert!(!has_token(&Global { api: vec!["http://a:1".into(), "http://b:1".into()], ..Global::default() }));
        let own = Global { api: vec!["http://b:1".into()], token: Some("u".into()), ..Global::default() };
        assert!(has_token(&own));
    }

    #[test]
    fn addresses_come_from_the_flag_then_the_context_then_the_default() {
        assert_eq!(options(&Global::default(), &contexts()).expect("options").addresses, ["http://a:1"]);
        assert_eq!(options(&Global::default(), &Contexts::default()).expect("options").addresses, [DEFAULT_API]);
        let empty = Global { context: Some(String::new()), api: vec![String::new()], ..Global::default() };
        assert_eq!(options(&empty, &contexts()).expect("options").addresses, ["http://a:1"]);
        let global = Global { context: Some("nowhere".into()), ..Global::default() };
        assert!(options(&global, &contexts()).is_err());
    }
}
