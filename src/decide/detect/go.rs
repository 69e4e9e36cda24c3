//! Go: modules, workspaces, programs, cgo.

use serde_json::json;

use super::files::{Files, is_foreign, join};
use super::{Detection, EntryPoint, Undetected, plain, settle};
use crate::model::{BuildStrategy, BuildType, quoted};

pub(in crate::decide) const MANIFEST: &str = "go.mod";
pub(in crate::decide) const WORKSPACE: &str = "go.work";

/// What is read of a file of Go: imports stand before everything else.
pub(in crate::decide) const HEAD_BYTES: u32 = 16 * 1024;
/// So many files are looked at for cgo.
pub(in crate::decide) const SOURCES_MAX: usize = 1_000;
/// So many files of a folder are looked at for what package it is.
const PACKAGE_FILES_MAX: usize = 32;
/// Folders whose own folders are programs.
const PROGRAM_FOLDERS: [&str; 3] = ["cmd", "apps", "services"];

/// Modules that need a C compiler.
const CGO_MODULES: [&str; 14] = [
    "github.com/mattn/go-sqlite3",
    "github.com/miekg/pkcs11",
    "github.com/shirou/gopsutil",
    "fyne.io/fyne",
    "github.com/tecbot/gorocksdb",
    "github.com/linxGnu/grocksdb",
    "github.com/jmhodges/levigo",
    "gopkg.in/gographics/imagick",
    "github.com/valyala/gozstd",
    "github.com/DataDog/zstd",
    "github.com/google/gopacket",
    "github.com/tensorflow/tensorflow",
    "github.com/go-gl/gl",
    "gocv.io/x/gocv",
];

/// Modules by which it is known where a program usually listens.
const PORTS: [(&str, u16); 2] = [("github.com/gofiber/fiber", 3000), ("github.com/gobuffalo/buffalo", 3000)];
const USUAL_PORT: u16 = 8080;

pub(super) fn detect(files: &Files<'_>) -> Result<Detection, Undetected> {
    let mut detection = plain(BuildStrategy::AutoGo, BuildType::PureNix, 90);
    let module = Manifest::read(files.manifest(MANIFEST)?.unwrap_or_default());
    let workspace = files.manifest(WORKSPACE)?.map(Manifest::read);
    let versions = workspace.as_ref().unwrap_or(&module);
    detection.version = versions.go.or(module.go).map(str::to_owned);
    detection.toolchain = versions.toolchain.or(module.toolchain).map(str::to_owned);
    match &detection.version {
        Some(version) => drop(detection.suggested.insert("go_version", json!(version))),
        None => detection.warnings.push("go.mod names no version of Go (a line like \"go 1.24\")".to_owned()),
    }
    let modules: Vec<String> = workspace.iter().flat_map(|it| &it.uses).filter_map(|path| inside(path)).collect();
    if workspace.is_some() {
        detection.suggested.insert("is_workspace", json!(true));
        for missing in modules.iter().filter(|folder| !files.has(&join(folder, MANIFEST))) {
            detection.warnings.push(format!("go.work names {}, which has no go.mod", quoted(missing)));
        }
    }
    if !module.requires.is_empty() && !files.has("go.sum") && !files.has("vendor/modules.txt") {
        detection
            .warnings
            .push("go.sum is missing: run `go mod tidy` and commit it, or dependencies cannot be checked".to_owned());
    }
    detection.entry_points = settle(programs(files, &modules));
    match detection.entry_points.as_slice() {
        [] => detection.warnings.push("no package main was found in the root, cmd/*, apps/* and services/*".to_owned()),
        [only] => drop(detection.suggested.insert("entry_point", json!(only.path))),
        [default, ..] => {
            detection.suggested.insert("entry_point", json!(default.path));
            let all: Vec<&str> = detection.entry_points.iter().map(|it| it.path.as_str()).collect();
            let warning = format!("several programs: {}; {} is built: set entry_point", all.join(", "), default.path);
            detection.warnings.push(warning);
        }
    }
    cgo(files, &module, &modules, &mut detection);
    let port = PORTS.iter().find(|(name, _)| module.needs(name)).map_or(USUAL_PORT, |(_, port)| *port);
    detection.port = Some(port);
    Ok(detection)
}

/// What matters of a `go.mod` or a `go.work`.
#[derive(Debug, Default)]
pub(in crate::decide) struct Manifest<'a> {
    pub(in crate::decide) module: Option<&'a str>,
    go: Option<&'a str>,
    toolchain: Option<&'a str>,
    requires: Vec<&'a str>,
    pub(in crate::decide) uses: Vec<&'a str>,
}

impl<'a> Manifest<'a> {
    pub(in crate::decide) fn read(text: &'a str) -> Self {
        let mut manifest = Self::default();
        let mut block = None;
        for line in text.lines() {
            let line = line.split("//").next().unwrap_or_default().trim();
            if line == ")" {
                block = None;
                continue;
            }
            let mut words = line.split_whitespace();
            let directive = block.or_else(|| words.next());
            match (directive, words.next()) {
                (Some(directive), Some("(")) => block = Some(directive),
                (Some("module"), Some(name)) => manifest.module = manifest.module.or_else(|| Some(unquoted(name))),
                (Some("go"), Some(version)) => manifest.go = manifest.go.or(Some(version)),
                (Some("toolchain"), Some(name)) => manifest.toolchain = name.strip_prefix("go").or(Some(name)),
                (Some("require"), Some(module)) => manifest.requires.push(unquoted(module)),
                (Some("use"), Some(folder)) => manifest.uses.push(unquoted(folder)),
                _ => {}
            }
        }
        manifest
    }

    /// Whether it requires a module, in whichever major version.
    fn needs(&self, module: &str) -> bool {
        self.requires
            .iter()
            .any(|it| it.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.'])))
    }
}

fn unquoted(word: &str) -> &str {
    word.trim_matches(['"', '`'])
}

/// A folder of a workspace, `""` for the root; `None` outside of the source.
pub(in crate::decide) fn inside(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let leads_out = path.starts_with('/') || parts.contains(&"..");
    (!leads_out).then(|| parts.join("/"))
}

/// Folders with a package `main`: in the module, and in each of a workspace.
fn programs(files: &Files<'_>, modules: &[String]) -> Vec<EntryPoint> {
    let mut folders = Vec::new();
    for module in std::iter::once("").chain(modules.iter().map(String::as_str)) {
        folders.push(module.to_owned());
        for parent in PROGRAM_FOLDERS.map(|name| join(module, name)) {
            folders.extend(files.folders(&parent).into_iter().map(|name| join(&parent, name)));
        }
    }
    let programs = folders.into_iter().filter(|folder| !is_foreign(folder) && is_program(files, folder));
    let entry_point = |folder: String| {
        let path = if folder.is_empty() { ".".to_owned() } else { folder };
        let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
        EntryPoint { name, path, is_default: false }
    };
    programs.map(entry_point).collect()
}

fn is_program(files: &Files<'_>, folder: &str) -> bool {
    let skip = if folder.is_empty() { 0 } else { folder.len() + 1 };
    let mut sources: Vec<&str> =
        files.below(folder).filter(|path| !path[skip..].contains('/') && is_source(path)).collect();
    // One file says it for all; the one that begins the program is tried first.
    sources.sort_by_key(|path| !path.ends_with("main.go"));
    let heads = sources.into_iter().take(PACKAGE_FILES_MAX).filter_map(|path| files.head(path, HEAD_BYTES));
    let mut packages = heads.filter(|head| !is_ignored(head)).filter_map(package);
    packages.next() == Some("main")
}

/// Whether it is compiled here: no test, and of no other system.
pub(in crate::decide) fn is_source(path: &str) -> bool {
    const OTHER: [&str; 8] =
        ["_test.go", "_windows.go", "_darwin.go", "_freebsd.go", "_netbsd.go", "_openbsd.go", "_plan9.go", "_wasm.go"];
    path.ends_with(".go") && !OTHER.iter().any(|end| path.ends_with(end))
}

/// A program beside the package, as generators are.
fn is_ignored(head: &str) -> bool {
    head.lines().take_while(|line| !line.starts_with("package ")).any(|line| {
        line.strip_prefix("//go:build ")
            .or_else(|| line.strip_prefix("// +build "))
            .is_some_and(|it| it.trim() == "ignore")
    })
}

fn package(head: &str) -> Option<&str> {
    let line = head.lines().find_map(|line| line.trim().strip_prefix("package "))?;
    line.split_whitespace().next()
}

/// Whether it needs a C compiler: by what it requires, and by what its files import.
fn cgo(files: &Files<'_>, module: &Manifest<'_>, modules: &[String], detection: &mut Detection) {
    let required = CGO_MODULES.into_iter().find(|name| module.needs(name));
    let required_elsewhere = || {
        modules.iter().any(|folder| {
            let manifest = Manifest::read(files.text(&join(folder, MANIFEST)).unwrap_or_default());
            CGO_MODULES.into_iter().any(|name| manifest.needs(name))
        })
    };
    let sources: Vec<&str> = files.below("").filter(|path| is_source(path) && !is_foreign(path)).collect();
    let is_cgo = |head: &str| {
        head.lines().map(str::trim).any(|line| {
            line == "import \"C\""
                || line.starts_with("#cgo ")
                || line.starts_with("// #cgo ")
                || line.starts_with("//go:cgo_")
        })
    };
    // All are asked for before any is judged, so that the caller reads them in one go.
    let heads: Vec<&str> = sources.iter().take(SOURCES_MAX).filter_map(|path| files.head(path, HEAD_BYTES)).collect();
    let needed = required.is_some() || required_elsewhere() || heads.into_iter().any(is_cgo);
    detection.suggested.insert("cgo_enabled", json!(needed));
    if let Some(name) = required {
        detection.warnings.push(format!("{name} needs cgo, which is turned on"));
    }
    if !needed && sources.len() > SOURCES_MAX {
        let warning = format!("{SOURCES_MAX} of {} files were looked at for cgo: set cgo_enabled", sources.len());
        detection.warnings.push(warning);
    }
}
