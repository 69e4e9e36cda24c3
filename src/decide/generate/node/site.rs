//! What runs in the end: a program, a site of files that something else made, or what Next.js makes of it.

use super::{Manifest, not_yet};
use crate::decide::detect::Framework;
use crate::decide::detect::files::Files;
use crate::decide::generate::names::is_plain_path;
use crate::decide::generate::{Asked, Unplanned};
use crate::model::quoted;

/// What makes files of a source that a browser runs.
const BUNDLERS: [&str; 14] = [
    "vite",
    "react-scripts",
    "react-app-rewired",
    "@craco/craco",
    "astro",
    "gatsby",
    "vitepress",
    "@docusaurus/core",
    "@vue/cli-service",
    "@angular/cli",
    "@rsbuild/core",
    "parcel",
    "parcel-bundler",
    "webpack",
];
/// First words of scripts that serve such a source to those who write it. Nobody else should see these.
const FOR_AUTHORS: [&str; 14] = [
    "vite",
    "react-scripts",
    "react-app-rewired",
    "craco",
    "astro",
    "gatsby",
    "vitepress",
    "docusaurus",
    "vue-cli-service",
    "ng",
    "rsbuild",
    "parcel",
    "webpack",
    "webpack-dev-server",
];
/// First words of scripts that serve files, which are better served here where they are made here.
const OF_FILES: [&str; 2] = ["serve", "http-server"];
/// Folders that bundlers leave what they made in, the likeliest first.
const OUTPUTS: [&str; 8] =
    ["dist", "build", "out", "www", ".output/public", ".vitepress/dist", "dist/*/browser", "dist/*"];

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// What a program answers.
    Program,
    /// Files.
    Site,
    /// Whatever Next.js was told to make: files, a program that needs nothing else, or what its own server serves.
    Nextjs,
}

impl Served {
    /// The word in a plan.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Site => "site",
            Self::Nextjs => "nextjs",
        }
    }
}

/// Where files are looked for that make a site, where nobody says it. To others `public` is what they take from.
pub(super) fn outputs(manifest: &Manifest) -> Vec<&'static str> {
    let own = if manifest.needs.has("gatsby") { &["public"][..] } else { &[] };
    [own, &OUTPUTS].concat()
}

/// What is served, and the command that does it where that is a program: as the service says, else as the manifest does.
pub(super) fn served(
    files: &Files<'_>,
    asked: &Asked<'_>,
    manifest: &Manifest,
    build: &str,
) -> Result<(Served, String), Unplanned> {
    let program = |path: &str| is_plain_path(path).then(|| format!("node ./{path}"));
    let said = asked.config.text("start_command").map(str::to_owned);
    if let Some(said) = said.or_else(|| asked.config.text("entry_point").and_then(program)) {
        return Ok((Served::Program, said));
    }
    let script = manifest.script("start");
    if asked.detection.framework == Framework::Nextjs {
        if build.is_empty() {
            let next_step =
                "add the script \"build\": \"next build\" to package.json, or set build_config.build_command";
            return Err(Unplanned::new("Next.js is built by nothing: package.json has no script \"build\"", next_step));
        }
        return Ok((Served::Nextjs, script.unwrap_or("next start").to_owned()));
    }
    if is_site(files, asked, manifest, script) {
        // What is said to be there may be there from the start.
        if build.is_empty() && asked.config.text("output_directory").is_none() {
            let next_step = "add a script \"build\" to package.json, or set build_config.build_command";
            return Err(Unplanned::new("the site is made by nothing: package.json has no script \"build\"", next_step));
        }
        return Ok((Served::Site, String::new()));
    }
    // Files that nothing makes, of a framework that runs in browsers.
    if asked.detection.framework == Framework::React && script.is_none() && !has_program(files, manifest) {
        return Err(not_yet(
            "React by what makes files of it here: known are Vite, react-scripts, Parcel, Rsbuild and webpack",
        ));
    }
    if let Some(script) = script.filter(|script| begins_with(script, &FOR_AUTHORS)) {
        return Err(Unplanned::new(
            format!("the script \"start\" ({}) serves the source to those who write it", quoted(script)),
            "say what runs instead with build_config.start_command, or where the built site is with build_config.output_directory",
        ));
    }
    let found = script.map(str::to_owned).or_else(|| asked.text("entry_point").and_then(program));
    found.map(|command| (Served::Program, command)).ok_or_else(|| {
        Unplanned::new(
            "nothing says what to run: package.json has no script \"start\" and no \"main\"",
            "add a script \"start\" to package.json, or say it: --build start_command=… (build_config.start_command)",
        )
    })
}

/// Whether nothing of it runs but in browsers.
fn is_site(files: &Files<'_>, asked: &Asked<'_>, manifest: &Manifest, start: Option<&str>) -> bool {
    if asked.config.text("output_directory").is_some() {
        return true;
    }
    let is_server = matches!(asked.detection.framework, Framework::Express | Framework::Fastify);
    let is_bundled = BUNDLERS.iter().any(|name| manifest.needs.has(name));
    let serves = match start {
        Some(script) => !begins_with(script, &FOR_AUTHORS) && !begins_with(script, &OF_FILES),
        None => has_program(files, manifest),
    };
    is_bundled && !is_server && !serves
}

/// Whether the last thing that a script does begins with one of these words, whatever it sets before.
fn begins_with(script: &str, words: &[&str]) -> bool {
    let last = script.split("&&").last().unwrap_or_default();
    let is_before =
        |word: &&str| word.contains('=') || word.starts_with('-') || ["cross-env", "npx", "env"].contains(word);
    last.split_whitespace().find(|word| !is_before(word)).is_some_and(|word| words.contains(&word))
}

/// Whether there is a program that Node.js runs, although no script says so.
fn has_program(files: &Files<'_>, manifest: &Manifest) -> bool {
    let main = manifest.main.as_str().map(|main| main.trim_start_matches("./"));
    main.into_iter().chain(["server.js", "index.js", "app.js", "src/server.js"]).any(|it| files.has(it))
}
