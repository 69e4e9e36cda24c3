//! Node.js: package managers, frameworks, workspaces.

use serde_json::{Map, Value, json};

use super::files::{Files, join};
use super::{Detection, EntryPoint, Framework, Undetected, broken, plain, settle};
use crate::model::{BuildStrategy, BuildType, quoted};

pub(super) const MANIFEST: &str = "package.json";
const USUAL_VERSION: &str = "20";
/// The long-term versions by their names, as `.nvmrc` may call them.
const LONG_TERM: [(&str, &str); 8] = [
    ("dubnium", "10"),
    ("erbium", "12"),
    ("fermium", "14"),
    ("gallium", "16"),
    ("hydrogen", "18"),
    ("iron", "20"),
    ("jod", "22"),
    ("krypton", "24"),
];
/// Package managers by their lock files, in the order in which they are believed.
const LOCKS: [(&str, &str); 4] =
    [("pnpm-lock.yaml", "pnpm"), ("yarn.lock", "yarn"), ("package-lock.json", "npm"), ("npm-shrinkwrap.json", "npm")];
const MANAGERS: [&str; 3] = ["npm", "pnpm", "yarn"];
/// Where programs listen, by what they need, the surest first.
const PORTS: [(&str, u16); 5] =
    [("@angular/core", 4200), ("svelte", 5173), ("koa", 3000), ("hono", 3000), ("vue", 3000)];
const USUAL_PORT: u16 = 3000;
/// Folders whose own folders are programs.
const PROGRAM_FOLDERS: [&str; 2] = ["apps", "services"];

pub(super) fn detect(files: &Files<'_>) -> Result<Detection, Undetected> {
    let mut detection = plain(BuildStrategy::AutoNode, BuildType::PureNix, 90);
    let Some(package) = Package::read(files, MANIFEST)? else { return Ok(detection) };
    version(files, &package, &mut detection);
    package_manager(files, &package, &mut detection);
    for script in ["build", "start"] {
        if package.script(script).is_some() {
            // By its name: what it does is for the package manager to say.
            let field = if script == "build" { "build_command" } else { "start_command" };
            let manager = detection.suggested.get("package_manager").and_then(Value::as_str).unwrap_or("npm");
            let command = if script == "start" { format!("{manager} start") } else { format!("{manager} run build") };
            detection.suggested.insert(field, json!(command));
        }
    }
    detection.framework = framework(&package);
    if detection.framework == Framework::Nextjs {
        nextjs(files, &package, &mut detection);
    }
    detection.entry_points = settle(entry_points(files, &package)?);
    if let Some(default) = detection.entry_points.first() {
        detection.suggested.insert("entry_point", json!(default.path));
    }
    let serves = package.script("start").is_some() || !detection.entry_points.is_empty();
    if !serves && !matches!(detection.framework, Framework::Nextjs | Framework::React) {
        detection
            .warnings
            .push("nothing says what to run: package.json has no script \"start\" and no \"main\"".to_owned());
    }
    let known = PORTS.iter().find(|(name, _)| package.needs(name));
    detection.port = Some(known.map_or(USUAL_PORT, |(_, port)| *port));
    Ok(detection)
}

struct Package(Map<String, Value>);

impl Package {
    fn read(files: &Files<'_>, path: &str) -> Result<Option<Self>, Undetected> {
        let Some(text) = files.manifest(path)? else { return Ok(None) };
        match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
            Ok(Value::Object(package)) => Ok(Some(Self(package))),
            Ok(_) => Err(broken(path, "it is no object")),
            Err(error) => Err(broken(path, &error.to_string())),
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    fn script(&self, name: &str) -> Option<&str> {
        self.0.get("scripts").and_then(|it| it.get(name)).and_then(Value::as_str)
    }

    /// The version of something that it needs, as it is asked for.
    fn version(&self, name: &str) -> Option<&str> {
        ["dependencies", "devDependencies"]
            .iter()
            .find_map(|kind| self.0.get(*kind)?.get(name))
            .map(|it| it.as_str().unwrap_or(""))
    }

    fn needs(&self, name: &str) -> bool {
        self.version(name).is_some()
    }
}

fn version(files: &Files<'_>, package: &Package, detection: &mut Detection) {
    let first_line = |path| files.text(path).and_then(|text| text.lines().map(str::trim).find(|line| !line.is_empty()));
    let engines = package.0.get("engines").and_then(|it| it.get("node")).and_then(Value::as_str);
    // All are asked for at once.
    let (nvmrc, node_version) = (first_line(".nvmrc"), first_line(".node-version"));
    let asked = nvmrc.or(node_version);
    let version = match asked {
        Some(asked) => {
            let name = asked.strip_prefix("lts/").map(str::to_ascii_lowercase);
            match name {
                None => asked.trim_start_matches('v').to_owned(),
                Some(name) => {
                    let known = LONG_TERM.iter().find(|(it, _)| *it == name);
                    if known.is_none() {
                        let warning = format!("{} is not one version; {USUAL_VERSION} is used", quoted(asked));
                        detection.warnings.push(warning);
                    }
                    known.map_or(USUAL_VERSION, |(_, version)| *version).to_owned()
                }
            }
        }
        None => engines.unwrap_or(USUAL_VERSION).to_owned(),
    };
    let is_exact = version.split('.').count() == 3 && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    detection.toolchain = is_exact.then(|| version.clone());
    detection.suggested.insert("node_version", json!(version));
    detection.version = Some(version);
}

fn package_manager(files: &Files<'_>, package: &Package, detection: &mut Detection) {
    let locks: Vec<(&str, &str)> = LOCKS.into_iter().filter(|(file, _)| files.has(file)).collect();
    let named = package.text("packageManager").and_then(|it| it.split('@').next());
    let manager = match named {
        Some(name) if MANAGERS.contains(&name) => name,
        Some(name) => {
            detection
                .warnings
                .push(format!("packageManager {} is not known here; npm, pnpm and yarn are", quoted(name)));
            locks.first().map_or("npm", |(_, manager)| *manager)
        }
        None => locks.first().map_or("npm", |(_, manager)| *manager),
    };
    let own = locks.iter().any(|(_, it)| *it == manager);
    if !own {
        let made_by = if manager == "npm" { "npm install" } else { manager };
        let warning = format!("there is no lock file of {manager}: run `{made_by}` and commit what it writes");
        detection.warnings.push(warning);
    }
    let others: Vec<&str> = locks.iter().filter(|(_, it)| *it != manager).map(|(file, _)| *file).collect();
    if !others.is_empty() {
        let warning = format!("{manager} is used; {} belongs to another package manager: remove it", others.join(", "));
        detection.warnings.push(warning);
    }
    detection.suggested.insert("package_manager", json!(manager));
}

fn framework(package: &Package) -> Framework {
    let known = [
        ("next", Framework::Nextjs),
        ("express", Framework::Express),
        ("fastify", Framework::Fastify),
        ("react", Framework::React),
    ];
    known.into_iter().find(|(name, _)| package.needs(name)).map_or(Framework::Generic, |(_, framework)| framework)
}

/// The router, and what `next build` makes.
fn nextjs(files: &Files<'_>, package: &Package, detection: &mut Detection) {
    const CONFIGS: [&str; 4] = ["next.config.js", "next.config.mjs", "next.config.ts", "next.config.cjs"];
    let mut options = Map::new();
    let configs: Vec<&str> = CONFIGS.into_iter().filter_map(|path| files.text(path)).collect();
    let mode = configs.into_iter().find_map(output_mode);
    options.insert("output_mode".to_owned(), json!(mode.unwrap_or("default")));
    detection.suggested.insert("nextjs_options", Value::Object(options));
    let asked = package.version("next").unwrap_or_default();
    let major = asked.trim_start_matches(['^', '~', '=', '>', '<', 'v', ' ']).split(['.', ' ']).next();
    let major: Option<u32> = major.and_then(|it| it.parse().ok());
    let has = |folder: &str| files.below(folder).next().is_some() || files.below(&join("src", folder)).next().is_some();
    let router = match (has("app"), has("pages")) {
        (true, false) => "app",
        (false, true) => "pages",
        _ => {
            if major.is_none_or(|major| major >= 13) {
                "app"
            } else {
                "pages"
            }
        }
    };
    detection.suggested.insert("router", json!(router));
    if mode.is_none() {
        let warning = "next.config has no output: \"standalone\" makes a much smaller image";
        detection.warnings.push(warning.to_owned());
    }
}

/// The value of `output:` in a configuration file, which is a program: only the usual way to write it is understood.
fn output_mode(config: &str) -> Option<&'static str> {
    config.split("output").skip(1).find_map(|rest| {
        let value = rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?.trim_start();
        let value = value.strip_prefix(['"', '\'', '`'])?;
        ["standalone", "export"].into_iter().find(|mode| value.starts_with(mode))
    })
}

/// The program that the manifest names, and the packages of a repository of many.
fn entry_points(files: &Files<'_>, package: &Package) -> Result<Vec<EntryPoint>, Undetected> {
    const USUAL: [&str; 8] =
        ["server.js", "index.js", "app.js", "main.js", "src/index.js", "src/server.js", "src/main.js", "dist/index.js"];
    let mut found = Vec::new();
    let name = package.text("name").unwrap_or("app");
    let main = package.text("main").map(|it| it.trim_start_matches("./")).filter(|it| files.has(it));
    if let Some(path) = main.or_else(|| USUAL.into_iter().find(|path| files.has(path))) {
        found.push(EntryPoint { name: name.to_owned(), path: path.to_owned(), is_default: true });
    }
    for parent in PROGRAM_FOLDERS {
        for folder in files.folders(parent) {
            let path = join(parent, folder);
            if let Some(inner) = Package::read(files, &join(&path, MANIFEST))?
                && (inner.script("start").is_some() || inner.text("main").is_some())
            {
                found.push(EntryPoint { name: folder.to_owned(), path, is_default: false });
            }
        }
    }
    Ok(found)
}
