//! Services.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::follow;
use super::outcome::{Exit, failure};
use super::output::{Table, age, time};
use super::service_spec::{SpecArgs, in_flags, merge_env};
use super::session::{AppArg, Session};
use super::value::Pair;
use super::wait::WaitArgs;
use crate::client::view::{BuildConfig, Deployment, HealthCheck, Service, Volume};

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

/// The API takes the details of a build as a whole: what no flag speaks of stays.
fn keep_rest(change: &mut Map<String, Value>, service: &Value) {
    let given = change.get("build_config").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut all = service["build_config"].as_object().cloned().unwrap_or_default();
    all.extend(given);
    change.insert("build_config".to_owned(), all.into());
}

/// What is said of the build over what is found in the source.
fn details(config: &BuildConfig) -> String {
    let list = |words: &[String]| (!words.is_empty()).then(|| words.join(","));
    let cgo = config.cgo_enabled.map(|is| is.to_string());
    let fields = [
        ("entry_point", &config.entry_point),
        ("build_command", &config.build_command),
        ("start_command", &config.start_command),
        ("go_version", &config.go_version),
        ("node_version", &config.node_version),
        ("python_version", &config.python_version),
        ("package_manager", &config.package_manager),
        ("output_directory", &config.output_directory),
        ("nixpkgs", &config.nixpkgs),
        ("build_tags", &list(&config.build_tags)),
        ("cgo_enabled", &cgo),
        ("ldflags", &config.ldflags),
        ("workspace_module", &config.workspace_module),
        ("pre_build_commands", &list(&config.pre_build_commands)),
        ("post_build_commands", &list(&config.post_build_commands)),
        ("extra_nix_packages", &list(&config.extra_nix_packages)),
    ];
    let said = fields.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
    let groups = [
        ("django_options", &config.django_options),
        ("fastapi_options", &config.fastapi_options),
        ("nextjs_options", &config.nextjs_options),
    ];
    let of_group = |(group, fields): (&str, &Value)| {
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fields = fields.as_object().into_iter().flatten();
        fields.map(|(name, value)| format!("{group}.{name}={}", shown(value))).collect::<Vec<_>>()
    };
    said.chain(groups.into_iter().flat_map(of_group)).collect::<Vec<_>>().join(", ")
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
            let mut change = args.spec.json()?;
            if change.is_empty() {
                return Err(failure(Exit::Usage, "nothing is given to change; see `narvana service update --help`"));
            }
            let app = session.app(&args.app).await?;
            if args.spec.file.is_none() && change.contains_key("build_config") {
                keep_rest(&mut change, &client.service(&app, &args.name).await?.json);
            }
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
        ("build", details(&service.build_config)),
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
    use super::*;

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
}
