#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use tephra_domain::ids::{ImageId, ProjectId};
use tephra_domain::image::NewImage;
use tephra_executors::image::ImageError;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use uuid::Uuid;

use super::{Timeouts, open_store, open_store_within};
use crate::config::{Config, ImagesSection, StoreKind};

const DISK: &str = "disk";

fn id() -> Uuid {
    Uuid::from_u128(0x1_4000_8000_0000_0000_0007)
}

/// A web server with one image, behind a certificate of its own: its port, and the certificate.
async fn serving() -> (u16, String) {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // whoever does not trust the certificate hangs up here
                let Ok(connection) = acceptor.accept(connection).await else { return };
                drop(answer(connection).await);
            });
        }
    });
    (port, signed.cert.pem())
}

async fn answer(connection: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) -> std::io::Result<()> {
    let mut connection = BufReader::new(connection);
    let mut asked = String::new();
    connection.read_line(&mut asked).await?;
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let body = if asked.contains(".json ") {
        serde_json::json!({"id": id(), "status": "active", "size": DISK.len()}).to_string()
    } else {
        DISK.to_owned()
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    connection.write_all(format!("{head}{body}").as_bytes()).await?;
    connection.shutdown().await
}

#[tokio::test]
async fn an_https_store_is_believed_if_the_certificate_in_ca_file_vouches_for_it() {
    let (port, certificate) = serving().await;
    let folder = tempfile::tempdir().unwrap();
    let (ca_file, other, to) =
        (folder.path().join("ca"), folder.path().join("other"), folder.path().join("to"));
    std::fs::write(&ca_file, certificate).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&other, stranger.cert.pem()).unwrap();
    let store = |ca_file| {
        let url = Some(format!("https://localhost:{port}/images"));
        let images =
            ImagesSection { store: Some(StoreKind::Https), url, ca_file, ..ImagesSection::default() };
        open_store(&Config { images, ..Config::default() })
    };
    let trusted = store(Some(ca_file)).unwrap().unwrap();
    let image = trusted.image(id()).await.unwrap();
    trusted.fetch(&image, &to, 100).await.unwrap();
    assert_eq!(std::fs::read_to_string(&to).unwrap(), DISK);
    for ca_file in [None, Some(other)] {
        let error = store(ca_file).unwrap().unwrap().image(id()).await.unwrap_err();
        assert!(matches!(error, ImageError::Unavailable(_)), "{error}");
    }

    assert!(store(Some(folder.path().join("none"))).is_err());
    std::fs::write(
        folder.path().join("nonsense"),
        "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----",
    )
    .unwrap();
    assert!(store(Some(folder.path().join("nonsense"))).is_err());
}

const SLOW_FILE_BYTES: usize = 24 << 20;

/// One request to a Glance that takes a file slowly; says how long the file was.
async fn answer_slowly(connection: TcpStream) -> std::io::Result<usize> {
    let mut connection = BufReader::new(connection);
    let mut asked = String::new();
    connection.read_line(&mut asked).await?;
    let (mut line, mut announced) = (String::new(), 0);
    while connection.read_line(&mut line).await? > 2 {
        if let Some(length) = line.to_lowercase().strip_prefix("content-length:") {
            announced = length.trim().parse().unwrap();
        }
        line.clear();
    }
    let (mut length, mut since_pause) = (0, 0);
    let (status, body) = match asked.split(' ').next() {
        Some("PUT") => {
            loop {
                line.clear();
                connection.read_line(&mut line).await?;
                let piece = usize::from_str_radix(line.trim(), 16).unwrap();
                let mut bytes = vec![0; piece + 2];
                connection.read_exact(&mut bytes).await?;
                if piece == 0 {
                    break;
                }
                length += piece;
                since_pause += piece;
                if since_pause >= 1 << 20 {
                    since_pause = 0;
                    // no wait for anything: this is how slow the store is
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
            }
            ("204 No Content", String::new())
        }
        Some("POST") => {
            connection.read_exact(&mut vec![0; announced]).await?;
            ("201 Created", serde_json::json!({"id": id(), "status": "queued"}).to_string())
        }
        _ => ("404 Not Found", String::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    connection.write_all(format!("{head}{body}").as_bytes()).await?;
    connection.shutdown().await?;
    Ok(length)
}

#[tokio::test]
async fn a_file_that_takes_longer_than_a_store_may_be_silent_is_uploaded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let served = tokio::spawn(async move {
        let mut lengths = Vec::new();
        for _ in 0..3 {
            lengths.push(answer_slowly(listener.accept().await.unwrap().0).await.unwrap());
        }
        lengths
    });
    let images = ImagesSection { store: Some(StoreKind::Glance), url, ..ImagesSection::default() };
    // 24 pauses of 150 ms are more than it may be silent, and each is much less
    let idle = Duration::from_secs(2);
    let timeouts = Timeouts { connect: idle, idle, answer: Duration::from_secs(60) };
    let store = open_store_within(timeouts, &Config { images, ..Config::default() }).unwrap().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SLOW_FILE_BYTES as u64).unwrap();
    let image = NewImage {
        id: ImageId::from_uuid(id()),
        owner: ProjectId::new("project"),
        name: "copy".into(),
        disk_format: "raw".into(),
        container_format: "bare".into(),
        visibility: None,
        protected: false,
        properties: [].into(),
    };
    store.publish(&image, file.path()).await.unwrap();
    assert_eq!(served.await.unwrap(), [0, 0, SLOW_FILE_BYTES]);
}
