//! How pages, orders and filters are read.

use tephra_domain::actor::{Actor, Role};
use tephra_domain::ids::{RequestId, UserId};

use super::*;

fn read(query: &str, minor: &str) -> Result<(ListRequest, Microversion), String> {
    let mut headers = axum::http::HeaderMap::new();
    let value = format!("volume 3.{minor}").parse().map_err(|_| "no header")?;
    headers.insert(crate::microversion::HEADER, value);
    let version = Microversion::negotiate(&headers).map_err(|fault| fault.message().to_owned())?;
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let request = ListRequest::read(pairs, version).map_err(|fault| fault.message().to_owned())?;
    Ok((request, version))
}

fn scope(query: &str, minor: &str, role: Role, listed: Listed) -> Result<Scope, String> {
    let (request, version) = read(query, minor)?;
    let actor = Actor { user: UserId::new("u"), project: ProjectId::new("demo"), role, address: None };
    let identity = Identity { actor, request: RequestId::new("req-1") };
    request.scope(listed, &identity, version).map_err(|fault| fault.message().to_owned())
}

fn filters(query: &str, minor: &str) -> Result<Vec<Filter>, String> {
    scope(query, minor, Role::Member, Listed::Volumes).map(|scope| scope.filters)
}

#[test]
fn pages_are_bounded() {
    for (query, limit, offset) in [
        ("", 1000, 0),
        ("limit=0", 0, 0),
        ("limit=7&offset=3", 7, 3),
        ("limit=5000", 1000, 0),
        ("limit=99999999999999999999", 1000, 0),
    ] {
        let (request, _) = read(query, "0").expect("a page");
        assert_eq!((request.limit, request.offset), (limit, offset), "{query}");
    }
    for (query, message) in [
        ("limit=-1", "limit param must be positive"),
        ("limit=ten", "limit param must be an integer"),
        ("limit=", "limit param must be an integer"),
        ("limit=1.5", "limit param must be an integer"),
        ("offset=-1", "offset must be >= 0"),
        ("offset=x", "offset must be an integer"),
        ("offset=2147483648", "offset must be <= 2147483647"),
    ] {
        assert_eq!(read(query, "0").expect_err(query), message);
    }
}

#[test]
fn orders_are_read_and_completed() {
    use SortDirection::{Ascending, Descending};
    let order = |query| read(query, "0").map(|(request, _)| request.sort);
    assert_eq!(order(""), Ok(vec![]));
    assert_eq!(order("sort=created_at"), Ok(vec![]));
    let by_name = vec![(SortKey::Name, Ascending), (SortKey::CreatedAt, Ascending), (SortKey::Id, Ascending)];
    assert_eq!(order("sort=name:asc"), Ok(by_name.clone()));
    assert_eq!(order("sort_key=display_name&sort_dir=asc"), Ok(by_name));
    let two = vec![(SortKey::Size, Descending), (SortKey::Id, Ascending), (SortKey::CreatedAt, Descending)];
    assert_eq!(order("sort=size,id:asc"), Ok(two));
    for (query, message) in [
        ("sort=nothing", "Invalid input received: Invalid sort key"),
        ("sort=", "Invalid input received: Invalid sort key"),
        ("sort=id:up", "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'."),
        ("sort_dir=up", "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'."),
    ] {
        assert_eq!(order(query), Err(message.to_owned()));
    }
    assert!(order("sort=id&sort_key=id").is_err());
}

#[test]
fn filters_that_are_not_allowed_are_dropped_and_later_refused() {
    assert_eq!(
        filters("host=h&colour=red&status=error", "30"),
        Ok(vec![Filter::Status(vec!["error".into()])])
    );
    assert_eq!(
        filters("host=h&colour=red&all_tenants=1", "31"),
        Err("Invalid filters colour,host are found in query options.".to_owned())
    );
    assert_eq!(filters("all_tenants=1", "31"), Ok(vec![]));
    assert_eq!(filters("name~=v", "33"), Err("Invalid filters name~ are found in query options.".to_owned()));
    assert_eq!(filters("name~=v", "34"), Ok(vec![Filter::NameLike("v".into())]));
    let admin = scope("host=h&colour=red", "71", Role::Admin, Listed::Volumes).expect("a scope");
    assert_eq!(admin.filters, [Filter::Nothing, Filter::Host("h".into())]);
}

#[test]
fn filters_read_their_values_as_cinder_does() {
    let pairs = vec![("k".to_owned(), "v".to_owned())];
    for (query, minor, expected) in [
        ("metadata={'k': 'v'}", "0", vec![Filter::Metadata(pairs.clone())]),
        ("metadata={\"k\":\"v\"}", "71", vec![Filter::Metadata(pairs)]),
        ("metadata=k", "0", vec![Filter::Nothing]),
        (
            "status=['error', 'available']",
            "0",
            vec![Filter::Status(vec!["error".into(), "available".into()])],
        ),
        ("size=2", "0", vec![Filter::SizeGib(2)]),
        ("size=big", "0", vec![Filter::Nothing]),
        ("bootable=bogus", "1", vec![Filter::Bootable(true)]),
        ("bootable=False", "1", vec![Filter::Bootable(false)]),
        ("bootable=0", "2", vec![Filter::Bootable(false)]),
        ("consumes_quota=true", "71", vec![]),
        ("consumes_quota=false", "71", vec![Filter::Nothing]),
        ("created_at=gt:2026-01-01", "59", vec![]),
        (
            "created_at=gte:1970-01-01T00:00:01,lt:1970-01-01T02:00:00+02:00",
            "60",
            vec![
                Filter::CreatedAt(TimeFilter::AtOrAfter(Timestamp(1_000_000))),
                Filter::CreatedAt(TimeFilter::Before(Timestamp(0))),
            ],
        ),
    ] {
        assert_eq!(filters(query, minor), Ok(expected), "{query} at 3.{minor}");
    }
    for (query, message) in [
        ("bootable=bogus", "Invalid input received: 'bootable = bogus'"),
        ("created_at=after:2026-01-01", "Invalid after operator"),
        ("created_at=gt:yesterday", "Invalid yesterday value"),
        ("created_at=", "Invalid  operator"),
        ("with_count=x", "Value 'x' for 'with_count' is not a boolean."),
    ] {
        assert_eq!(filters(query, "60"), Err(message.to_owned()));
    }
}

#[test]
fn only_administrators_see_everybodys() {
    let project = |query, role| scope(query, "71", role, Listed::Volumes).map(|scope| scope.project);
    let demo = Some(ProjectId::new("demo"));
    assert_eq!(project("all_tenants=1", Role::Member), Ok(demo.clone()));
    assert_eq!(project("all_tenants=0", Role::Admin), Ok(demo));
    assert_eq!(project("all_tenants=True", Role::Admin), Ok(None));
    assert_eq!(project("all_tenants=1&project_id=p", Role::Admin), Ok(Some(ProjectId::new("p"))));
    let own_only = scope("project_id=p", "71", Role::Admin, Listed::Volumes).expect("a scope");
    assert_eq!(own_only.filters, [Filter::Nothing]);
    assert!(project("all_tenants=maybe", Role::Admin).is_err());
}

#[test]
fn the_next_page_is_asked_for_in_the_same_way() {
    let (request, _) = read("limit=2&marker=old&name=a b&metadata={'k':'v'}", "71").expect("a page");
    assert_eq!(request.next_query("new"), "?limit=2&name=a+b&metadata=%7B%27k%27%3A%27v%27%7D&marker=new");
}
