//! Repositories of our own making, one file each: `-- path --` and what stands in it, repeated, and at the end what is found.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use narvana::config::test_setting;
use narvana::decide::detect::{Answer, Contents, Listing, detect};
use narvana::model::{BuildStrategy, BuildType};
use proptest::prelude::*;

/// Reads what is wanted, as a caller does, and counts how often.
fn found(files: &BTreeMap<String, String>) -> (Answer, u32) {
    let listing = Listing::new(files.keys().cloned().collect());
    let mut contents = Contents::new();
    for round in 1..=10 {
        match detect(&listing, &contents) {
            Answer::Wants(wants) => {
                for want in wants {
                    assert!(!contents.contains_key(&want.path), "{} is asked for again", want.path);
                    let text = files.get(&want.path).unwrap_or_else(|| panic!("{} is not there", want.path));
                    let head = text.chars().take(want.bytes as usize).collect();
                    contents.insert(want.path, Ok(head));
                }
            }
            answer => return (answer, round),
        }
    }
    panic!("it always wants more");
}

/// An answer in lines, for people.
fn in_words(answer: &Answer) -> String {
    let mut text = String::new();
    match answer {
        Answer::Found(it) => {
            let build_type = it.build_type;
            writeln!(text, "{}, {build_type}, {}, {} %", it.strategy, it.framework.as_str(), it.confidence)
                .expect("writes");
            let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
            writeln!(text, "version {}, toolchain {}", said(&it.version), said(&it.toolchain)).expect("writes");
            if let Some(port) = it.port {
                writeln!(text, "port {port}").expect("writes");
            }
            for (field, value) in &it.suggested {
                writeln!(text, "{field} = {value}").expect("writes");
            }
            for entry_point in &it.entry_points {
                let default = if entry_point.is_default { " (default)" } else { "" };
                writeln!(text, "program {} in {}{default}", entry_point.name, entry_point.path).expect("writes");
            }
            for warning in &it.warnings {
                writeln!(text, "warning: {warning}").expect("writes");
            }
            for alternative in &it.alternatives {
                writeln!(text, "or {} ({})", alternative.strategy, alternative.because).expect("writes");
            }
        }
        Answer::NotFound(it) => {
            writeln!(text, "{}: {}", it.code.as_str(), it.message).expect("writes");
            for suggestion in &it.suggestions {
                writeln!(text, "suggestion: {suggestion}").expect("writes");
            }
        }
        Answer::Wants(_) => panic!("not an answer yet"),
    }
    text
}

/// The files of a repository, and what was found in it when it was last looked at.
fn read(archive: &str) -> (BTreeMap<String, String>, String) {
    let mut files = BTreeMap::new();
    let (mut path, mut text) = (None, String::new());
    for line in archive.lines() {
        match line.strip_prefix("-- ").and_then(|it| it.strip_suffix(" --")) {
            Some(next) => {
                if let Some(path) = path.replace(next.to_owned()) {
                    files.insert(path, std::mem::take(&mut text));
                }
            }
            None => text.extend([line, "\n"]),
        }
    }
    if let Some(path) = path {
        files.insert(path, text);
    }
    let wanted = files.remove(FOUND).unwrap_or_default();
    (files, wanted)
}

/// What stands in the place of a path before what is found.
const FOUND: &str = "found";

/// `NARVANA_REWRITE_FIXTURES` writes what is found into the files, to be read like code.
#[test]
fn fixtures_are_what_they_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/detect");
    let rewrites = test_setting("NARVANA_REWRITE_FIXTURES").is_some();
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&folder).expect("reads") {
        let path = entry.expect("an entry").path();
        let archive = fs::read_to_string(&path).expect("text");
        let (files, wanted) = read(&archive);
        let (answer, rounds) = found(&files);
        assert!(rounds <= 4, "{}: {rounds} rounds", path.display());
        let is = in_words(&answer);
        if is != wanted {
            if rewrites {
                let files = archive.split(&format!("-- {FOUND} --\n")).next().unwrap_or_default();
                fs::write(&path, format!("{files}-- {FOUND} --\n{is}")).expect("writes");
            }
            wrong.push(format!("{}: wanted\n{wanted}and found\n{is}", path.display()));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 30, "{count} repositories are left");
}

proptest! {
    /// Whatever stands in the files: an answer, after few rounds, the same again, with each program once and one default.
    #[test]
    fn any_files_get_an_answer(files in proptest::collection::btree_map(path(), text(), 0..12)) {
        let (answer, rounds) = found(&files);
        prop_assert!(rounds <= 4);
        prop_assert_eq!(&answer, &found(&files).0);
        if let Answer::Found(it) = answer {
            let mut known: Vec<_> = it.entry_points.iter().map(|it| (&it.path, &it.name)).collect();
            let defaults = it.entry_points.iter().filter(|it| it.is_default).count();
            prop_assert_eq!(defaults, usize::from(!known.is_empty()));
            let count = known.len();
            known.sort();
            known.dedup();
            prop_assert_eq!(known.len(), count);
            prop_assert_eq!(it.alternatives.iter().any(|other| other.strategy == it.strategy), false);
            let is_oci = matches!(it.strategy, BuildStrategy::Dockerfile | BuildStrategy::Nixpacks);
            prop_assert_eq!(it.build_type == BuildType::Oci, is_oci);
        }
    }

    /// A file that cannot be read is a reason or is passed over, never a panic and never asked for again.
    #[test]
    fn files_that_cannot_be_read_get_an_answer(files in proptest::collection::btree_set(path(), 0..12)) {
        let listing = Listing::new(files.into_iter().collect());
        let mut contents = Contents::new();
        for _ in 0..4 {
            let Answer::Wants(wants) = detect(&listing, &contents) else { return Ok(()) };
            contents.extend(wants.into_iter().map(|want| (want.path, Err("it is gone".to_owned()))));
        }
        prop_assert!(false, "it always wants more");
    }
}

/// What languages are known by.
const MARKERS: [&str; 8] = [
    "flake.nix",
    "Dockerfile",
    "go.mod",
    "Cargo.toml",
    "package.json",
    "pyproject.toml",
    "requirements.txt",
    "setup.py",
];

fn path() -> impl Strategy<Value = String> {
    let folder = prop_oneof![
        4 => Just(""), 1 => Just("cmd/api/"), 1 => Just("apps/web/"), 1 => Just("services/mail/"), 1 => Just("src/"), 1 => Just("src/bin/"),
        1 => Just("a/")
    ];
    let name = prop_oneof![
        6 => proptest::sample::select(MARKERS.to_vec()),
        6 => proptest::sample::select(vec![
            "main.go", "x.go", "go.work", "go.sum", "Cargo.lock", "main.rs", "rust-toolchain", "rust-toolchain.toml", ".nvmrc", "yarn.lock",
            "next.config.js", "index.js", "main.py", "manage.py", "settings.py", ".python-version", "runtime.txt", "uv.lock", "poetry.lock"
        ]),
        1 => Just("Gemfile"),
        1 => proptest::string::string_regex("[a-zé .-]{1,6}").expect("a pattern").prop_map(|name| Box::leak(name.into_boxed_str()) as &str),
    ];
    (folder, name).prop_map(|(folder, name)| format!("{folder}{name}"))
}

/// Pieces of manifests in any order, and anything at all.
fn text() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "module x\n",
        "go 1.22\n",
        "toolchain go1.22.1\n",
        "require (\n",
        ")\n",
        "use ./a\n",
        "package main\n",
        "import \"C\"\n",
        "//go:build ignore\n",
        "[package]\n",
        "name = \"x\"\n",
        "edition = \"2021\"\n",
        "[workspace]\n",
        "members = [\"*\", \"a\"]\n",
        "[[bin]]\n",
        "[toolchain]\n",
        "channel = \"1.80\"\n",
        "{\"name\":\"x\",\"main\":\"index.js\"}",
        "{\"dependencies\":{\"next\":\"^14\"}}",
        "{",
        "}",
        "[",
        "]",
        "output: 'export'",
        "v20\n",
        "lts/iron\n",
        "3.12\n",
        "python-3.9\n",
        "django==4\n",
        "fastapi\n",
        "flask\n",
        "app = FastAPI()\n",
        "DJANGO_SETTINGS_MODULE",
        "\"a.b\"",
        "[project]\n",
        "dependencies = [\"flask\"]\n",
        "[tool.poetry]\n",
        "=",
        "\"",
        "'",
        "\n",
    ]);
    let pieces = proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    prop_oneof![4 => pieces, 1 => any::<String>()]
}
