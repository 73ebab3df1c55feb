//! A Glance v2 endpoint (`GET /v2/images/{id}`, `…/file`, `POST /v2/images`, `PUT …/file`,
//! `DELETE /v2/images/{id}`).

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, header};
use serde_json::{Map, Value, json};
use tephra_domain::image::NewImage;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::download::{Expected, save};
use super::plain::{unanswered, whole};
use super::store::{Image, ImageError, ImageStore};
use super::upload::Uploads;

/// What a file is cut into on its way: so much must be taken within [`Uploads::idle_limit`].
const PIECE_BYTES: usize = 64 << 10;

/// A Glance.
pub struct GlanceStore {
    client: Client,
    uploads: Uploads,
    endpoint: Url,
    /// Holds the token that we show; read each time, so that it can be replaced while we run.
    token_file: Option<PathBuf>,
}

impl GlanceStore {
    /// The Glance at an endpoint, which is the address before `/v2`.
    pub const fn new(client: Client, uploads: Uploads, endpoint: Url, token_file: Option<PathBuf>) -> Self {
        Self { client, uploads, endpoint, token_file }
    }

    async fn request(&self, method: Method, parts: &[&str]) -> Result<RequestBuilder, ImageError> {
        self.request_by(&self.client, method, parts).await
    }

    async fn request_by(
        &self,
        client: &Client,
        method: Method,
        parts: &[&str],
    ) -> Result<RequestBuilder, ImageError> {
        let mut url = self.endpoint.clone();
        let Ok(mut path) = url.path_segments_mut() else {
            return Err(ImageError::Unavailable("its address has no path".to_owned()));
        };
        path.pop_if_empty().extend(["v2", "images"]).extend(parts);
        drop(path);
        let mut request = client.request(method, url);
        if let Some(file) = &self.token_file {
            let token = tokio::fs::read_to_string(file).await;
            let token = token.map_err(|error| ImageError::local("the token file cannot be read", error))?;
            let mut token = header::HeaderValue::from_str(token.trim())
                .map_err(|_| ImageError::Unavailable("the token file holds no token".to_owned()))?;
            token.set_sensitive(true);
            request = request.header("x-auth-token", token);
        }
        Ok(request)
    }

    async fn announce(&self, image: &NewImage) -> Result<Image, ImageError> {
        let id = image.id.as_uuid();
        let properties = image.properties.iter().map(|(key, value)| (key.clone(), value.clone().into()));
        let mut fields: Map<String, Value> = properties.collect();
        for (name, value) in [
            ("id", Value::String(id.to_string())),
            ("owner", image.owner.as_str().into()),
            ("name", (&*image.name).into()),
            ("disk_format", (&*image.disk_format).into()),
            ("container_format", (&*image.container_format).into()),
        ] {
            fields.insert(name.to_owned(), value);
        }
        if let Some(visibility) = &image.visibility {
            fields.insert("visibility".to_owned(), (&**visibility).into());
        }
        let request = self.request(Method::POST, &[]).await?.json(&fields);
        let response = checked(id, request.send().await.map_err(unanswered)?)?;
        described(&whole(response).await?)
    }

    async fn protect(&self, id: Uuid) -> Result<(), ImageError> {
        let change = json!([{ "op": "replace", "path": "/protected", "value": true }]);
        let request = self.request(Method::PATCH, &[&id.to_string()]).await?;
        let request = request.header(header::CONTENT_TYPE, "application/openstack-images-v2.1-json-patch");
        let response = request.body(change.to_string()).send().await.map_err(unanswered)?;
        checked(id, response).map(drop)
    }

    async fn publish_data(&self, id: Uuid, from: &Path) -> Result<(), ImageError> {
        let file = tokio::fs::File::open(from).await;
        let file = file.map_err(|error| ImageError::local("the image's file cannot be read", error))?;
        let (bytes, stopped) = self.uploads.watched(ReaderStream::with_capacity(file, PIECE_BYTES));
        let place = [&*id.to_string(), "file"];
        let request = self.request_by(&self.uploads.client, Method::PUT, &place).await?;
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        let sent = request.body(reqwest::Body::wrap_stream(bytes)).send();
        tokio::select! {
            answer = sent => checked(id, answer.map_err(unanswered)?).map(drop),
            error = stopped => Err(error),
        }
    }
}

fn described(json: &[u8]) -> Result<Image, ImageError> {
    serde_json::from_slice(json)
        .map_err(|error| ImageError::Unavailable(format!("it says what makes no sense: {error}")))
}

fn checked(id: Uuid, response: Response) -> Result<Response, ImageError> {
    match response.status() {
        status if status.is_success() => Ok(response),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(ImageError::NotFound(id)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ImageError::NotAuthorized(id)),
        StatusCode::BAD_REQUEST => Err(ImageError::unacceptable(id, "the image service refuses it")),
        StatusCode::PAYLOAD_TOO_LARGE => {
            Err(ImageError::unacceptable(id, "it is more than the image service takes"))
        }
        status => Err(ImageError::Unavailable(format!("it says {status}"))),
    }
}

#[async_trait]
impl ImageStore for GlanceStore {
    async fn image(&self, id: Uuid) -> Result<Image, ImageError> {
        let request = self.request(Method::GET, &[&id.to_string()]).await?;
        let response = checked(id, request.send().await.map_err(unanswered)?)?;
        let image = described(&whole(response).await?)?;
        if image.id == id { Ok(image) } else { Err(ImageError::unacceptable(id, "it has another id")) }
    }

    async fn fetch(&self, image: &Image, to: &Path, limit_bytes: u64) -> Result<(), ImageError> {
        let request = self.request(Method::GET, &[&image.id.to_string(), "file"]).await?;
        let response = checked(image.id, request.send().await.map_err(unanswered)?)?;
        save(Box::pin(response.bytes_stream()), Expected::of(image, limit_bytes)?, to).await
    }

    async fn publish(&self, image: &NewImage, from: &Path) -> Result<(), ImageError> {
        let id = image.id.as_uuid();
        let found = match self.image(id).await {
            Ok(found) => found,
            Err(ImageError::NotFound(_)) => self.announce(image).await?,
            Err(error) => return Err(error),
        };
        if found.status != "active" {
            self.publish_data(id, from).await?;
        }
        // only now: what is protected cannot be removed, and a half-made image must be
        if image.protected && found.rest.get("protected") != Some(&Value::Bool(true)) {
            self.protect(id).await?;
        }
        Ok(())
    }

    async fn remove(&self, id: Uuid) -> Result<(), ImageError> {
        let request = self.request(Method::DELETE, &[&id.to_string()]).await?;
        match checked(id, request.send().await.map_err(unanswered)?) {
            Ok(_) | Err(ImageError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
