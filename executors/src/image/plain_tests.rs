#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use serde_json::json;
use tephra_domain::ids::{ImageId, ProjectId};
use tephra_domain::image::NewImage;
use uuid::Uuid;

use super::super::store::{ImageError, ImageStore as _};
use super::DirectoryStore;

fn new_image(id: Uuid) -> NewImage {
    NewImage {
        id: ImageId::from_uuid(id),
        owner: ProjectId::new("project"),
        name: "golden".into(),
        disk_format: "raw".into(),
        container_format: "bare".into(),
        visibility: None,
        protected: false,
        properties: BTreeMap::from([("os_distro".to_owned(), "debian".to_owned())]),
    }
}

#[tokio::test]
async fn what_is_published_can_be_fetched_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::new(folder.path());
    let (id, from, to) = (Uuid::from_u128(7), folder.path().join("from"), folder.path().join("to"));
    std::fs::write(&from, b"disk").unwrap();
    store.publish(&new_image(id), &from).await.unwrap();
    std::fs::write(&from, b"another").unwrap();
    store.publish(&new_image(id), &from).await.unwrap();
    let image = store.image(id).await.unwrap();
    assert_eq!(
        (image.name.as_deref(), image.size, image.status.as_str()),
        (Some("golden"), Some(4), "active")
    );
    assert_eq!(image.rest["os_distro"], "debian");
    store.fetch(&image, &to, 100).await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), b"disk");
    store.remove(id).await.unwrap();
    store.remove(id).await.unwrap();
    assert!(matches!(store.image(id).await, Err(ImageError::NotFound(_))));
}

#[tokio::test]
async fn a_description_names_no_file_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::new(folder.path());
    let id = Uuid::from_u128(8);
    for file in ["/etc/passwd", "../x", "a/b", "", "."] {
        let description = json!({"id": id, "status": "active", "file": file});
        std::fs::write(folder.path().join(format!("{id}.json")), description.to_string()).unwrap();
        let image = store.image(id).await.unwrap();
        let error = store.fetch(&image, &folder.path().join("to"), 100).await.unwrap_err();
        assert!(error.to_string().contains("not beside its description"), "{file}: {error}");
    }
}

#[tokio::test]
async fn a_description_that_is_none_or_anothers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::new(folder.path());
    let id = Uuid::from_u128(9);
    for description in
        ["", "{}", "[]", "{\"id\": \"00000000-0000-0000-0000-000000000001\", \"status\": \"active\"}"]
    {
        std::fs::write(folder.path().join(format!("{id}.json")), description).unwrap();
        assert!(matches!(store.image(id).await, Err(ImageError::Unacceptable { .. })), "{description}");
    }
}
