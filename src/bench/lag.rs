//! How far another api replica is behind while volumes are created through this one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::client::{Connection, load, request};
use super::place::Place;
use super::server::Server;
use super::{Add, CREATE, percentile_ms, volume_id};

/// Connections that create volumes meanwhile.
const LOAD_CONNECTIONS: usize = 64;

/// The pause between two looks at the replica.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Measures the time from an acknowledgement on `server` until a replica with views of its own shows
/// the volume, under load.
///
/// # Errors
/// If the replica does not start, or an answer is wrong.
pub async fn lag(
    server: &Server,
    place: &Place,
    seconds: f64,
    directory: &Path,
    add: Add<'_>,
) -> anyhow::Result<()> {
    let replica = Server::start(place, &directory.join("replica"), &["api"]).await?;
    let body = request("POST", "/v3/bench/volumes", Some(CREATE));
    let loading = load(server.address, LOAD_CONNECTIONS, seconds, 202, move |_| body.clone());
    let (loaded, lags) = tokio::join!(loading, probe(server.address, replica.address, seconds));
    let (loaded, mut lags) = (loaded?, lags?);
    lags.sort_unstable();
    add("creates meanwhile, with a second api replica".to_owned(), loaded.rate(), "creates/s");
    add("shown by the second replica after, p50".to_owned(), percentile_ms(&lags, 0.50), "ms");
    add("shown by the second replica after, p99".to_owned(), percentile_ms(&lags, 0.99), "ms");
    server.wait_until_quiet().await?;
    replica.process.stop().await
}

async fn probe(server: SocketAddr, replica: SocketAddr, seconds: f64) -> anyhow::Result<Vec<Duration>> {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let (mut here, mut there) = (Connection::open(server).await?, Connection::open(replica).await?);
    let create = request("POST", "/v3/bench/volumes", Some(CREATE));
    let mut lags = Vec::new();
    while Instant::now() < until {
        let answer = here.send(&create).await?;
        let acknowledged = Instant::now();
        let id = volume_id(&answer.body)?;
        let show = request("GET", &format!("/v3/bench/volumes/{id}"), None);
        while there.send(&show).await?.status != 200 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        lags.push(acknowledged.elapsed());
    }
    Ok(lags)
}
