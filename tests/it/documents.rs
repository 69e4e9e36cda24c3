//! What documents name has to be there.

use std::fs;
use std::path::Path;

use crate::hostile::has_test;
use crate::layering::sources;

/// The tests that the fault matrix names: what stands between backticks and has a path.
fn named(document: &str) -> Vec<&str> {
    let quoted = document.split('`').skip(1).step_by(2);
    quoted.filter(|text| text.contains("::") && !text.contains([' ', '/'])).collect()
}

#[test]
fn every_test_that_the_fault_matrix_names_is_one_that_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).expect("text")).collect();
    let document = fs::read_to_string(root.join("docs/reliability.md")).expect("the fault matrix");
    let names = named(&document);
    assert!(names.len() > 100, "{} names are not all", names.len());
    let is_there = |name: &&&str| {
        let last = name.rsplit("::").next().expect("a part");
        let defines = |begin: &str| texts.iter().any(|text| text.contains(&format!("fn {begin}")));
        match last.strip_suffix('…') {
            Some(begin) => defines(begin),
            // Those of an engine are one function for each kind of engine, made by a macro.
            None if name.starts_with("engine::") => defines(&format!("{last}(")),
            None if root.join("src").join(name.replace("::", "/")).with_extension("rs").exists() => true,
            None => texts.iter().any(|text| has_test(text, last)),
        }
    };
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "docs/reliability.md names tests that are not there: {missing:#?}");
    // One row for each fault.
    for number in 1..=42 {
        assert!(document.contains(&format!("\n| {number} |")), "row {number} is missing");
    }
}
