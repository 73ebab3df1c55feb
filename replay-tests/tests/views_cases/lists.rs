//! Lists against a naive model: all rows in a vector, filtered, sorted and cut as Cinder's SQL does.

use std::cmp::Ordering;

use proptest::prelude::*;
use proptest::sample::select;
use tephra_domain::ids::{ProjectId, SnapshotId, VolumeId};
use tephra_domain::ledger::Ledger;
use tephra_domain::snapshot::Snapshot;
use tephra_domain::units::Timestamp;
use tephra_domain::volume::{Volume, VolumeSource};
use tephra_domain::volume_type::DEFAULT_TYPE_ID;
use tephra_projector::query::{Filter, ListQuery, SortDirection, SortKey, TimeFilter};
use tephra_projector::{QueryError, Views};
use tephra_replay_tests::drawn::{NAMES, PROJECTS, VALUES, blocks, example, moves, play};

/// A value of a row, as a database compares it: what is missing comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Missing,
    Number(i64),
    Text(String),
}

fn text(text: impl ToString) -> Value {
    Value::Text(text.to_string())
}

fn optional(value: Option<&str>) -> Value {
    value.map_or(Value::Missing, text)
}

fn moment(time: Option<Timestamp>) -> Value {
    time.map_or(Value::Missing, |time| Value::Number(time.0))
}

/// What the model knows of a row.
#[derive(Clone, Debug)]
struct Known {
    id: String,
    project: ProjectId,
    columns: Vec<(&'static str, Value)>,
    metadata: Vec<(String, String)>,
}

impl Known {
    fn column(&self, name: &str) -> Value {
        let found = self.columns.iter().find(|(column, _)| *column == name);
        found.map_or(Value::Missing, |(_, value)| value.clone())
    }

    fn contains(&self, column: &str, part: &str) -> bool {
        matches!(self.column(column), Value::Text(text) if text.contains(part))
    }

    fn passes(&self, filter: &Filter) -> bool {
        let is = |column: &str, value: Value| self.column(column) == value;
        let time = |column: &str, filter: TimeFilter| {
            let Value::Number(at) = self.column(column) else { return false };
            match filter {
                TimeFilter::After(t) => at > t.0,
                TimeFilter::AtOrAfter(t) => at >= t.0,
                TimeFilter::Before(t) => at < t.0,
                TimeFilter::AtOrBefore(t) => at <= t.0,
                TimeFilter::At(t) => at == t.0,
                TimeFilter::NotAt(t) => at != t.0,
            }
        };
        match filter {
            Filter::Name(name) => is("name", text(name)),
            Filter::NameLike(part) => self.contains("name", part),
            Filter::Description(asked) => is("description", text(asked)),
            Filter::DescriptionLike(part) => self.contains("description", part),
            Filter::Status(any) => any.iter().any(|status| is("status", text(status))),
            Filter::StatusLike(part) => self.contains("status", part),
            Filter::Metadata(all) => all.iter().all(|pair| self.metadata.contains(pair)),
            Filter::AvailabilityZone(zone) => is("zone", text(zone)),
            Filter::VolumeType(id) => is("type", text(id)),
            Filter::Bootable(asked) => is("bootable", Value::Number(i64::from(*asked))),
            Filter::Host(host) => is("host", text(host)) || self.contains("host", &format!("{host}#")),
            Filter::SnapshotId(id) => is("snapshot", text(id)),
            Filter::SourceVolume(id) => is("source", text(id)),
            Filter::VolumeId(id) => is("volume", text(id)),
            Filter::User(user) => is("user", text(user)),
            Filter::SizeGib(gib) => is("size", Value::Number(i64::from(*gib))),
            Filter::CreatedAt(filter) => time("created", *filter),
            Filter::UpdatedAt(filter) => time("updated", *filter),
            Filter::Nothing => false,
        }
    }

    fn sorted_by(&self, key: SortKey) -> Value {
        match key {
            SortKey::Id => text(&self.id),
            SortKey::Status => self.column("status"),
            SortKey::Size => self.column("size"),
            SortKey::AvailabilityZone => self.column("zone"),
            SortKey::Name => self.column("name"),
            SortKey::Bootable => self.column("bootable"),
            SortKey::CreatedAt => self.column("created"),
            SortKey::UpdatedAt => self.column("updated"),
            // A volume has no such column.
            SortKey::VolumeId if self.column("zone") != Value::Missing => Value::Missing,
            SortKey::VolumeId => self.column("volume"),
            SortKey::Host => self.column("host"),
            SortKey::Project => text(&self.project),
            SortKey::VolumeType => self.column("type"),
            SortKey::Description => self.column("description"),
        }
    }

    fn cmp(&self, other: &Self, sort: &[(SortKey, SortDirection)]) -> Ordering {
        let default = sort.first().map_or(SortDirection::Descending, |(_, direction)| *direction);
        let ties = [(SortKey::CreatedAt, default), (SortKey::Id, default)];
        for (key, direction) in sort.iter().chain(&ties) {
            let ordering = self.sorted_by(*key).cmp(&other.sorted_by(*key));
            let ordering = match direction {
                SortDirection::Ascending => ordering,
                SortDirection::Descending => ordering.reverse(),
            };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        Ordering::Equal
    }
}

fn of_volume(volume: &Volume) -> Known {
    let (snapshot, source) = match volume.source {
        VolumeSource::Blank | VolumeSource::Image(_) => (Value::Missing, Value::Missing),
        VolumeSource::Snapshot(id) => (text(id), Value::Missing),
        VolumeSource::Volume(id) => (Value::Missing, text(id)),
    };
    let mut metadata: Vec<(String, String)> =
        volume.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    metadata.extend(volume.readonly.map(|is| ("readonly".into(), if is { "True" } else { "False" }.into())));
    Known {
        id: volume.id.to_string(),
        project: volume.project.clone(),
        columns: vec![
            ("name", optional(volume.name.as_deref())),
            ("description", optional(volume.description.as_deref())),
            ("status", text(volume.status.wire_name())),
            ("zone", text(&volume.availability_zone)),
            ("type", text(volume.volume_type)),
            ("bootable", Value::Number(i64::from(volume.bootable))),
            ("host", volume.pool.as_ref().map_or(Value::Missing, |pool| text(format!("host@{pool}")))),
            ("snapshot", snapshot),
            ("source", source),
            ("volume", text(volume.id)),
            ("user", text(&volume.user)),
            ("size", Value::Number(i64::from(volume.size.gib()))),
            ("created", moment(Some(volume.created_at))),
            ("updated", moment(volume.updated_at)),
        ],
        metadata,
    }
}

fn of_snapshot(snapshot: &Snapshot) -> Known {
    Known {
        id: snapshot.id.to_string(),
        project: snapshot.project.clone(),
        columns: vec![
            ("name", optional(snapshot.name.as_deref())),
            ("description", optional(snapshot.description.as_deref())),
            ("status", text(snapshot.status.wire_name())),
            ("type", text(snapshot.volume_type)),
            ("host", text(format!("host@{}", snapshot.pool))),
            ("snapshot", text(snapshot.id)),
            ("volume", text(snapshot.volume)),
            ("user", text(&snapshot.user)),
            ("size", Value::Number(i64::from(snapshot.size.gib()))),
            ("created", moment(Some(snapshot.created_at))),
            ("updated", moment(snapshot.updated_at)),
        ],
        metadata: snapshot.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

/// The model's answer: ids of the page and the count; nothing if the marker is not found.
fn expected<Id: ToString>(all: &[Known], query: &ListQuery<Id>) -> Option<(Vec<String>, u64)> {
    let visible = |row: &&Known| query.project.as_ref().is_none_or(|project| row.project == *project);
    let marker = match &query.marker {
        None => None,
        Some(id) => Some(all.iter().filter(visible).find(|row| row.id == id.to_string())?),
    };
    let passing = all.iter().filter(visible);
    let mut rows: Vec<&Known> =
        passing.filter(|row| query.filters.iter().all(|filter| row.passes(filter))).collect();
    let count = rows.len() as u64;
    rows.sort_by(|a, b| a.cmp(b, &query.sort));
    let after = rows
        .into_iter()
        .filter(|row| marker.is_none_or(|marker| row.cmp(marker, &query.sort) == Ordering::Greater));
    Some((after.skip(query.offset).take(query.limit).map(|row| row.id.clone()).collect(), count))
}

/// A filter, with numbers that choose ids and moments among what there is.
#[derive(Clone, Debug)]
enum Drawn {
    Is(Filter),
    Volume(u8),
    Snapshot(u8),
    Source(u8),
    Created(u8, u8),
    Updated(u8, u8),
}

fn filters() -> impl Strategy<Value = Drawn> {
    let owned = |text: &&str| (*text).to_owned();
    let name = select(NAMES.iter().flatten().map(owned).collect::<Vec<_>>());
    let statuses = ["available", "error", "creating", "deleting", "error_deleting", "no-such"];
    let status = select(statuses.map(str::to_owned).to_vec());
    let value = select(VALUES.iter().map(owned).collect::<Vec<_>>());
    let pair = prop_oneof![
        4 => value.prop_map(|value| ("k".to_owned(), value)),
        1 => Just(("readonly".to_owned(), "True".to_owned())),
    ];
    prop_oneof![
        3 => name.clone().prop_map(|name| Drawn::Is(Filter::Name(name))),
        1 => name.clone().prop_map(|name| Drawn::Is(Filter::NameLike(name))),
        1 => name.clone().prop_map(|name| Drawn::Is(Filter::Description(name))),
        1 => name.prop_map(|name| Drawn::Is(Filter::DescriptionLike(name))),
        4 => proptest::collection::vec(status, 0..4).prop_map(|any| Drawn::Is(Filter::Status(any))),
        1 => select(vec!["err", "a", ""]).prop_map(|part| Drawn::Is(Filter::StatusLike(part.to_owned()))),
        2 => proptest::collection::vec(pair, 0..3).prop_map(|all| Drawn::Is(Filter::Metadata(all))),
        1 => select(vec!["nova", "mars"]).prop_map(|zone| Drawn::Is(Filter::AvailabilityZone(zone.into()))),
        1 => Just(Drawn::Is(Filter::VolumeType(DEFAULT_TYPE_ID))),
        1 => any::<bool>().prop_map(|is| Drawn::Is(Filter::Bootable(is))),
        1 => select(vec!["host@one#one", "host@one", "host", "host@on"])
            .prop_map(|host| Drawn::Is(Filter::Host(host.into()))),
        1 => select(vec!["somebody", "nobody"]).prop_map(|user| Drawn::Is(Filter::User(user.into()))),
        1 => (1..4_u32).prop_map(|gib| Drawn::Is(Filter::SizeGib(gib))),
        3 => any::<u8>().prop_map(Drawn::Volume),
        1 => any::<u8>().prop_map(Drawn::Snapshot),
        1 => any::<u8>().prop_map(Drawn::Source),
        1 => any::<(u8, u8)>().prop_map(|(at, how)| Drawn::Created(at, how)),
        1 => any::<(u8, u8)>().prop_map(|(at, how)| Drawn::Updated(at, how)),
        1 => Just(Drawn::Is(Filter::Nothing)),
    ]
}

fn sorts() -> impl Strategy<Value = Vec<(SortKey, SortDirection)>> {
    let keys = vec![
        SortKey::Id,
        SortKey::Status,
        SortKey::Size,
        SortKey::AvailabilityZone,
        SortKey::Name,
        SortKey::Bootable,
        SortKey::CreatedAt,
        SortKey::UpdatedAt,
        SortKey::VolumeId,
        SortKey::Host,
        SortKey::Project,
        SortKey::VolumeType,
        SortKey::Description,
    ];
    let directions = vec![SortDirection::Ascending, SortDirection::Descending];
    proptest::collection::vec((select(keys), select(directions)), 0..4)
}

#[derive(Clone, Debug)]
struct DrawnQuery {
    project: Option<u8>,
    filters: Vec<Drawn>,
    sort: Vec<(SortKey, SortDirection)>,
    marker: Option<u8>,
    offset: usize,
    limit: usize,
}

fn queries() -> impl Strategy<Value = Vec<DrawnQuery>> {
    let one = (
        proptest::option::of(any::<u8>()),
        proptest::collection::vec(filters(), 0..3),
        sorts(),
        proptest::option::of(any::<u8>()),
        prop_oneof![3 => Just(0_usize), 1 => 0..5_usize],
        0..12_usize,
    )
        .prop_map(|(project, filters, sort, marker, offset, limit)| DrawnQuery {
            project,
            filters,
            sort,
            marker,
            offset,
            limit,
        });
    proptest::collection::vec(one, 40)
}

fn pick<T: Clone>(all: &[T], by: u8) -> Option<T> {
    all.get(usize::from(by) % all.len().max(1)).cloned()
}

fn query<Id: Clone>(drawn: &DrawnQuery, ledger: &Ledger, ids: &[Id]) -> ListQuery<Id> {
    let volumes: Vec<(VolumeId, Volume)> =
        ledger.volumes.sorted().into_iter().map(|(id, row)| (*id, row.clone())).collect();
    let snapshots: Vec<SnapshotId> = ledger.snapshots.sorted().into_iter().map(|(id, _)| *id).collect();
    let time = |at: u8, how: u8| {
        let at = pick(&volumes, at).map_or(Timestamp(0), |(_, row)| row.updated_at.unwrap_or(row.created_at));
        let all = [
            TimeFilter::After(at),
            TimeFilter::AtOrAfter(at),
            TimeFilter::Before(at),
            TimeFilter::AtOrBefore(at),
            TimeFilter::At(at),
            TimeFilter::NotAt(at),
        ];
        all[usize::from(how) % all.len()]
    };
    let filters = drawn.filters.iter().filter_map(|filter| {
        Some(match filter.clone() {
            Drawn::Is(filter) => filter,
            Drawn::Volume(by) => Filter::VolumeId(pick(&volumes, by)?.0),
            Drawn::Snapshot(by) => Filter::SnapshotId(pick(&snapshots, by)?),
            Drawn::Source(by) => Filter::SourceVolume(pick(&volumes, by)?.0),
            Drawn::Created(at, how) => Filter::CreatedAt(time(at, how)),
            Drawn::Updated(at, how) => Filter::UpdatedAt(time(at, how)),
        })
    });
    ListQuery {
        project: drawn.project.and_then(|by| pick(PROJECTS, by)).map(ProjectId::new),
        filters: filters.collect(),
        sort: drawn.sort.clone(),
        marker: drawn.marker.and_then(|by| pick(ids, by)),
        offset: drawn.offset,
        limit: drawn.limit,
        with_count: true,
    }
}

fn views_of(history: &[tephra_domain::event::Commit]) -> (tempfile::TempDir, Views) {
    let folder = tempfile::tempdir().unwrap();
    let views = Views::create_fresh(&folder.path().join("views.redb")).unwrap();
    views.take(&blocks(history, &[16]).0, false).unwrap();
    (folder, views)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn lists_are_what_a_database_would_answer(moves in moves(250), drawn in queries()) {
        let world = play(&moves);
        let (_folder, views) = views_of(&world.history);
        let ledger = world.ledger;
        let volumes: Vec<VolumeId> = ledger.volumes.sorted().into_iter().map(|(id, _)| *id).collect();
        let snapshots: Vec<SnapshotId> = ledger.snapshots.sorted().into_iter().map(|(id, _)| *id).collect();
        let known_volumes: Vec<Known> =
            ledger.volumes.sorted().into_iter().map(|(_, row)| of_volume(row)).collect();
        let known_snapshots: Vec<Known> =
            ledger.snapshots.sorted().into_iter().map(|(_, row)| of_snapshot(row)).collect();
        for drawn in &drawn {
            let asked = query(drawn, &ledger, &volumes);
            let page = match views.volumes(&asked) {
                Ok(page) => Some((page.rows.iter().map(|row| row.id.to_string()).collect(), page.count.unwrap())),
                Err(QueryError::MarkerNotFound { .. }) => None,
                Err(error) => panic!("{error}"),
            };
            prop_assert_eq!(page, expected(&known_volumes, &asked), "volumes {:?}", asked);

            let passing = known_volumes.iter().filter(|row| {
                asked.project.as_ref().is_none_or(|project| row.project == *project)
                    && asked.filters.iter().all(|filter| row.passes(filter))
            });
            let summary = views.summary(asked.project.as_ref(), &asked.filters, true).unwrap();
            let sizes: Vec<u64> = passing
                .map(|row| match row.column("size") { Value::Number(gib) => gib as u64, other @ (Value::Missing | Value::Text(_)) => panic!("{other:?}") })
                .collect();
            prop_assert_eq!((summary.count, summary.total_gib), (sizes.len() as u64, sizes.iter().sum()));

            let asked = query(drawn, &ledger, &snapshots);
            let page = match views.snapshots(&asked) {
                Ok(page) => Some((page.rows.iter().map(|row| row.id.to_string()).collect(), page.count.unwrap())),
                Err(QueryError::MarkerNotFound { .. }) => None,
                Err(error) => panic!("{error}"),
            };
            prop_assert_eq!(page, expected(&known_snapshots, &asked), "snapshots {:?}", asked);
        }
        for project in PROJECTS {
            let project = ProjectId::new(*project);
            let mut metadata = std::collections::BTreeMap::<String, std::collections::BTreeSet<String>>::new();
            for (_, row) in ledger.volumes.sorted().into_iter().filter(|(_, row)| row.project == project) {
                for (name, value) in &row.metadata {
                    metadata.entry(name.clone()).or_default().insert(value.clone());
                }
            }
            prop_assert_eq!(views.summary(Some(&project), &[], true).unwrap().metadata, metadata);
        }
    }
}

#[test]
fn pages_one_after_the_other_give_every_row_once() {
    let (_folder, views) = views_of(&example(400));
    for sort in [
        vec![],
        vec![(SortKey::Name, SortDirection::Ascending)],
        vec![(SortKey::Size, SortDirection::Descending)],
        vec![(SortKey::Description, SortDirection::Ascending)],
    ] {
        let mut asked = ListQuery {
            project: None,
            filters: vec![],
            sort,
            marker: None,
            offset: 0,
            limit: usize::MAX,
            with_count: false,
        };
        let all: Vec<VolumeId> = views.volumes(&asked).unwrap().rows.iter().map(|row| row.id).collect();
        assert!(all.len() > 20, "{}", all.len());
        let mut paged = Vec::new();
        asked.limit = 7;
        loop {
            let page = views.volumes(&asked).unwrap().rows;
            paged.extend(page.iter().map(|row| row.id));
            match page.last() {
                Some(last) => asked.marker = Some(last.id),
                None => break,
            }
        }
        assert_eq!(paged, all, "sorted by {:?}", asked.sort);
    }
}

#[test]
fn a_marker_of_another_project_is_not_found() {
    let (_folder, views) = views_of(&example(200));
    let ask = |project: Option<&str>, marker| ListQuery {
        project: project.map(ProjectId::new),
        filters: vec![],
        sort: vec![],
        marker,
        offset: 0,
        limit: 1,
        with_count: false,
    };
    let of = |project| views.volumes(&ask(Some(project), None)).unwrap().rows[0].id;
    let (alpha, beta) = (of("alpha"), of("beta"));
    assert!(views.volumes(&ask(Some("alpha"), Some(alpha))).is_ok());
    assert!(views.volumes(&ask(None, Some(beta))).is_ok());
    let error = views.volumes(&ask(Some("alpha"), Some(beta))).unwrap_err();
    assert_eq!(error.to_string(), format!("marker {beta} could not be found"));
}
