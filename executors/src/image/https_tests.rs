#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use reqwest::{Client, Url};
use serde_json::{Value, json};
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::{ImageId, ProjectId};
use tephra_domain::image::NewImage;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::super::store::{ImageError, ImageStore as _};
use super::{DESCRIPTION_LIMIT_BYTES, HttpsStore};

/// What is said to whoever asks for a path.
struct Answer {
    status: u16,
    body: Vec<u8>,
    /// What it is announced to have, where that is not so.
    announced: Option<usize>,
}

impl Answer {
    fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), announced: None }
    }

    fn no(status: u16) -> Self {
        Self { status, ..Self::ok("no") }
    }

    /// Ends before it is whole.
    fn breaking_off(body: &[u8]) -> Self {
        Self { announced: Some(body.len() * 2), ..Self::ok(body) }
    }
}

/// A web server with these answers; everything else is not found.
async fn serving(answers: impl IntoIterator<Item = (String, Answer)>) -> HttpsStore {
    let answers: Arc<BTreeMap<String, Answer>> = Arc::new(answers.into_iter().collect());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/images", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let answers = Arc::clone(&answers);
            tokio::spawn(async move { drop(answer(connection, &answers).await) });
        }
    });
    HttpsStore::new(Client::new(), base.parse().unwrap())
}

async fn answer(connection: TcpStream, answers: &BTreeMap<String, Answer>) -> std::io::Result<()> {
    let mut connection = BufReader::new(connection);
    let mut asked = String::new();
    connection.read_line(&mut asked).await?;
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let not_found = Answer::no(404);
    let path = asked.split(' ').nth(1).unwrap_or_default();
    let answer = path.strip_prefix("/images/").and_then(|name| answers.get(name)).unwrap_or(&not_found);
    let length = answer.announced.unwrap_or(answer.body.len());
    let head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n", answer.status);
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(&answer.body).await?;
    connection.shutdown().await
}

fn id() -> Uuid {
    Uuid::from_u128(0x1_4000_8000_0000_0000_0007)
}

fn description(more: Value) -> (String, Answer) {
    let mut fields = json!({"id": id(), "status": "active", "disk_format": "raw", "size": 4});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    (format!("{}.json", id()), Answer::ok(fields.to_string()))
}

/// Looks at the image and fetches it: its bytes, or what went wrong first.
async fn fetched(answers: impl IntoIterator<Item = (String, Answer)>) -> Result<Vec<u8>, ImageError> {
    let store = serving(answers).await;
    let image = store.image(id()).await?;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("image");
    store.fetch(&image, &to, 1000).await?;
    Ok(std::fs::read(to).unwrap())
}

#[tokio::test]
async fn an_image_is_fetched_from_beside_its_description() {
    let file = |name: &str| (name.to_owned(), Answer::ok("disk"));
    assert_eq!(fetched([description(json!({})), file(&id().to_string())]).await.unwrap(), b"disk");
    let named = description(json!({"file": "golden 1.raw"}));
    assert_eq!(fetched([named, file("golden%201.raw")]).await.unwrap(), b"disk");
    for elsewhere in ["../golden.raw", "/etc/passwd", "a/b"] {
        let error = fetched([description(json!({"file": elsewhere}))]).await.unwrap_err();
        assert!(error.to_string().contains("not beside its description"), "{error}");
    }
}

#[tokio::test]
async fn an_image_that_is_not_what_its_description_says_is_refused() {
    let file = || (id().to_string(), Answer::ok("disk"));
    for (more, reason) in [
        (json!({"size": 3}), "longer than the 3 bytes"),
        (json!({"size": 5}), "has 4 bytes, its store announces 5"),
        (json!({"checksum": "00"}), "its store announces 00"),
        (json!({"id": Uuid::nil()}), "that of another image"),
    ] {
        let error = fetched([description(more), file()]).await.unwrap_err();
        assert!(matches!(error, ImageError::Unacceptable { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let long = (id().to_string(), Answer::ok(vec![0; 1001]));
    let error = fetched([description(json!({"size": null})), long]).await.unwrap_err();
    assert!(error.to_string().contains("all that fits"), "{error}");
}

#[tokio::test]
async fn what_the_server_answers_has_its_word() {
    let described = |answer| [(format!("{}.json", id()), answer)];
    let filed = |answer| [description(json!({})), (id().to_string(), answer)];
    for (status, kind) in [
        (404, FailureKind::ObjectMissing),
        (401, FailureKind::Mismatch),
        (403, FailureKind::Mismatch),
        (302, FailureKind::BackendUnavailable),
        (500, FailureKind::BackendUnavailable),
        (503, FailureKind::BackendUnavailable),
    ] {
        let failure = Failure::from(fetched(described(Answer::no(status))).await.unwrap_err());
        assert_eq!(failure.kind, kind, "{status}: {failure}");
        let failure = Failure::from(fetched(filed(Answer::no(status))).await.unwrap_err());
        assert_eq!(failure.kind, kind, "{status}: {failure}");
    }
    let nonsense = fetched(described(Answer::ok("no JSON"))).await.unwrap_err();
    assert!(nonsense.to_string().contains("its description cannot be read"), "{nonsense}");
    let long = fetched(described(Answer::ok(vec![b' '; DESCRIPTION_LIMIT_BYTES + 1]))).await.unwrap_err();
    assert!(long.to_string().contains("its answer is too long"), "{long}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_the_servers_failure_and_comes_without_its_address() {
    let broken_file = (id().to_string(), Answer::breaking_off(b"di"));
    let in_the_file = fetched([description(json!({})), broken_file]).await.unwrap_err();
    assert!(in_the_file.to_string().contains("its file broke off"), "{in_the_file}");
    let broken = (format!("{}.json", id()), Answer::breaking_off(b"{\"id\""));
    let in_the_description = fetched([broken]).await.unwrap_err();
    // nobody listens where somebody has just stopped to
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base: Url = format!("http://{}/?key=secret", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let at_the_door = HttpsStore::new(Client::new(), base).image(id()).await.unwrap_err();
    for error in [in_the_file, in_the_description, at_the_door] {
        assert!(!error.to_string().contains("secret") && !error.to_string().contains("127.0.0.1"), "{error}");
        assert_eq!(Failure::from(error).kind, FailureKind::BackendUnavailable);
    }
}

#[tokio::test]
async fn it_can_only_be_read() {
    let store = serving([description(json!({}))]).await;
    let new = NewImage {
        id: ImageId::from_uuid(id()),
        owner: ProjectId::new("project"),
        name: "golden".into(),
        disk_format: "raw".into(),
        container_format: "bare".into(),
        visibility: None,
        protected: false,
        properties: BTreeMap::new(),
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = [store.publish(&new, file.path()).await, store.remove(id()).await];
    for error in refused.map(Result::unwrap_err) {
        assert!(error.to_string().ends_with("it can only be read"), "{error}");
        assert_eq!(Failure::from(error).kind, FailureKind::Unsupported);
    }
    store.image(id()).await.unwrap();
}
