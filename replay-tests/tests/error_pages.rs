//! The pages of `docs/errors` say the status that the api answers with.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use tephra_domain::rejection::Rejection;
use tephra_replay_tests::docs::repository;

/// The arms of the one match in `api/src/error.rs`, read as text: a rejection has fields that only
/// the ledger fills, so that not every one can be made here.
fn statuses() -> BTreeMap<String, &'static str> {
    let source = std::fs::read_to_string(repository().join("api/src/error.rs")).unwrap();
    let (source, _tests) = source.split_once("#[cfg(test)]").unwrap_or((&source, ""));
    let arms = source.split("fn status_of").nth(1).unwrap();
    let mut statuses = BTreeMap::new();
    let mut codes = Vec::new();
    for line in arms.lines() {
        codes.extend(
            line.split("Rejection::")
                .skip(1)
                .map(|rest| rest.chars().take_while(char::is_ascii_alphanumeric).collect::<String>()),
        );
        if let Some(name) = line.split("StatusCode::").nth(1) {
            let status = match name.trim_end_matches([',', '}', ' ']) {
                "BAD_REQUEST" => "400",
                "FORBIDDEN" => "403",
                "NOT_FOUND" => "404",
                "CONFLICT" => "409",
                "PAYLOAD_TOO_LARGE" => "413",
                "UNPROCESSABLE_ENTITY" => "422",
                other => panic!("a status that no page has yet: {other}"),
            };
            statuses.extend(codes.drain(..).map(|code| (code, status)));
        }
    }
    statuses
}

#[test]
fn every_page_says_the_status_that_is_answered() {
    let statuses = statuses();
    assert_eq!(statuses.len(), Rejection::CODES.len(), "one status for each rejection");
    for code in Rejection::CODES {
        let page = std::fs::read_to_string(repository().join(format!("docs/errors/{code}.md"))).unwrap();
        let said = page.lines().find_map(|line| line.strip_prefix("**HTTP status:** ")).unwrap_or_default();
        assert!(
            said.starts_with(statuses[*code]),
            "{code}: answered {}, page says {said:?}",
            statuses[*code]
        );
    }
}
