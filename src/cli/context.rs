//! Contexts: which cluster the command line talks to, and as whom.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::environment;
use super::outcome::{Exit, failure};
use super::output::{Output, Table};
use crate::client::view::Cluster;
use crate::cluster::fingerprints;
use crate::model::peer_address;

/// Name of the first context.
const DEFAULT: &str = "default";

/// Commands about contexts.
#[derive(Debug, Subcommand)]
pub(super) enum ContextCommand {
    /// List contexts; the current one is marked
    Ls,
    /// Use a context from now on
    #[command(after_help = "Example:\n  narvana context use production")]
    Use {
        /// Its name
        name: String,
    },
    /// Forget a context with its token
    Rm {
        /// Its name
        name: String,
    },
}

/// All contexts of a user, as they are in the file.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Contexts {
    /// The one that is used.
    pub(super) current: Option<String>,
    /// By name.
    pub(super) contexts: BTreeMap<String, Context>,
}

/// One cluster and one log-in there.
#[derive(Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Context {
    /// Addresses of nodes, as the user gave them.
    pub(super) api: Vec<String>,
    /// Addresses of all nodes, as the cluster gave them: asked when those above do not answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) nodes: Vec<String>,
    /// The cluster's authority, PEM, by which those are recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) authority: Option<String>,
    /// Whose log-in it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) email: Option<String>,
    /// Proves the log-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    /// File with the cluster's certificate authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca_cert: Option<PathBuf>,
}

impl Context {
    /// All addresses, those of the user first.
    pub(super) fn addresses(&self) -> Vec<String> {
        let learnt = self.nodes.iter().filter(|address| !is_one_of(address, &self.api));
        self.api.iter().chain(learnt).cloned().collect()
    }

    /// Whether an address is one of this cluster.
    pub(super) fn knows(&self, address: &str) -> bool {
        is_one_of(address, &self.api) || is_one_of(address, &self.nodes)
    }

    /// Of the authority's certificates, as `ca show` has them: two while it is rotated.
    fn fingerprints(&self) -> Vec<String> {
        self.authority.as_deref().map(fingerprints).unwrap_or_default()
    }

    /// Takes over where the nodes are, from an answer that came from this address. Says whether that is new.
    ///
    /// The token will be shown there, so that it has to be certain who answers: on this machine, or under the cluster's
    /// authority, of which nobody else could have told.
    pub(super) fn learn(&mut self, from: &str, cluster: &Cluster) -> bool {
        let (local, secret) = (is_local(from), from.starts_with("https://"));
        if !local && !secret {
            return false;
        }
        let authority = Some(cluster.authority.clone()).filter(|authority| !authority.is_empty());
        let nodes = cluster.nodes.iter().filter(|node| node.api_port != 0 && !node.address.is_empty());
        let nodes = nodes.filter_map(|node| {
            let place = peer_address(&node.address, node.api_port);
            match is_local(&format!("http://{place}")) {
                // The loopback address of a machine means nothing on another one.
                true => local.then(|| format!("http://{place}")),
                false => authority.as_ref().map(|_| format!("https://{place}")),
            }
        });
        let mut nodes: Vec<String> = nodes.filter(|address| !is_one_of(address, &self.api)).collect();
        nodes.sort();
        let known = (std::mem::replace(&mut self.nodes, nodes), std::mem::replace(&mut self.authority, authority));
        known != (self.nodes.clone(), self.authority.clone())
    }
}

fn is_one_of(address: &str, known: &[String]) -> bool {
    known.iter().any(|known| known.trim_end_matches('/') == address.trim_end_matches('/'))
}

/// Whether an address is on this machine alone.
fn is_local(address: &str) -> bool {
    let Some(authority) = address.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default()) else {
        return false;
    };
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback())
}

impl Contexts {
    /// Reads the user's file; no file is no contexts.
    pub(super) fn load() -> anyhow::Result<Self> {
        match path() {
            Some(path) => Self::load_from(&path),
            None => Ok(Self::default()),
        }
    }

    fn load_from(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        toml::from_str(&text)
            .with_context(|| format!("{} is not valid; repair or remove it, then log in again", path.display()))
    }

    /// Writes the user's file. Nobody else may read it, and it is never half written.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let Some(path) = path() else {
            bail!("there is no home directory to keep the log-in in; set XDG_CONFIG_HOME, or use NARVANA_TOKEN");
        };
        self.save_to(&path).with_context(|| format!("cannot write {}", path.display()))
    }

    fn save_to(&self, path: &Path) -> anyhow::Result<()> {
        let dir = path.parent().context("it has no folder")?;
        std::fs::create_dir_all(dir)?;
        // Temporary files are made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(toml::to_string(self)?.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// The name to use: what the user said, else the current one, else the first name of all.
    pub(super) fn name(&self, wanted: Option<&str>) -> String {
        wanted.or(self.current.as_deref()).unwrap_or(DEFAULT).to_owned()
    }

    /// Where a log-in at `api` belongs when the user names no context: the current one if it is that cluster's or
    /// nobody's, else one named after the host. A log-in elsewhere must not overwrite the current one.
    pub(super) fn name_for(&self, wanted: Option<&str>, api: &[String]) -> String {
        let name = self.name(wanted);
        let fits = |context: &Context| context.api.is_empty() || api.iter().any(|address| context.knows(address));
        if wanted.is_some() || self.contexts.get(&name).is_none_or(fits) {
            return name;
        }
        let host = api.first().map_or(DEFAULT, |address| address.split("://").last().unwrap_or(DEFAULT));
        host.trim_end_matches('/').to_owned()
    }
}

fn path() -> Option<PathBuf> {
    environment::config_dir().map(|dir| dir.join("contexts.toml"))
}

/// Runs a command about contexts.
pub(super) fn run(command: ContextCommand, output: &Output) -> anyhow::Result<()> {
    let mut contexts = Contexts::load()?;
    let missing =
        |name: &str| failure(Exit::NotFound, format!("there is no context {name:?}; `narvana context ls` lists them"));
    match command {
        ContextCommand::Ls => list(&contexts, output),
        ContextCommand::Use { name } => {
            if !contexts.contexts.contains_key(&name) {
                return Err(missing(&name));
            }
            contexts.current = Some(name.clone());
            contexts.save()?;
            output.done(&json!({ "current": name }), &format!("context {name} is used from now on"))
        }
        ContextCommand::Rm { name } => {
            if contexts.contexts.remove(&name).is_none() {
                return Err(missing(&name));
            }
            contexts.current.take_if(|current| *current == name);
            contexts.save()?;
            output.done(&json!({ "removed": name }), &format!("context {name} is forgotten"))
        }
    }
}

fn list(contexts: &Contexts, output: &Output) -> anyhow::Result<()> {
    if contexts.contexts.is_empty() && !output.for_programs() {
        output.note("there are no contexts; `narvana login` makes one");
        return Ok(());
    }
    let (data, table) = shown(contexts);
    output.show_as(&data, || table)
}

/// The contexts for programs and for people. No token, neither here nor there.
fn shown(contexts: &Contexts) -> (Value, Table) {
    let current = contexts.name(None);
    let mut data = Vec::new();
    let mut table = Table::new(["CURRENT", "NAME", "API", "USER", "+NODES", "+CA", "+AUTHORITY (SHA-256)"]);
    for (name, context) in &contexts.contexts {
        let (is_current, authority) = (*name == current, context.fingerprints());
        data.push(json!({
            "name": name, "current": is_current, "api": context.api, "nodes": context.nodes, "email": context.email,
            "ca_cert": context.ca_cert, "authority": authority,
        }));
        table.row([
            if is_current { "*" } else { "" }.to_owned(),
            name.clone(),
            context.api.join(","),
            context.email.clone().unwrap_or_default(),
            context.nodes.join(","),
            context.ca_cert.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            authority.join(","),
        ]);
    }
    (data.into(), table)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock;
    use crate::cluster::Authority;
    use crate::model::ClusterId;

    #[test]
    fn the_file_is_kept_for_its_user_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("narvana/contexts.toml");
        assert!(Contexts::load_from(&path).expect("no file is no contexts").contexts.is_empty());
        let context = Context { api: vec!["http://a:1".into()], token: Some("t".into()), ..Context::default() };
        let mut contexts = Contexts { current: Some("x".into()), ..Contexts::default() };
        contexts.contexts.insert("x".into(), context.clone());
        contexts.save_to(&path).expect("saved");
        contexts.save_to(&path).expect("saved again");
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(Contexts::load_from(&path).expect("read").contexts["x"] == context);
        std::fs::write(&path, "current = [").expect("written");
        let error = Contexts::load_from(&path).err().expect("refused");
        assert!(error.to_string().contains("is not valid"), "{error}");
    }

    fn cluster() -> Cluster {
        let node = |address: &str, port: u16| serde_json::json!({"address": address, "api_port": port});
        let nodes = [node("127.0.0.1", 1), node("10.0.0.2", 8080), node("2001:db8::3", 8080), node("127.0.0.1", 2)];
        serde_json::from_value(serde_json::json!({"authority": "PEM", "nodes": nodes})).expect("valid")
    }

    #[test]
    fn addresses_are_learnt_where_it_is_certain_who_answers() {
        let mut context = Context { api: vec!["http://127.0.0.1:1/".into()], ..Context::default() };
        assert!(context.learn("http://127.0.0.1:1", &cluster()));
        assert!(!context.learn("http://127.0.0.1:1", &cluster()), "nothing new");
        let others = ["http://127.0.0.1:2", "https://10.0.0.2:8080", "https://[2001:db8::3]:8080"];
        assert_eq!(context.nodes, others);
        assert_eq!(context.addresses(), ["http://127.0.0.1:1/", others[0], others[1], others[2]]);
        assert!(context.knows("https://10.0.0.2:8080/") && !context.knows("http://10.0.0.2:8080"));

        let far = "https://n1.example.org:8080".to_owned();
        let mut context = Context { api: vec![far.clone()], ..Context::default() };
        assert!(context.learn(&far, &cluster()));
        assert_eq!(context.nodes, others[1..], "loopback of another machine is not ours");
        let mut context = Context::default();
        assert!(!context.learn("http://10.0.0.2:8080", &cluster()), "anybody could have answered");
        let without = Cluster { authority: String::new(), ..cluster() };
        assert!(!context.learn(&far, &without), "nobody could be recognised");
    }

    #[test]
    fn the_authority_is_shown_by_its_fingerprint_and_the_token_never() {
        let context = Context { token: Some("t0ken".into()), ..Context::default() };
        assert_eq!(context.fingerprints(), [""; 0], "it was not learnt yet");
        let made = Authority::new(ClusterId(uuid::Uuid::from_u128(1)), clock::now()).expect("an authority");
        let mut contexts = Contexts::default();
        contexts.contexts.insert("x".into(), Context { authority: Some(made.certificate.clone()), ..context });
        let (data, table) = shown(&contexts);
        let own = &fingerprints(&made.certificate)[0];
        assert_eq!(data[0]["authority"], json!([own]));
        let wide = table.render(true, false);
        assert!(wide.contains(own.as_str()) && !table.render(false, false).contains(own.as_str()), "{wide}");
        assert!(!wide.contains("t0ken") && !data.to_string().contains("t0ken"));
    }

    #[test]
    fn a_log_in_elsewhere_does_not_overwrite_the_current_context() {
        let mut contexts = Contexts::default();
        let here = ["http://127.0.0.1:8080".to_owned()];
        assert_eq!(contexts.name_for(None, &here), "default");
        contexts.contexts.insert("default".into(), Context { api: here.to_vec(), ..Context::default() });
        assert_eq!(contexts.name_for(None, &here), "default");
        assert_eq!(contexts.name_for(None, &["https://n.example.org/".to_owned()]), "n.example.org");
        assert_eq!(contexts.name_for(Some("mine"), &here), "mine");
    }
}
