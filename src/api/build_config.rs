//! The details of a build as the API has them, and as they are kept: [`DETAILS`](crate::model::DETAILS) says which there are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{BuildConfig, Detail};

/// Details of a build.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = BuildConfig)]
pub(super) struct BuildConfigBody {
    /// Longest time it may take, in seconds.
    pub(super) build_timeout: Option<u32>,
    /// Folder of the source that is built; its root when absent.
    pub(super) root_directory: Option<String>,
    /// Path of the Dockerfile inside that folder.
    pub(super) dockerfile: Option<String>,
    /// Build arguments, or the environment of a build by Nix.
    pub(super) environment_vars: BTreeMap<String, String>,
    /// What is built, instead of what is found: a folder of Go, a program of Node.js, a file or function of Python, a binary of Rust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entry_point: Option<String>,
    /// Command that builds it, for Node.js (`npm run build` when there is such a script; empty for none) and Python.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) build_command: Option<String>,
    /// Command that runs it, for Node.js and Python.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_command: Option<String>,
    /// Version of Go, such as `1.24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) go_version: Option<String>,
    /// Version of Node.js, such as `22`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node_version: Option<String>,
    /// Version of Python, such as `3.13`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) python_version: Option<String>,
    /// What installs the packages of Node.js: `npm`, `pnpm` or `yarn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) package_manager: Option<String>,
    /// Folder of the site that a build for Node.js makes: what is served is its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output_directory: Option<String>,
    /// The nixpkgs that tools are taken from, as a reference to a flake. It is built on nodes with `--trust-flakes` then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nixpkgs: Option<String>,
    /// Build tags of Go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) build_tags: Option<Vec<String>>,
    /// Whether a program of Go is built with C; as its source needs it when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cgo_enabled: Option<bool>,
    /// What the linker of Go is told besides `-s -w`, such as `-X main.version=1.2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ldflags: Option<String>,
    /// Folder of the module of a workspace of Go that `entry_point` is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workspace_module: Option<String>,
    /// Lines of shell that run before a build by Nix, in the folder that is built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pre_build_commands: Option<Vec<String>>,
    /// The same, after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) post_build_commands: Option<Vec<String>>,
    /// Packages of nixpkgs whose programs are there while it is built, and where Node.js or Python run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extra_nix_packages: Option<Vec<String>>,
    /// How Django is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) django_options: Option<DjangoBody>,
    /// How FastAPI is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fastapi_options: Option<FastapiBody>,
    /// What Next.js makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nextjs_options: Option<NextjsBody>,
}

/// How Django is run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = DjangoOptions)]
pub(super) struct DjangoBody {
    /// Module of its settings (`DJANGO_SETTINGS_MODULE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    settings_module: Option<String>,
    /// Whether `manage.py collectstatic` runs when it is built.
    #[serde(skip_serializing_if = "Option::is_none")]
    collect_static: Option<bool>,
    /// Whether `manage.py migrate` runs before it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    migrations: Option<bool>,
}

/// How FastAPI is run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = FastapiOptions)]
pub(super) struct FastapiBody {
    /// The application: `module:name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    app_module: Option<String>,
    /// Processes that serve it.
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<u8>,
}

/// What Next.js makes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = NextjsOptions)]
pub(super) struct NextjsBody {
    /// `standalone`, `export` or `default`: what its configuration has to make it, else the build fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    output_mode: Option<String>,
}

impl From<BuildConfigBody> for BuildConfig {
    fn from(body: BuildConfigBody) -> Self {
        let word = |is: bool| is.to_string();
        let (django, fastapi) = (body.django_options.unwrap_or_default(), body.fastapi_options.unwrap_or_default());
        let texts = [
            ("entry_point", body.entry_point),
            ("build_command", body.build_command),
            ("start_command", body.start_command),
            ("go_version", body.go_version),
            ("node_version", body.node_version),
            ("python_version", body.python_version),
            ("package_manager", body.package_manager),
            ("output_directory", body.output_directory),
            ("nixpkgs", body.nixpkgs),
            ("ldflags", body.ldflags),
            ("workspace_module", body.workspace_module),
            ("cgo_enabled", body.cgo_enabled.map(word)),
            ("django_options.settings_module", django.settings_module),
            ("django_options.collect_static", django.collect_static.map(word)),
            ("django_options.migrations", django.migrations.map(word)),
            ("fastapi_options.app_module", fastapi.app_module),
            ("fastapi_options.workers", fastapi.workers.map(|workers| workers.to_string())),
            ("nextjs_options.output_mode", body.nextjs_options.unwrap_or_default().output_mode),
        ];
        let lists = [
            ("build_tags", body.build_tags),
            ("pre_build_commands", body.pre_build_commands),
            ("post_build_commands", body.post_build_commands),
            ("extra_nix_packages", body.extra_nix_packages),
        ];
        let texts = texts.into_iter().filter_map(|(field, text)| Some((field, Detail::Text(text?))));
        let lists = lists.into_iter().filter_map(|(field, words)| Some((field, words?)));
        let lists = lists.filter(|(_, words)| !words.is_empty()).map(|(field, words)| (field, Detail::List(words)));
        Self {
            build_timeout_seconds: body.build_timeout,
            root_directory: body.root_directory,
            dockerfile: body.dockerfile,
            environment_vars: body.environment_vars,
            details: texts.chain(lists).map(|(field, detail)| (field.to_owned(), detail)).collect(),
        }
    }
}

impl From<&BuildConfig> for BuildConfigBody {
    fn from(config: &BuildConfig) -> Self {
        let text = |field: &str| config.text(field).map(str::to_owned);
        let is = |field: &str| config.text(field).map(|text| text == "true");
        let list = |field: &str| config.details.contains_key(field).then(|| config.list(field).to_vec());
        let has = |group: &str| {
            let of_group = |name: &String| name.strip_prefix(group).is_some_and(|rest| rest.starts_with('.'));
            config.details.keys().any(of_group)
        };
        Self {
            build_timeout: config.build_timeout_seconds,
            root_directory: config.root_directory.clone(),
            dockerfile: config.dockerfile.clone(),
            environment_vars: config.environment_vars.clone(),
            entry_point: text("entry_point"),
            build_command: text("build_command"),
            start_command: text("start_command"),
            go_version: text("go_version"),
            node_version: text("node_version"),
            python_version: text("python_version"),
            package_manager: text("package_manager"),
            output_directory: text("output_directory"),
            nixpkgs: text("nixpkgs"),
            build_tags: list("build_tags"),
            cgo_enabled: is("cgo_enabled"),
            ldflags: text("ldflags"),
            workspace_module: text("workspace_module"),
            pre_build_commands: list("pre_build_commands"),
            post_build_commands: list("post_build_commands"),
            extra_nix_packages: list("extra_nix_packages"),
            django_options: has("django_options").then(|| DjangoBody {
                settings_module: text("django_options.settings_module"),
                collect_static: is("django_options.collect_static"),
                migrations: is("django_options.migrations"),
            }),
            fastapi_options: has("fastapi_options").then(|| FastapiBody {
                app_module: text("fastapi_options.app_module"),
                workers: config.text("fastapi_options.workers").and_then(|text| text.parse().ok()),
            }),
            nextjs_options: has("nextjs_options")
                .then(|| NextjsBody { output_mode: text("nextjs_options.output_mode") }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{DETAILS, DetailKind};

    #[test]
    fn every_detail_of_a_build_can_be_said_and_is_shown() {
        for field in DETAILS {
            let value = match field.kind {
                DetailKind::Text => json!("a"),
                DetailKind::List => json!(["a"]),
                DetailKind::Flag => json!(true),
                DetailKind::Count => json!(2),
            };
            let said = match field.name.split_once('.') {
                Some((group, name)) => json!({group: {name: value}}),
                None => json!({field.name: value}),
            };
            let body: BuildConfigBody =
                serde_json::from_value(said.clone()).unwrap_or_else(|error| panic!("{}: {error}", field.name));
            let config = BuildConfig::from(body);
            assert!(config.details.contains_key(field.name), "{} is lost", field.name);
            let shown = serde_json::to_value(BuildConfigBody::from(&config)).expect("JSON");
            let top = field.name.split('.').next().expect("a name");
            assert_eq!(shown[top], said[top]);
        }
    }
}
