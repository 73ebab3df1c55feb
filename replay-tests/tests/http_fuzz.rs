//! Requests drawn at random for every route of the OpenAPI document: bodies that were right and were
//! then bent, queries and ids of every kind. None is a fault of the server, each refusal is a fault
//! as Cinder words it and changes nothing, and the log verifies afterwards.
//!
//! `TEPHRA_SEED=N` runs one seed; `TEPHRA_SEEDS=N` runs that many.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use fastrand::Rng;
use serde_json::{Map, Value, json};
use tephra_replay_tests::served::{Client, Executor, Reply, Served};

const SEEDS: u64 = 8;
const REQUESTS: usize = 400;

/// Routes that stream or walk the whole log, and those without a project.
const LEFT_OUT: &[&str] = &["/ledger/v1/events/live", "/ledger/v1/verify", "/metrics"];

const SEVERAL: &[&str] = &[
    "",
    " ",
    "a",
    "true",
    "False",
    "none",
    "0",
    "-1",
    "1",
    "2147483648",
    "1e400",
    "NaN",
    "2024-13-45T99:99:99",
    "gt:2024-01-01T00:00:00",
    "lt:",
    "{'k': 'v'}",
    "{'k': ",
    "['available', 'error']",
    "é",
    "🌋",
    "%",
    "../..",
    "a\u{0}b",
    "name:asc",
    "created_at:desc,id",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "available",
];

const PARAMETERS: &[&str] = &[
    "limit",
    "marker",
    "offset",
    "sort",
    "sort_key",
    "sort_dir",
    "all_tenants",
    "with_count",
    "name",
    "name~",
    "status",
    "status~",
    "metadata",
    "created_at",
    "updated_at",
    "bootable",
    "size",
    "host",
    "volume_id",
    "project_id",
    "cascade",
    "force",
    "detail",
    "usage",
    "is_public",
    "at",
    "position",
    "after",
    "kind",
    "colour",
];

const VERSIONS: &[&str] = &["3.0", "3.7", "3.22", "3.31", "3.40", "3.48", "3.60", "3.71"];

struct Fuzz<'a> {
    random: Rng,
    routes: Vec<(String, String)>,
    ids: Vec<String>,
    client: Client<'a>,
}

impl Fuzz<'_> {
    fn word(&mut self) -> String {
        match self.random.u8(0..8) {
            0 => "x".repeat(self.random.usize(250..300)),
            1 | 2 => self.random.choice(&self.ids).unwrap().clone(),
            _ => (*self.random.choice(SEVERAL).unwrap()).to_owned(),
        }
    }

    fn leaf(&mut self) -> Value {
        match self.random.u8(0..10) {
            0 => Value::Null,
            1 => json!(self.random.bool()),
            2 => json!(self.random.i64(-3..20)),
            3 => json!(self.random.choice([i64::MAX, i64::MIN, 1 << 31, 1 << 32]).unwrap()),
            4 => json!(1.5e300),
            5 => json!([]),
            6 => json!({ self.word(): self.random.u8(..) }),
            _ => json!(self.word()),
        }
    }

    /// A body that some route takes.
    fn right_body(&mut self) -> Value {
        let id = self.random.choice(&self.ids).unwrap().clone();
        let bodies = [
            json!({"volume": {"size": 1, "name": "n", "metadata": {"k": "v"}}}),
            json!({"volume": {"size": 2, "snapshot_id": id}}),
            json!({"volume": {"source_volid": id, "availability_zone": "nova"}}),
            json!({"volume": {"name": "n", "description": "d"}}),
            json!({"snapshot": {"volume_id": id, "name": "n", "force": true, "metadata": {}}}),
            json!({"snapshot": {"name": "n", "description": null}}),
            json!({"metadata": {"k": "v", "l": "w"}}),
            json!({"meta": {"k": "v"}}),
            json!({"os-extend": {"new_size": 2}}),
            json!({"revert": {"snapshot_id": id}}),
            json!({"os-reset_status": {"status": "available", "attach_status": "detached"}}),
            json!({"os-force_delete": {}}),
            json!({"os-set_bootable": {"bootable": true}}),
            json!({"os-update_readonly_flag": {"readonly": true}}),
            json!({"volume_type": {"name": "t", "extra_specs": {"k": "v"}, "os-volume-type-access:is_public": true}}),
            json!({"extra_specs": {"k": "v"}}),
            json!({"addProjectAccess": {"project": "p"}}),
            json!({"quota_set": {"volumes": 10, "gigabytes": 100}}),
            json!({"quota_class_set": {"volumes": 10}}),
            json!({"host": "h@b", "binary": "cinder-volume", "disabled_reason": "why"}),
            json!({}),
        ];
        self.random.choice(bodies).unwrap()
    }

    fn bend(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() && self.random.u8(0..5) > 0 => {
                self.bend_fields(fields)
            }
            Value::Array(items) if !items.is_empty() => {
                let at = self.random.usize(0..items.len());
                self.bend(&mut items[at]);
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => *value = self.leaf(),
        }
    }

    fn bend_fields(&mut self, fields: &mut Map<String, Value>) {
        let key = self.random.choice(fields.keys().cloned().collect::<Vec<_>>()).unwrap();
        match self.random.u8(0..4) {
            0 => {
                fields.remove(&key);
            }
            1 => {
                let (name, leaf) = (self.word(), self.leaf());
                fields.insert(name, leaf);
            }
            _ => self.bend(&mut fields[&key]),
        }
    }

    fn body(&mut self) -> Vec<u8> {
        let mut body = self.right_body();
        for _ in 0..self.random.u8(0..4) {
            self.bend(&mut body);
        }
        let mut bytes = body.to_string().into_bytes();
        match self.random.u8(0..12) {
            0 => bytes.truncate(self.random.usize(0..=bytes.len())),
            1 if !bytes.is_empty() => {
                let at = self.random.usize(0..bytes.len());
                bytes[at] = self.random.u8(..);
            }
            2 => bytes = vec![b'['; 3000],
            _ => {}
        }
        bytes
    }

    /// A path with its ids filled in.
    fn path(&mut self, route: &str) -> String {
        let mut path = String::new();
        let mut rest = route;
        while let Some((before, after)) = rest.split_once('{') {
            path.push_str(before);
            path.push_str(&encoded(&self.word()));
            rest = after.split_once('}').map_or("", |(_, rest)| rest);
        }
        path.push_str(rest);
        for n in 0..self.random.u8(0..3) {
            path.push(if n == 0 { '?' } else { '&' });
            path.push_str(&encoded(self.random.choice(PARAMETERS).unwrap()));
            path.push('=');
            path.push_str(&encoded(&self.word()));
        }
        path
    }

    async fn one(&mut self) -> (String, Reply) {
        let (method, route) = self.random.choice(&self.routes).unwrap().clone();
        let path = self.path(&route);
        let body = if method == "POST" || method == "PUT" { Some(self.body()) } else { None };
        let version = *self.random.choice(VERSIONS).unwrap();
        let shown = body.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        let reply = self.client.clone().at(version).send(&method, &path, body).await;
        (format!("{version} {method} {path} {shown}"), reply)
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn routes() -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let is_in = path.starts_with("/v3/") || path.starts_with("/ledger/v1/");
        if !is_in || LEFT_OUT.contains(&path.as_str()) {
            continue;
        }
        let methods = methods.as_object().unwrap().keys();
        routes.extend(methods.filter(|key| *key != "parameters").map(|m| (m.to_uppercase(), path.clone())));
    }
    assert!(routes.len() > 40, "the document has lost its routes");
    routes
}

async fn run(seed: u64) {
    // While no executor works, nothing but a request can change anything.
    let sleeps = seed.is_multiple_of(2);
    let served = Served::start(if sleeps { Executor::Sleeps } else { Executor::Works }).await;
    let member = served.member();
    let mut ids = vec!["default".to_owned(), "demo".to_owned()];
    if sleeps {
        ids.push(member.post("/volumes", &json!({"volume": {"size": 1}})).await.ok().id("volume"));
    } else {
        let volume = member.volume(1).await;
        ids.push(member.snapshot(&volume).await);
        ids.push(volume);
    }
    let types = member.get("/types").await.ok().json;
    ids.push(types["volume_types"][0]["id"].as_str().unwrap().to_owned());
    let client = served.admin().at_root();
    let mut fuzz = Fuzz { random: Rng::with_seed(seed), routes: routes(), ids, client };
    let mut accepted = 0;
    for _ in 0..REQUESTS {
        let before = served.views.checkpoint().position;
        let (request, reply) = fuzz.one().await;
        let status = reply.status.as_u16();
        assert!(status < 500, "seed {seed}: {request}: {status} {}", reply.json);
        accepted += usize::from(status < 300);
        if status >= 400 {
            let (name, message) = reply.fault();
            assert!(!name.is_empty() && !message.is_empty(), "seed {seed}: {request}: {}", reply.json);
            let after = served.views.checkpoint().position;
            assert!(!sleeps || after == before, "seed {seed}: {request} was refused and changed something");
        }
        if let Some(id) = reply.json["volume"]["id"].as_str().or(reply.json["snapshot"]["id"].as_str()) {
            fuzz.ids.push(id.to_owned());
        }
    }
    assert!(accepted > REQUESTS / 20, "seed {seed}: only {accepted} requests were right: this proves little");
    let verified = served.admin().at_root().get("/ledger/v1/verify").await.ok().json;
    assert_eq!(verified["intact"], true, "seed {seed}: {verified}");
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[tokio::test]
async fn no_request_is_a_fault_of_the_server() {
    let seeds = match from_environment("TEPHRA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("TEPHRA_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        run(seed).await;
    }
}
