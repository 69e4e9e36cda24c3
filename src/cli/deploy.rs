//! `deploy`: from a folder, or from what a service says, to an address.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::follow;
use super::outcome::{Exit, failure};
use super::screen::byte_bar;
use super::service_spec::in_flags;
use super::session::Session;
use super::value::{Pair, PortArg, name_like};
use super::wait::WaitArgs;
use crate::build::archive::{Compression, pack, what_is_packed};
use crate::build::tree::Limits;
use crate::build::{STRATEGIES, detect_in};
use crate::client::view::Service;
use crate::client::{Error, Progress};
use crate::model::{BuildStrategy, check_app_name, check_env, check_service_name};

/// Name of the file that says how to build, and to which ports a program listens.
const DOCKERFILE: &str = "Dockerfile";
/// The file of a folder that Nix builds.
const FLAKE: &str = "flake.nix";

/// What to deploy.
#[derive(Args, Debug)]
pub(super) struct DeployArgs {
    /// Folder to upload and deploy; without it, services are deployed from their own source
    pub(super) path: Option<PathBuf>,
    /// App, by name or id; of a folder, it is made when it does not exist [default: the folder's name]
    #[arg(short, long, env = "NARVANA_APP")]
    pub(super) app: Option<String>,
    /// Service, by name; of a folder, it is made when it does not exist [default: the folder's name; without one, all]
    #[arg(short, long, env = "NARVANA_SERVICE")]
    pub(super) service: Option<String>,
    /// Branch, tag or commit to deploy instead of the one the service names
    #[arg(long = "ref", value_name = "REF", conflicts_with = "path")]
    pub(super) git_ref: Option<String>,
    /// Port the program listens on, when the service is made [default: those that the Dockerfile exposes, else 8080]
    #[arg(short, long, value_name = "PORT[/udp]", requires = "path")]
    pub(super) port: Vec<PortArg>,
    /// Environment variable, when the service is made; may be given more than once
    #[arg(short, long, value_name = "KEY=VALUE", requires = "path")]
    pub(super) env: Vec<Pair>,
    /// Build it, whatever was built before
    #[arg(long)]
    pub(super) no_cache: bool,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

impl DeployArgs {
    /// What is asked of a node. Fields that nobody wants something else of are left out, so that an older one understands it.
    fn request(&self) -> Value {
        let mut request = Map::new();
        if let Some(reference) = &self.git_ref {
            request.insert("git_ref".to_owned(), json!(reference));
        }
        if self.no_cache {
            request.insert("no_cache".to_owned(), json!(true));
        }
        Value::Object(request)
    }
}

/// What a deployment of a folder is at: whoever interrupts it is told what is there.
#[derive(Clone, Copy)]
enum Step {
    Packing,
    Making,
    Uploading,
    Starting,
}

/// Deploys.
pub(super) async fn run(session: &Session, args: DeployArgs) -> anyhow::Result<()> {
    match &args.path {
        Some(path) => deploy_folder(session, &args, path).await,
        None => deploy_declared(session, &args).await,
    }
}

async fn deploy_declared(session: &Session, args: &DeployArgs) -> anyhow::Result<()> {
    let Some(app) = &args.app else {
        let message =
            "what to deploy is not given; name a folder (`narvana deploy .`) or an app (`narvana deploy --app APP`)";
        return Err(failure(Exit::Usage, message));
    };
    let request = args.request();
    if let Some(service) = &args.service {
        let begun = session.client.deploy_service(app, service, &request).await?;
        return follow::finish(session, &begun, &args.wait).await;
    }
    let begun = session.client.deploy_app(app, &request).await?;
    if args.wait.no_wait {
        let deployments = begun.view.into_vec();
        return session.output.show_as(&begun.json, || super::deployment::list(&deployments));
    }
    // In the order of their dependencies: each one waits for those before it anyway.
    for deployment in begun.view.into_vec() {
        let begun = session.client.deployment(&deployment.id.0).await?;
        follow::finish(session, &begun, &args.wait).await?;
    }
    Ok(())
}

async fn deploy_folder(session: &Session, args: &DeployArgs, path: &Path) -> anyhow::Result<()> {
    let folder = path.canonicalize().with_context(|| format!("cannot open the folder {}", path.display()))?;
    if !folder.is_dir() {
        let message = format!("{} is not a folder; name the folder with the source", path.display());
        return Err(failure(Exit::Usage, message));
    }
    let from_folder = || {
        let name = folder.file_name().and_then(|name| name_like(&name.to_string_lossy()));
        name.ok_or_else(|| failure(Exit::Usage, "the folder's name makes no name for an app; give --app and --service"))
    };
    let app_name = args.app.clone().map_or_else(from_folder, Ok)?;
    let service_name = args.service.clone().map_or_else(from_folder, Ok)?;
    let step = Cell::new(Step::Packing);
    let begin = async {
        // What is wrong with the folder is found before anything is made.
        let place = look(session, args, &folder, (&app_name, &service_name)).await?;
        let archive = pack_folder(session, &folder).await?;
        step.set(Step::Making);
        let app = make(session, place, (&app_name, &service_name)).await?;
        step.set(Step::Uploading);
        upload(session, &app, &service_name, archive.path()).await?;
        step.set(Step::Starting);
        anyhow::Ok(session.client.deploy_service(&app, &service_name, &args.request()).await?)
    };
    let begun = tokio::select! {
        begun = Box::pin(begin) => begun?,
        _ = tokio::signal::ctrl_c() => return Err(interrupted(step.get(), &app_name, &service_name)),
    };
    follow::finish(session, &begun, &args.wait).await
}

/// What is there when a deployment of a folder is cut off in the middle.
fn interrupted(at: Step, app: &str, service: &str) -> anyhow::Error {
    let message = match at {
        Step::Packing => "interrupted while the folder was packed; nothing was sent".to_owned(),
        Step::Making => format!(
            "interrupted before the upload; app {app} and service {service} may have been made\n  \
             next: the same command goes on from there"
        ),
        Step::Uploading => format!(
            "interrupted in the middle of the upload; a part of a source is not kept, and what runs goes on running\n  \
             next: the same command uploads it again to service {service} of app {app}"
        ),
        Step::Starting => format!(
            "interrupted after the upload; the deployment may have begun\n  \
             next: `narvana deployment ls --app {app}` shows whether it has"
        ),
    };
    failure(Exit::Interrupted, message)
}

async fn pack_folder(session: &Session, folder: &Path) -> anyhow::Result<tempfile::NamedTempFile> {
    let started = format!("packing {}", folder.display());
    session.output.note(&started);
    // It stays here, so that it goes away when this is interrupted: the thread that writes may outlive the program's end.
    let archive = tempfile::NamedTempFile::new().context("cannot make a temporary file for the archive")?;
    let file = archive.reopen().context("cannot open the temporary file for the archive")?;
    let folder = folder.to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        pack(&folder, file, Compression::Zstd, &Limits::default())
            .with_context(|| format!("cannot pack {}", folder.display()))
    });
    packing.await.context("packing ended early")??;
    Ok(archive)
}

/// Where a folder is deployed to.
struct Place {
    /// Name of the app, when there is one.
    app: Option<String>,
    /// What the service is to be, when there is none.
    new_service: Option<Value>,
}

/// Finds out what is there, and whether the rest can be made and the folder be built: nothing is left behind by a refusal.
async fn look(session: &Session, args: &DeployArgs, folder: &Path, (app, name): (&str, &str)) -> anyhow::Result<Place> {
    let app = match session.client.app(app).await {
        Ok(answer) => Some(answer.view.name),
        Err(error) if error.is_not_found() => {
            check_app_name(app).map_err(|problem| failure(Exit::Usage, format!("--app: {problem}")))?;
            None
        }
        Err(error) => return Err(error.into()),
    };
    let service = match &app {
        None => None,
        Some(app) => match session.client.service(app, name).await {
            Ok(answer) => Some(answer.view),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        },
    };
    let new_service = match service {
        Some(service) => {
            takes_uploads(&service)?;
            check_is_built(&service, folder)?;
            None
        }
        None => Some(wanted_service(args, folder, name)?),
    };
    Ok(Place { app, new_service })
}

/// What a new service is to be.
fn wanted_service(args: &DeployArgs, folder: &Path, name: &str) -> anyhow::Result<Value> {
    check_service_name(name).map_err(|problem| failure(Exit::Usage, format!("--service: {problem}")))?;
    for Pair { key, value } in &args.env {
        check_env(key, value).map_err(|problem| failure(Exit::Usage, format!("--env: {problem}")))?;
    }
    let dockerfile = read_dockerfile(folder)?;
    let mut spec = new_service(name, &args.port, &args.env, dockerfile.as_deref());
    if dockerfile.is_none() {
        // Many repositories have a flake for their developers beside the Dockerfile that they are built by.
        let strategy = if folder.join(FLAKE).is_file() { BuildStrategy::Flake } else { found_strategy(folder)? };
        spec["build_strategy"] = strategy.as_str().into();
    }
    Ok(spec)
}

/// By what a folder is built that does not say so; which version of what, each build finds out anew.
fn found_strategy(folder: &Path) -> anyhow::Result<BuildStrategy> {
    let what = match what_is_packed(folder, &Limits::default()).map(|tree| detect_in(&tree, None)) {
        Ok(Ok(found)) if STRATEGIES.contains(&found.strategy) => return Ok(BuildStrategy::Auto),
        Ok(Ok(found)) => {
            format!("what is in it would be built by {}, which this version does not do yet", found.strategy)
        }
        Ok(Err(undetected)) => undetected.message,
        Err(error) => error.to_string(),
    };
    let folder = folder.display();
    let message = format!(
        "there is neither a {DOCKERFILE} nor a {FLAKE} in {folder}: {what}; nothing was made and nothing was sent\n  \
         next: add one, or name a folder that has one; `narvana detect {folder}` says more"
    );
    Err(failure(Exit::Failed, message))
}

/// Refuses a folder without the file by which its service is built.
fn check_is_built(service: &Service, folder: &Path) -> anyhow::Result<()> {
    let config = &service.build_config;
    let file = match service.build_strategy.as_str() {
        "dockerfile" if config.dockerfile.is_empty() => DOCKERFILE,
        "dockerfile" => &config.dockerfile,
        "flake" => FLAKE,
        _ => return Ok(()),
    };
    let path = Path::new(&config.root_directory).join(file);
    // What is left out of the upload is not there either.
    let packed = what_is_packed(folder, &Limits::default())?;
    if packed.entries().iter().any(|entry| entry.path == path) {
        return Ok(());
    }
    let name = &service.name;
    let message = format!(
        "service {name} is built by {}, which is not in {}, or is left out of the upload; nothing was sent\n  \
         next: add it, or say where it is: `narvana service update {name} --root DIR --dockerfile PATH`",
        path.display(),
        folder.display()
    );
    Err(failure(Exit::Failed, message))
}

/// Makes what is not there. Answers the app's name.
async fn make(session: &Session, place: Place, (app, name): (&str, &str)) -> anyhow::Result<String> {
    let app = match place.app {
        Some(app) => app,
        None => {
            let made = session.client.create_app(&json!({ "name": app })).await?.view;
            session.output.note(&format!("made app {}", made.name));
            made.name
        }
    };
    if let Some(spec) = place.new_service {
        let made = session.client.create_service(&app, &spec).await.map_err(in_flags)?.view;
        let ports: Vec<String> = made.ports.iter().map(|port| port.container_port.to_string()).collect();
        session.output.note(&format!("made service {name}, listening on {}", ports.join(", ")));
    }
    Ok(app)
}

fn takes_uploads(service: &Service) -> anyhow::Result<()> {
    if matches!(service.source_type.as_str(), "upload" | "") {
        return Ok(());
    }
    bail!(
        "{name} is made from {source}, not from uploads; `narvana deploy --app … --service {name}` deploys that, \
         --service with another name makes a service of this folder, and `narvana service update {name} --upload` changes it",
        name = service.name,
        source = service.source_type
    )
}

/// The Dockerfile of a folder, if there is one.
fn read_dockerfile(folder: &Path) -> anyhow::Result<Option<String>> {
    let path = folder.join(DOCKERFILE);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn new_service(name: &str, ports: &[PortArg], env: &[Pair], dockerfile: Option<&str>) -> Value {
    let mut spec = json!({ "name": name, "source_type": "upload" });
    let exposed = dockerfile.map(exposed_ports).unwrap_or_default();
    let ports = if ports.is_empty() { exposed.as_slice() } else { ports };
    if !ports.is_empty() {
        spec["ports"] = ports.iter().map(|port| port.json()).collect();
    }
    if dockerfile.is_some() {
        spec["build_strategy"] = "dockerfile".into();
    }
    if !env.is_empty() {
        let variables: Map<String, Value> =
            env.iter().map(|pair| (pair.key.clone(), pair.value.clone().into())).collect();
        spec["env_vars"] = variables.into();
    }
    spec
}

/// The ports that the last stage of a Dockerfile exposes, in its order. Those given by a variable are left out.
fn exposed_ports(dockerfile: &str) -> Vec<PortArg> {
    let mut ports: Vec<PortArg> = Vec::new();
    for line in dockerfile.replace("\\\r\n", " ").replace("\\\n", " ").lines() {
        let mut words = line.split_whitespace();
        match words.next().map(str::to_ascii_uppercase).as_deref() {
            Some("FROM") => ports.clear(),
            Some("EXPOSE") => {
                for port in words.filter_map(|word| word.parse().ok()) {
                    if !ports.contains(&port) {
                        ports.push(port);
                    }
                }
            }
            _ => {}
        }
    }
    ports
}

async fn upload(session: &Session, app: &str, service: &str, archive: &Path) -> anyhow::Result<()> {
    let length = std::fs::metadata(archive).map_err(|source| Error::Upload { path: archive.to_owned(), source })?.len();
    let bar = byte_bar(&session.output, "uploading", length);
    let progress: Progress = {
        let bar = bar.clone();
        Arc::new(move |sent| bar.set_position(sent))
    };
    let outcome = session.client.upload_source(app, service, archive, &progress).await;
    bar.finish_and_clear();
    let source = outcome?.view;
    session.output.note(&format!("uploaded {} (sha256 {})", indicatif::HumanBytes(length), source.sha256));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(texts: &[&str]) -> Vec<PortArg> {
        texts.iter().map(|text| text.parse().expect("a port")).collect()
    }

    #[test]
    fn ports_of_the_last_stage() {
        for (dockerfile, expected) in [
            ("FROM a\nEXPOSE 8080\n", &["8080"][..]),
            (
                "FROM a AS build\nEXPOSE 1\nFROM b\n  expose 80/tcp \\\n   443 53/udp\nEXPOSE 80\n",
                &["80", "443", "53/udp"],
            ),
            ("FROM a\nEXPOSE $PORT 90\n# EXPOSE 1\n", &["90"]),
            ("FROM a\r\nEXPOSE 80\r\n", &["80"]),
            ("FROM a\nRUN echo EXPOSE 80\n", &[]),
            ("", &[]),
        ] {
            assert_eq!(exposed_ports(dockerfile), ports(expected), "{dockerfile:?}");
        }
    }

    #[test]
    fn a_new_service_is_what_the_folder_says_unless_flags_say_otherwise() {
        let spec = new_service("web", &[], &[], Some("FROM a\nEXPOSE 80"));
        let expected = json!({
            "name": "web", "source_type": "upload", "build_strategy": "dockerfile",
            "ports": [{ "container_port": 80, "protocol": "tcp" }],
        });
        assert_eq!(spec, expected);
        let env = ["A=b".parse().expect("a pair")];
        let spec = new_service("web", &ports(&["90"]), &env, None);
        let expected = json!({
            "name": "web", "source_type": "upload", "env_vars": { "A": "b" },
            "ports": [{ "container_port": 90, "protocol": "tcp" }],
        });
        assert_eq!(spec, expected);
    }
}
