//! The house rules that no compiler checks: which crate may depend on which, how long a file may
//! be, and that what the documents name exists.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tephra_replay_tests::docs::repository;

/// Lines of a source file, tests included.
const LONGEST_FILE_LINES: usize = 600;

/// Files that may be longer, each with its reason.
const LONGER_FILES: &[(&str, &str)] = &[];

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "tephra-data" {
                files(&path, ending, found);
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository().join(manifest)).unwrap();
    let section = text.split("[dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("tephra-"))
        .map(|line| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let allowed: &[(&str, &[&str])] = &[
        ("domain", &[]),
        ("journal", &["domain"]),
        ("projector", &["domain", "journal"]),
        ("executors", &["domain", "journal"]),
        ("api", &["domain", "journal", "projector"]),
    ];
    for (name, allowed) in allowed {
        let actual = dependencies(&format!("{name}/Cargo.toml"));
        let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert!(actual.is_subset(&allowed), "{name} depends on {actual:?}, allowed are {allowed:?}");
    }
}

#[test]
fn files_are_short_enough_to_read() {
    let root = repository().canonicalize().unwrap();
    let mut sources = Vec::new();
    files(&root, ".rs", &mut sources);
    assert!(sources.len() > 30, "the walk finds the sources");
    for source in sources {
        let name = source.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let lines = std::fs::read_to_string(&source).unwrap().lines().count();
        let excused = LONGER_FILES.iter().any(|(file, _)| *file == name);
        assert!(lines <= LONGEST_FILE_LINES || excused, "{name} has {lines} lines");
    }
}

#[test]
fn every_file_that_the_architecture_names_exists() {
    let root = repository();
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let named: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            word.contains('/') && (word.ends_with(".rs") || word.ends_with(".md") || word.ends_with(".mmd"))
        })
        .filter(|word| !word.contains('<'))
        .collect();
    assert!(named.len() > 15, "the walk finds the names");
    for name in named {
        assert!(root.join(name).exists(), "ARCHITECTURE.md names {name}");
    }
}
