//! Contexts: which cluster the command line talks to, and as whom.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::environment;
use super::outcome::{Exit, failure};
use super::output::{Output, Table};

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
    /// Addresses of nodes.
    pub(super) api: Vec<String>,
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
        let fits =
            |context: &Context| context.api.is_empty() || context.api.iter().any(|address| api.contains(address));
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
    let current = contexts.name(None);
    let rows = contexts.contexts.iter();
    // No token, neither here nor there.
    let data = rows.clone().map(|(name, context)| {
        json!({ "name": name, "current": *name == current, "api": context.api, "email": context.email, "ca_cert": context.ca_cert })
    });
    let data = data.collect::<Vec<_>>().into();
    if contexts.contexts.is_empty() && !output.for_programs() {
        output.note("there are no contexts; `narvana login` makes one");
        return Ok(());
    }
    output.show_as(&data, || {
        let mut table = Table::new(["CURRENT", "NAME", "API", "USER", "+CA"]);
        for (name, context) in rows {
            table.row([
                if *name == current { "*" } else { "" }.to_owned(),
                name.clone(),
                context.api.join(","),
                context.email.clone().unwrap_or_default(),
                context.ca_cert.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            ]);
        }
        table
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

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
