//! A load client that costs as little as possible: it shares the cores with the server it measures.
//! One request at a time over one kept-alive connection, HTTP/1.1, lengths only.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A kept-alive connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If the server does not accept.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connecting to the server")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// If the connection breaks, or the answer has no length.
    pub async fn send(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if let Some(head_end) = find(&self.buffer, b"\r\n\r\n") {
                let head = std::str::from_utf8(self.buffer.get(..head_end).unwrap_or_default())?;
                let (status, length) = parse_head(head)?;
                let start = head_end + 4;
                while self.buffer.len() < start + length {
                    self.fill().await?;
                }
                let body = self.buffer.get(start..start + length).unwrap_or_default().to_vec();
                return Ok(Answer { status, body });
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_head(head: &str) -> anyhow::Result<(u16, usize)> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("a status line")?.parse()?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |(_, value)| value.trim().parse())?;
    Ok((status, length))
}

/// Builds a request with the bench's token.
pub fn request(method: &str, path: &str, body: Option<&str>) -> Vec<u8> {
    let body = body.unwrap_or_default();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nx-auth-token: admin:bench\r\nopenstack-api-version: volume 3.71\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What a number of connections managed.
pub struct Load {
    /// Latencies, sorted.
    latencies: Vec<Duration>,
    /// How long it took together.
    elapsed: Duration,
}

impl Load {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency, in milliseconds, that this share of requests (0 to 1) stayed within.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        percentile_ms(&self.latencies, share)
    }
}

/// What this share (0 to 1) of sorted latencies stayed within, in milliseconds.
pub fn percentile_ms(sorted: &[Duration], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * share).round() as usize;
    sorted.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
}

/// Keeps `connections` busy for a while with requests from `next`.
///
/// # Errors
/// If any answer has another status than `expected`.
pub async fn load(
    address: SocketAddr,
    connections: usize,
    seconds: f64,
    expected: u16,
    next: impl Fn(usize) -> Vec<u8> + Clone + Send + 'static,
) -> anyhow::Result<Load> {
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(seconds);
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..connections {
        let next = next.clone();
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut latencies = Vec::new();
            let mut number = lane;
            while Instant::now() < until {
                let request = next(number);
                number += connections;
                let sent = Instant::now();
                let answer = connection.send(&request).await?;
                latencies.push(sent.elapsed());
                if answer.status != expected {
                    bail!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
                }
            }
            Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(lane) = tasks.join_next().await {
        latencies.extend(lane??);
    }
    let elapsed = started.elapsed();
    latencies.sort_unstable();
    Ok(Load { latencies, elapsed })
}
