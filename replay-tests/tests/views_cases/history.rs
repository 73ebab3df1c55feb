//! Histories, pages of events, and operations as they went.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tephra_domain::command::Command;
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{OperationId, Position, ProjectId, VolumeId};
use tephra_domain::operation::{OperationEnd, OperationEvent, ResourceKey};
use tephra_domain::units::Timestamp;
use tephra_journal::memory::MemoryLog;
use tephra_projector::events::{EventPage, EventQuery};
use tephra_projector::history::ResourceRef;
use tephra_projector::operations::{OperationQuery, StepOutcome};
use tephra_projector::{QueryError, Views};
use tephra_replay_tests::drawn::{PROJECTS, blocks, example, log_of, moves, play};
use tephra_replay_tests::world::World;

fn views_of(history: &[Commit]) -> (tempfile::TempDir, Views, MemoryLog) {
    let folder = tempfile::tempdir().unwrap();
    let views = Views::create_fresh(&folder.path().join("views.redb")).unwrap();
    views.take(&blocks(history, &[3]).0, false).unwrap();
    (folder, views, log_of(history, &[3]))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// All pages, one after the other.
fn all_events(views: &Views, log: &MemoryLog, mut query: EventQuery) -> Vec<(Position, Vec<usize>)> {
    let mut rows = Vec::new();
    loop {
        let EventPage { rows: page, next } = wait(views.list_events(log, &query)).unwrap();
        rows.extend(page.into_iter().map(|row| (row.commit.position, row.events)));
        match next {
            Some(next) => query.after = next,
            None => return rows,
        }
    }
}

/// Positions of the commits with an event that passes.
fn commits_with(history: &[Commit], passes: impl Fn(&Event) -> bool) -> Vec<Position> {
    let numbered = (1..).map(Position).zip(history);
    numbered.filter(|(_, commit)| commit.events.iter().any(&passes)).map(|(position, _)| position).collect()
}

fn positions(views: &Views, resource: &ResourceRef) -> Vec<Position> {
    views.history(resource, Position(1), usize::MAX).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_in_the_history_of_what_it_is_about(moves in moves(200)) {
        let history = play(&moves).history;
        let (_folder, views, _log) = views_of(&history);
        for commit in &history {
            for event in &commit.events {
                match event {
                    Event::Volume(id, _) => {
                        let expected = commits_with(&history, |e| matches!(e, Event::Volume(of, _) if of == id));
                        let found = positions(&views, &ResourceRef::Volume(*id));
                        prop_assert!(expected.iter().all(|position| found.contains(position)));
                    }
                    Event::Snapshot(id, _) => {
                        let expected = commits_with(&history, |e| matches!(e, Event::Snapshot(of, _) if of == id));
                        let found = positions(&views, &ResourceRef::Snapshot(*id));
                        prop_assert!(expected.iter().all(|position| found.contains(position)));
                    }
                    Event::Operation(id, _) => {
                        let expected = commits_with(&history, |e| match e {
                            Event::Operation(of, _) => of == id,
                            Event::Debt(debt, _) => debt.operation == *id,
                            Event::Volume(..) | Event::Snapshot(..) | Event::VolumeType(..) | Event::Quota(_) | Event::Backend(..) | Event::TurnBegan { .. } => false,
                        });
                        prop_assert_eq!(positions(&views, &ResourceRef::Operation(*id)), expected);
                    }
                    Event::VolumeType(id, _) => {
                        let expected = commits_with(&history, |e| matches!(e, Event::VolumeType(of, _) if of == id));
                        prop_assert_eq!(positions(&views, &ResourceRef::VolumeType(*id)), expected);
                    }
                    Event::Backend(name, _) => {
                        let expected = commits_with(&history, |e| matches!(e, Event::Backend(of, _) if of == name));
                        prop_assert_eq!(positions(&views, &ResourceRef::Backend(name.clone())), expected);
                    }
                    Event::Debt(id, _) => {
                        let expected = commits_with(&history, |e| matches!(e, Event::Debt(of, _) if of == id));
                        prop_assert_eq!(positions(&views, &ResourceRef::Debt(*id)), expected);
                    }
                    Event::Quota(_) | Event::TurnBegan { .. } => {}
                }
            }
        }
    }

    #[test]
    fn pages_of_events_lose_and_repeat_nothing(moves in moves(150), limit in 1..9_usize) {
        let history = play(&moves).history;
        let (_folder, views, log) = views_of(&history);
        let numbered: Vec<(Position, &Commit)> = (1..).map(Position).zip(&history).collect();
        let base = EventQuery { limit, ..EventQuery::default() };

        let all = all_events(&views, &log, base.clone());
        let expected: Vec<_> =
            numbered.iter().map(|(position, commit)| (*position, (0..commit.events.len()).collect())).collect();
        prop_assert_eq!(all, expected);

        let middle = history[history.len() / 2].time;
        let later = Timestamp(middle.0 + 2000);
        let timed = EventQuery { since: Some(middle), until: Some(later), ..base.clone() };
        let found: Vec<Position> = all_events(&views, &log, timed).into_iter().map(|(at, _)| at).collect();
        let expected: Vec<Position> = numbered
            .iter()
            .filter(|(_, commit)| commit.time >= middle && commit.time < later)
            .map(|(position, _)| *position)
            .collect();
        prop_assert_eq!(found, expected);

        let kind = EventQuery { kind: Some("VolumeCreated".into()), ..base.clone() };
        let found: Vec<Position> = all_events(&views, &log, kind).into_iter().map(|(at, _)| at).collect();
        prop_assert_eq!(found, commits_with(&history, |event| event.name() == "VolumeCreated"));

        for project in PROJECTS {
            let project = ProjectId::new(*project);
            let of = EventQuery { project: Some(project.clone()), ..base.clone() };
            let found: BTreeSet<Position> =
                all_events(&views, &log, of).into_iter().map(|(at, _)| at).collect();
            let other = ResourceRef::Project(ProjectId::new(PROJECTS[usize::from(project.as_str() == PROJECTS[0])]));
            let others: BTreeSet<Position> = positions(&views, &other).into_iter().collect();
            for (position, commit) in &numbered {
                let opens = commit.events.iter().any(|event| {
                    matches!(event, Event::Operation(_, OperationEvent::Opened { project: of, .. }) if *of == project)
                });
                prop_assert!(!opens || found.contains(position));
                prop_assert!(!opens || !others.contains(position), "one project's work is not another's");
            }
        }
    }

    #[test]
    fn operations_are_listed_newest_first_open_or_ended(moves in moves(200), limit in 1..9_usize) {
        let world = play(&moves);
        let (_folder, views, _log) = views_of(&world.history);
        let mut opened: Vec<OperationId> = Vec::new();
        for event in world.history.iter().flat_map(|commit| &commit.events) {
            if let Event::Operation(id, OperationEvent::Opened { .. }) = event {
                opened.insert(0, *id);
            }
        }
        let list = |query: OperationQuery| {
            let mut query = OperationQuery { limit, ..query };
            let mut ids = Vec::new();
            loop {
                let page = views.operations(&query).unwrap().rows;
                ids.extend(page.iter().map(|row| row.id));
                match page.last() {
                    Some(last) => query.marker = Some(last.id),
                    None => return ids,
                }
            }
        };
        let is_open = |id: &OperationId| world.ledger.operations.contains_key(id);
        prop_assert_eq!(list(OperationQuery::default()), opened.clone());
        let open: Vec<OperationId> = opened.iter().copied().filter(is_open).collect();
        prop_assert_eq!(list(OperationQuery { open: Some(true), ..OperationQuery::default() }), open);
        let ended: Vec<OperationId> = opened.iter().copied().filter(|id| !is_open(id)).collect();
        prop_assert_eq!(list(OperationQuery { open: Some(false), ..OperationQuery::default() }), ended);
        let mut of_projects: Vec<OperationId> = PROJECTS
            .iter()
            .flat_map(|project| {
                list(OperationQuery { project: Some(ProjectId::new(*project)), ..OperationQuery::default() })
            })
            .collect();
        of_projects.sort_unstable();
        opened.sort_unstable();
        prop_assert_eq!(of_projects, opened);
    }
}

#[test]
fn a_revert_that_failed_is_told_step_by_step_after_it_has_ended() {
    let mut world = World::with_backends(&["one"], true);
    let volume = world.given_volume(1, 7);
    let snapshot = world.given_snapshot(volume);
    world.must(Command::RevertVolume { volume, snapshot: Some(snapshot) });
    let id = world.open_operation().unwrap();
    let due = world.next_due().unwrap();
    world.perform(&due).unwrap();
    world.fail_next(Failure::new(FailureKind::Mismatch, "the snapshot is another's"));
    world.settle();

    let (_folder, views, _log) = views_of(&world.history);
    let record = views.operation(id).unwrap().unwrap();
    assert_eq!(&*record.kind, "volume_revert");
    assert_eq!(record.end, Some(OperationEnd::Failed));
    assert!(record.changes.contains(&ResourceKey::Volume(volume)));
    assert_eq!(record.failure.unwrap().message.as_ref(), "the snapshot is another's");
    assert!(record.closed_at.unwrap() > record.opened_at);
    let steps: Vec<_> = record.steps.iter().map(|step| (&*step.name, step.outcome)).collect();
    let (first, second) = (steps[0], steps[1]);
    assert_eq!(first, ("safety_snapshot", StepOutcome::Undone), "{steps:?}");
    assert_eq!(second.1, StepOutcome::Undone, "{steps:?}");
    assert!(steps[2..].iter().all(|(_, outcome)| *outcome == StepOutcome::Pending), "{steps:?}");
    assert_eq!(record.steps[1].failed_attempts, 1);

    let on_volume = OperationQuery {
        resource: Some(ResourceKey::Volume(volume)),
        limit: 10,
        ..OperationQuery::default()
    };
    let kinds: Vec<_> = views.operations(&on_volume).unwrap().rows.into_iter().map(|row| row.kind).collect();
    assert_eq!(kinds[0].as_ref(), "volume_revert");
    assert_eq!(kinds.last().unwrap().as_ref(), "volume_create");
    let failed = views.history(&ResourceRef::Volume(volume), Position(1), usize::MAX).unwrap();
    let turned = commits_with(&world.history, |event| event.name() == "UndoStarted");
    assert!(failed.contains(&turned[0]), "the history of a volume tells why its operation failed");
}

#[test]
fn a_marker_of_operations_that_is_not_there_is_refused() {
    let (_folder, views, _log) = views_of(&example(100));
    let unknown = OperationId::from_uuid(uuid::Uuid::nil());
    let error = views.operations(&OperationQuery { marker: Some(unknown), ..OperationQuery::default() });
    assert!(matches!(error.unwrap_err(), QueryError::MarkerNotFound { .. }));
    assert_eq!(views.operation(unknown).unwrap(), None);
    assert_eq!(views.volume(VolumeId::from_uuid(uuid::Uuid::nil())).unwrap(), None);
}
