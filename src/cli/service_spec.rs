//! What a service is to be: flags and a file, as the API names what they set, and the names of the flags for what it refuses.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};

use super::nodes::plain;
use super::outcome::{Exit, failure};
use super::value::{Pair, PortArg, VolumeArg, seconds};
use crate::client::Error;
use crate::model::{DetailField, DetailKind};

/// What a service is. A list that is given replaces the one that was.
#[derive(Args, Debug, Default)]
pub(super) struct SpecArgs {
    /// Build from this git repository
    #[arg(long, value_name = "URL", conflicts_with_all = ["image", "upload"])]
    pub(super) git: Option<String>,
    /// Branch, tag or commit of the repository [default: its default branch]
    #[arg(long = "ref", value_name = "REF")]
    pub(super) git_ref: Option<String>,
    /// Run this image
    #[arg(long, conflicts_with = "upload")]
    pub(super) image: Option<String>,
    /// Build from a folder that `narvana deploy PATH` uploads
    #[arg(long)]
    pub(super) upload: bool,
    /// How to build: dockerfile, flake, auto-go, auto-node, auto-python, auto-rust, or auto for what is found in the source [default: dockerfile]
    #[arg(long, value_name = "STRATEGY")]
    pub(super) strategy: Option<String>,
    /// Path of the Dockerfile in the build's folder
    #[arg(long, value_name = "PATH")]
    pub(super) dockerfile: Option<String>,
    /// Folder of the source to build
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<String>,
    /// What to build over what is found in the source: entry_point, go_version, node_version, python_version, package_manager, output_directory, nixpkgs, cgo_enabled, ldflags, workspace_module, django_options.…, fastapi_options.…, nextjs_options.…, and with commas build_tags, extra_nix_packages, pre_build_commands, post_build_commands,
    /// build_command or start_command, or nothing for what is found; for the strategies auto and auto-…; may be given more than once
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(super) build: Vec<Pair>,
    /// Port it listens on, the one for HTTP first; may be given more than once
    #[arg(short, long, value_name = "PORT[/udp]")]
    pub(super) port: Vec<PortArg>,
    /// How many instances
    #[arg(long)]
    pub(super) replicas: Option<u32>,
    /// Cores of each instance, such as 0.5
    #[arg(long)]
    pub(super) cpu: Option<String>,
    /// Memory of each instance, such as 512Mi
    #[arg(long)]
    pub(super) memory: Option<String>,
    /// Healthy when a GET of this path answers with 200 to 399
    #[arg(long, value_name = "PATH", conflicts_with_all = ["health_tcp", "health_command"])]
    pub(super) health_path: Option<String>,
    /// Healthy when a connection is accepted
    #[arg(long, conflicts_with = "health_command")]
    pub(super) health_tcp: bool,
    /// Healthy when this command inside the container exits with 0; words are separated by spaces
    #[arg(long, value_name = "COMMAND")]
    pub(super) health_command: Option<String>,
    /// Port of the health check [default: the first port]
    #[arg(long, value_name = "PORT")]
    pub(super) health_port: Option<u16>,
    /// Time from one health check to the next, such as 10s
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(super) health_interval: Option<u64>,
    /// Longest time of one health check, such as 5s
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(super) health_timeout: Option<u64>,
    /// Failures in a row that make an instance unhealthy
    #[arg(long, value_name = "NUMBER")]
    pub(super) health_retries: Option<u32>,
    /// Service of the same app that must run before; may be given more than once
    #[arg(long, value_name = "SERVICE")]
    pub(super) depends_on: Vec<String>,
    /// Storage that outlives instances; may be given more than once. The size is a note for people: nothing enforces it
    #[arg(long, value_name = "NAME:PATH[:SIZE]")]
    pub(super) volume: Vec<VolumeArg>,
    /// Label that a node must have; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) constraint: Vec<String>,
    /// Never run it twice at the same time, also when a node is cut off; `--exclusive false` ends that
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub(super) exclusive: Option<bool>,
    /// Everything the API knows of a service, as JSON or YAML; `-` reads standard input. Flags win over it
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Command instead of the image's own
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

/// The flags above, by the names that the API gives to what they set: it refuses a field, and people typed a flag.
const FLAGS: [(&str, &str); 32] = [
    ("source_type", "--git, --image or --upload"),
    ("git_repo", "--git"),
    ("git_ref", "--ref"),
    ("image", "--image"),
    ("build_strategy", "--strategy"),
    ("build_config.dockerfile", "--dockerfile"),
    ("build_config.root_directory", "--root"),
    ("build_config.entry_point", "--build"),
    ("build_config.go_version", "--build"),
    ("build_config.node_version", "--build"),
    ("build_config.python_version", "--build"),
    ("build_config.package_manager", "--build"),
    ("build_config.output_directory", "--build"),
    ("build_config.nixpkgs", "--build"),
    ("build_config.build_tags", "--build"),
    ("build_config.build_command", "--build"),
    ("build_config.start_command", "--build"),
    ("ports", "--port"),
    ("replicas", "--replicas"),
    ("resources.cpu", "--cpu"),
    ("resources.memory", "--memory"),
    ("health_check.path", "--health-path"),
    ("health_check.port", "--health-port"),
    ("health_check.command", "--health-command"),
    ("health_check.interval_seconds", "--health-interval"),
    ("health_check.timeout_seconds", "--health-timeout"),
    ("health_check.retries", "--health-retries"),
    ("depends_on", "--depends-on"),
    ("volumes", "--volume"),
    ("constraints", "--constraint"),
    ("exclusive", "--exclusive"),
    ("env_vars", "--env"),
];

/// The flag of a field such as `ports[0].container_port`.
fn flag_of(field: &str) -> Option<&'static str> {
    let is_in =
        |name: &str| field.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    FLAGS.iter().find(|(name, _)| is_in(name)).map(|(_, flag)| *flag)
}

/// A refusal of what a service is to be, with the flags of what is wrong. The fields are named as well: a file has those.
pub(super) fn in_flags(error: Error) -> Error {
    let Error::Refused(mut refusal) = error else { return error };
    if refusal.code == "invalid_request" && refusal.details.keys().any(|field| flag_of(field).is_some()) {
        let mut message = "the service is not valid".to_owned();
        for (field, reason) in std::mem::take(&mut refusal.details) {
            let shown = flag_of(&field).map_or_else(|| field.clone(), |flag| format!("{flag} ({field})"));
            message.push_str(&format!("\n  {shown}: {}", plain(&reason)));
        }
        refusal.message = message;
    }
    Error::Refused(refusal)
}

impl SpecArgs {
    /// The fields that were given, as the API names them.
    pub(super) fn json(&self) -> anyhow::Result<Map<String, Value>> {
        let mut spec = match &self.file {
            Some(path) => read_spec(path)?,
            None => Map::new(),
        };
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                spec.insert(field.to_owned(), value);
            }
        };
        let source_type = match (&self.git, &self.image, self.upload) {
            (Some(_), _, _) => Some("git"),
            (_, Some(_), _) => Some("image"),
            (_, _, true) => Some("upload"),
            _ => None,
        };
        set("source_type", source_type.map(Value::from));
        set("git_repo", self.git.clone().map(Value::from));
        set("git_ref", self.git_ref.clone().map(Value::from));
        set("image", self.image.clone().map(Value::from));
        set("build_strategy", self.strategy.clone().map(Value::from));
        set("replicas", self.replicas.map(Value::from));
        set("exclusive", self.exclusive.map(Value::from));
        let list = |values: Vec<Value>| (!values.is_empty()).then_some(Value::Array(values));
        set("ports", list(self.port.iter().map(|port| port.json()).collect()));
        set("depends_on", list(self.depends_on.iter().cloned().map(Value::from).collect()));
        set("volumes", list(self.volume.iter().map(VolumeArg::json).collect()));
        set("constraints", list(self.constraint.iter().cloned().map(Value::from).collect()));
        set("command", list(self.command.iter().cloned().map(Value::from).collect()));
        set("health_check", self.health_check()?);
        let resources = [("cpu", self.cpu.clone()), ("memory", self.memory.clone())];
        merge(&mut spec, "resources", resources.map(|(field, value)| (field, value.map(Value::from))));
        let build = [("dockerfile", self.dockerfile.clone()), ("root_directory", self.root.clone())];
        merge(&mut spec, "build_config", build.map(|(field, value)| (field, value.map(Value::from))));
        let detail = |pair: &Pair| match DetailField::named(&pair.key) {
            // Nothing is what is found.
            _ if pair.value.is_empty() && pair.key != "build_command" => Value::Null,
            Some(field) => match field.kind {
                DetailKind::List => pair.value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect(),
                // What is none is refused by name.
                DetailKind::Flag | DetailKind::Count => {
                    serde_json::from_str(&pair.value).unwrap_or_else(|_| Value::from(pair.value.clone()))
                }
                DetailKind::Text => Value::from(pair.value.clone()),
            },
            None => Value::from(pair.value.clone()),
        };
        // One that is not known is refused by name.
        let (mut fields, mut groups) = (Vec::new(), BTreeMap::<&str, Map<String, Value>>::new());
        for pair in &self.build {
            match pair.key.split_once('.') {
                Some((group, name)) => drop(groups.entry(group).or_default().insert(name.to_owned(), detail(pair))),
                None => fields.push((pair.key.as_str(), Some(detail(pair)))),
            }
        }
        let groups = groups.into_iter().map(|(group, fields)| (group, Some(Value::Object(fields))));
        merge(&mut spec, "build_config", fields.into_iter().chain(groups));
        Ok(spec)
    }

    fn health_check(&self) -> anyhow::Result<Option<Value>> {
        let mut check = match (&self.health_path, self.health_tcp, &self.health_command) {
            (Some(path), _, _) => json!({ "type": "http", "path": path }),
            (_, true, _) => json!({ "type": "tcp" }),
            (_, _, Some(command)) => {
                json!({ "type": "command", "command": command.split_whitespace().collect::<Vec<_>>() })
            }
            _ if self.health_port.is_some()
                || self.health_interval.is_some()
                || self.health_timeout.is_some()
                || self.health_retries.is_some() =>
            {
                let message = "what to check is not given; add --health-path, --health-tcp or --health-command";
                return Err(failure(Exit::Usage, message));
            }
            _ => return Ok(None),
        };
        for (field, value) in [
            ("port", self.health_port.map(Value::from)),
            ("interval_seconds", self.health_interval.map(Value::from)),
            ("timeout_seconds", self.health_timeout.map(Value::from)),
            ("retries", self.health_retries.map(Value::from)),
        ] {
            if let Some(value) = value {
                check[field] = value;
            }
        }
        Ok(Some(check))
    }
}

/// Sets fields inside an object field, keeping what a file says of the others.
fn merge<'a>(spec: &mut Map<String, Value>, name: &str, fields: impl IntoIterator<Item = (&'a str, Option<Value>)>) {
    for (field, value) in fields {
        let Some(value) = value else { continue };
        let object = spec.entry(name).or_insert_with(|| json!({}));
        if let Some(object) = object.as_object_mut() {
            object.insert(field.to_owned(), value);
        }
    }
}

fn read_spec(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("cannot read the service from standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    // YAML holds JSON.
    serde_norway::from_str(&text)
        .with_context(|| format!("{} is not a service; it must be an object in JSON or YAML", path.display()))
}

/// Adds variables to a service.
pub(super) fn merge_env(spec: &mut Map<String, Value>, env: &[Pair]) {
    for pair in env {
        let variables = spec.entry("env_vars").or_insert_with(|| json!({}));
        if let Some(variables) = variables.as_object_mut() {
            variables.insert(pair.key.clone(), pair.value.clone().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::client::Refusal;

    #[test]
    fn only_what_is_given_is_sent() {
        assert!(SpecArgs::default().json().expect("a spec").is_empty());
        let args = SpecArgs {
            git: Some("github.com/o/r".into()),
            port: vec!["8080".parse().expect("a port")],
            memory: Some("1Gi".into()),
            health_path: Some("/healthz".into()),
            health_interval: Some(10),
            dockerfile: Some("docker/Dockerfile".into()),
            command: vec!["serve".into(), "--fast".into()],
            ..SpecArgs::default()
        };
        let expected = json!({
            "source_type": "git",
            "git_repo": "github.com/o/r",
            "ports": [{ "container_port": 8080, "protocol": "tcp" }],
            "resources": { "memory": "1Gi" },
            "build_config": { "dockerfile": "docker/Dockerfile" },
            "health_check": { "type": "http", "path": "/healthz", "interval_seconds": 10 },
            "command": ["serve", "--fast"],
        });
        assert_eq!(Value::from(args.json().expect("a spec")), expected);
        let incomplete = SpecArgs { health_port: Some(80), ..SpecArgs::default() };
        assert!(incomplete.json().is_err());
    }

    #[test]
    fn what_is_refused_has_the_names_of_the_flags() {
        let refusal = |details: Value| {
            let body = json!({"code": "invalid_request", "message": "the request is not valid: …", "details": details});
            let refusal: Refusal = serde_json::from_value(body).expect("a refusal");
            in_flags(Error::Refused(Box::new(refusal))).to_string()
        };
        assert_eq!(
            refusal(
                json!({"build_config.dockerfile": "must stay inside", "ports[1].container_port": "is 0", "name": "is taken"})
            ),
            "the service is not valid\n  --dockerfile (build_config.dockerfile): must stay inside\n  name: is taken\n  \
             --port (ports[1].container_port): is 0"
        );
        assert_eq!(refusal(json!({"replica": "is unknown"})), "the request is not valid: …\n  replica: is unknown");
        // A flag that is not there would be searched for.
        let create = crate::cli::Cli::command();
        let create = create.find_subcommand("service").and_then(|it| it.find_subcommand("create")).expect("a command");
        let known: Vec<String> =
            create.get_arguments().filter_map(|it| Some(format!("--{}", it.get_long()?))).collect();
        for word in FLAGS.iter().flat_map(|(_, flags)| flags.split([' ', ','])).filter(|word| word.starts_with("--")) {
            assert!(known.iter().any(|flag| flag == word), "{word}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_rest_of_it_stays() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "replicas: 2\nresources: {cpu: '1', memory: 1Gi}\n").expect("written");
        let args = SpecArgs {
            file: Some(file.path().to_owned()),
            replicas: Some(3),
            cpu: Some("2".into()),
            ..SpecArgs::default()
        };
        let expected = json!({ "replicas": 3, "resources": { "cpu": "2", "memory": "1Gi" } });
        assert_eq!(Value::from(args.json().expect("a spec")), expected);
    }
}
