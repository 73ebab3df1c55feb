//! Documents that are generated from the code and kept in the repository, so that people can read
//! them without running anything.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Fails if the document in the repository is not this text. With `TEPHRA_UPDATE_DOCS=1` in the
/// environment it is rewritten instead.
///
/// # Panics
/// If the document is out of date, or cannot be written.
pub fn check_document(path: &str, text: &str) {
    let file = repository().join(path);
    if std::env::var_os("TEPHRA_UPDATE_DOCS").is_some() {
        let folder = file.parent().unwrap_or_else(|| panic!("{path} has no folder"));
        std::fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{path}: {error}"));
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{path}: {error}"));
        return;
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(found, text, "{path} is out of date: run the tests once with TEPHRA_UPDATE_DOCS=1");
}
