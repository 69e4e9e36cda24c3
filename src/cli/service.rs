//! Services.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::follow;
use super::nodes::plain;
use super::outcome::{Exit, failure};
use super::output::{Table, age, time};
use super::session::{AppArg, Session};
use super::value::{Pair, PortArg, VolumeArg, seconds};
use super::wait::WaitArgs;
use crate::client::Error;
use crate::client::view::{Deployment, HealthCheck, Service, Volume};

/// Commands about services.
#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// List the services of an app
    Ls {
        #[command(flatten)]
        app: AppArg,
    },
    /// Make a service; `narvana deploy` then brings it up
    #[command(after_help = "Examples:
  narvana service create web --app shop --git github.com/acme/shop --port 8080
  narvana service create cache --app shop --image docker.io/library/redis:7.2 --port 6379
  narvana service create worker --app shop --file worker.yaml")]
    Create(Box<CreateArgs>),
    /// Show a service
    Show {
        /// Its name
        service: String,
        #[command(flatten)]
        app: AppArg,
    },
    /// Change a service; takes effect with the next deployment, but for --replicas, which take effect at once
    #[command(
        after_help = "Example:\n  narvana service update web --app shop --memory 1Gi && narvana deploy --app shop --service web"
    )]
    Update(Box<UpdateArgs>),
    /// Delete a service and its instances
    Delete {
        /// Its name
        service: String,
        #[command(flatten)]
        app: AppArg,
    },
    /// Start a service that was stopped
    Start(ActArgs),
    /// Stop a service until it is started
    Stop(ActArgs),
    /// Replace the instances of a service by new ones, without a pause
    Restart(ActArgs),
}

/// A service to do something with.
#[derive(Args, Debug)]
pub(super) struct ActArgs {
    /// Its name
    pub(super) service: String,
    #[command(flatten)]
    pub(super) app: AppArg,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// A new service.
#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Its name: lower-case letters, digits and '-'
    pub(super) name: String,
    #[command(flatten)]
    pub(super) app: AppArg,
    #[command(flatten)]
    pub(super) spec: SpecArgs,
    /// Environment variable; may be given more than once
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(super) env: Vec<Pair>,
}

/// A change of a service.
#[derive(Args, Debug)]
pub(super) struct UpdateArgs {
    /// Its name
    pub(super) name: String,
    #[command(flatten)]
    pub(super) app: AppArg,
    #[command(flatten)]
    pub(super) spec: SpecArgs,
}

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
    /// How to build [default: chosen by the node]
    #[arg(long, value_name = "STRATEGY")]
    pub(super) strategy: Option<String>,
    /// Path of the Dockerfile in the build's folder
    #[arg(long, value_name = "PATH")]
    pub(super) dockerfile: Option<String>,
    /// Folder of the source to build
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<String>,
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
const FLAGS: [(&str, &str); 22] = [
    ("source_type", "--git, --image or --upload"),
    ("git_repo", "--git"),
    ("git_ref", "--ref"),
    ("image", "--image"),
    ("build_strategy", "--strategy"),
    ("build_config.dockerfile", "--dockerfile"),
    ("build_config.root_directory", "--root"),
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
    fn json(&self) -> anyhow::Result<Map<String, Value>> {
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
fn merge<const N: usize>(spec: &mut Map<String, Value>, name: &str, fields: [(&str, Option<Value>); N]) {
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

/// Runs a command about services.
pub(super) async fn run(session: &Session, command: ServiceCommand) -> anyhow::Result<()> {
    let (client, output) = (&session.client, &session.output);
    match command {
        ServiceCommand::Ls { app } => {
            let app = session.app(&app).await?;
            let services = client.services(&app).await?;
            let none = format!("{app} has no services; `narvana service create --app {app}` makes one");
            output.show_list(&services, &none, list)
        }
        ServiceCommand::Create(args) => {
            let app = session.app(&args.app).await?;
            let mut spec = args.spec.json()?;
            spec.insert("name".to_owned(), args.name.into());
            merge_env(&mut spec, &args.env);
            output.show(&client.create_service(&app, &spec.into()).await.map_err(in_flags)?, fields)
        }
        ServiceCommand::Show { service, app } => {
            let app = session.app(&app).await?;
            output.show(&client.service(&app, &service).await?, fields)
        }
        ServiceCommand::Update(args) => {
            let change = args.spec.json()?;
            if change.is_empty() {
                return Err(failure(Exit::Usage, "nothing is given to change; see `narvana service update --help`"));
            }
            let app = session.app(&args.app).await?;
            output.show(&client.update_service(&app, &args.name, &change.into()).await.map_err(in_flags)?, fields)
        }
        ServiceCommand::Delete { service, app } => {
            let app = session.app(&app).await?;
            let before = client.service(&app, &service).await?.json;
            let answer = client.delete_service(&app, &service).await?;
            let data = if answer.json == Value::Null { json!({ "deleted": service }) } else { answer.json };
            output.done(&data, &format!("service {service} of {app} is deleted{}", kept_volumes(&[before])))
        }
        ServiceCommand::Stop(args) => {
            let app = session.app(&args.app).await?;
            let answer = client.stop_service(&app, &args.service).await?;
            output.done(&answer.json, &format!("service {} of {app} is stopping", args.service))
        }
        ServiceCommand::Start(args) => {
            let app = session.app(&args.app).await?;
            follow::finish(session, &client.start_service(&app, &args.service).await?, &args.wait).await
        }
        ServiceCommand::Restart(args) => {
            let app = session.app(&args.app).await?;
            follow::finish(session, &client.restart_service(&app, &args.service).await?, &args.wait).await
        }
    }
}

fn merge_env(spec: &mut Map<String, Value>, env: &[Pair]) {
    for pair in env {
        let variables = spec.entry("env_vars").or_insert_with(|| json!({}));
        if let Some(variables) = variables.as_object_mut() {
            variables.insert(pair.key.clone(), pair.value.clone().into());
        }
    }
}

fn list(services: &[Service]) -> Table {
    let mut table = Table::new(["NAME", "STATUS", "REPLICAS", "SOURCE", "URL", "+AGE", "+CPU", "+MEMORY", "+ID"]);
    for service in services {
        table.row([
            service.name.clone(),
            service.status.clone(),
            service.replicas.to_string(),
            source(service),
            service.url.clone(),
            age(service.created_at),
            service.resources.cpu.clone(),
            service.resources.memory.clone(),
            service.id.to_string(),
        ]);
    }
    table
}

fn source(service: &Service) -> String {
    let from = [&service.git_repo, &service.image, &service.flake_uri].into_iter().find(|from| !from.is_empty());
    match from {
        Some(from) if service.git_ref.is_empty() => from.clone(),
        Some(from) => format!("{from}@{}", service.git_ref),
        None => service.source_type.clone(),
    }
}

fn health_check(check: &HealthCheck) -> String {
    let port = check.port.map(|port| format!(" on port {port}")).unwrap_or_default();
    let what = match check.r#type.as_str() {
        "http" => format!("GET {}{port}", check.path),
        "command" => words(&check.command),
        other => format!("{other}{port}"),
    };
    let HealthCheck { interval_seconds, timeout_seconds, retries, .. } = check;
    format!("{what}, every {interval_seconds} s, {timeout_seconds} s at most, unhealthy after {retries} failures")
}

fn volume(volume: &Volume) -> String {
    let size = if volume.size.is_empty() { String::new() } else { format!(" ({})", volume.size) };
    format!("{} at {}{size}", volume.name, volume.path)
}

/// A command: its words, those in quotes that would not be seen as one.
fn words(command: &[String]) -> String {
    let one = |word: &String| word.is_empty() || word.contains(|c: char| c.is_whitespace() || c == '"');
    let shown = command.iter().map(|word| if one(word) { format!("{word:?}") } else { word.clone() });
    shown.collect::<Vec<_>>().join(" ")
}

fn fields(service: &Service) -> Table {
    let ports: Vec<String> =
        service.ports.iter().map(|port| format!("{}/{}", port.container_port, port.protocol)).collect();
    let variables: Vec<&str> = service.env_vars.keys().map(String::as_str).collect();
    Table::of_fields([
        ("name", service.name.clone()),
        ("status", service.status.clone()),
        ("url", service.url.clone()),
        ("for its app", service.internal_host.clone()),
        ("source", source(service)),
        ("strategy", if service.source_type == "image" { String::new() } else { service.build_strategy.clone() }),
        ("folder", service.build_config.root_directory.clone()),
        ("dockerfile", service.build_config.dockerfile.clone()),
        ("command", words(&service.command)),
        ("replicas", service.replicas.to_string()),
        ("exclusive", if service.exclusive { "yes, it never runs twice".to_owned() } else { String::new() }),
        ("ports", ports.join(", ")),
        ("health check", service.health_check.as_ref().map_or_else(|| "none".to_owned(), health_check)),
        ("cpu", service.resources.cpu.clone()),
        ("memory", service.resources.memory.clone()),
        ("volumes", service.volumes.iter().map(volume).collect::<Vec<_>>().join(", ")),
        ("node labels", service.constraints.join(", ")),
        ("depends on", service.depends_on.join(", ")),
        // Names only: values may be secrets, and `env ls` shows them to whoever asks for them.
        ("environment", variables.join(", ")),
        ("id", service.id.to_string()),
        ("created", time(service.created_at)),
    ])
}

/// A name for a deployment that people know: `service v3`.
pub(super) fn title(deployment: &Deployment) -> String {
    format!("{} v{}", deployment.service_name, deployment.version)
}

/// What of services stays when they are deleted, and how to remove it; nothing when they have no volumes.
pub(super) fn kept_volumes(services: &[Value]) -> String {
    let mut names = Vec::new();
    for service in services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            if let (Some(id), Some(name)) = (service["id"].as_str(), volume["name"].as_str()) {
                names.push(format!("narvana-{id}-{name}"));
            }
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let names = names.join(" ");
    format!(
        "; its data stays on its node, and nothing uses it any more; to remove it too, run there: podman volume rm \
         {names} (or docker volume rm)"
    )
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
    fn what_a_service_is_can_be_read() {
        let service: Service = serde_json::from_value(json!({
            "name": "web", "source_type": "image", "image": "nginx:1.27", "build_strategy": "dockerfile", "replicas": 1,
            "health_check": {"type": "http", "path": "/up", "port": 80, "interval_seconds": 5, "timeout_seconds": 3, "retries": 2},
            "volumes": [{"name": "data", "path": "/data", "size": "1Gi"}, {"name": "tmp", "path": "/tmp", "size": null}],
            "constraints": ["disk=ssd", "zone=b"], "command": ["sh", "-c", "exec nginx"], "exclusive": true,
        }))
        .expect("a service");
        let shown = fields(&service).render(false, false);
        for line in [
            "command:       sh -c \"exec nginx\"",
            "exclusive:     yes, it never runs twice",
            "health check:  GET /up on port 80, every 5 s, 3 s at most, unhealthy after 2 failures",
            "volumes:       data at /data (1Gi), tmp at /tmp",
            "node labels:   disk=ssd, zone=b",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line:?} is missing: {shown}");
        }
        assert!(!shown.contains("strategy"), "nothing is built: {shown}");
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
