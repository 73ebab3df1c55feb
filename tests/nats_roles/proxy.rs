//! A way to a server that can be cut: nothing comes through, and nobody is told. Or only the blocks of
//! the ledger do not come through, and everything else does.

use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What is told of new blocks, and what blocks are asked for with.
const BLOCK_SUBJECTS: [&str; 3] = ["tephra.block.", "$JS.API.DIRECT.GET.", "$JS.API.STREAM.MSG.GET."];

/// What comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Whoever follows the ledger falls behind, but can ask how far it has come. What is lost is lost.
    WithoutBlocks,
    Cut,
}

/// A listener that passes what NATS clients and servers say on, both ways, while the way is open. Ends
/// when it is dropped.
pub struct Proxy {
    pub address: String,
    way: Arc<watch::Sender<Way>>,
    _stop: DropGuard,
}

impl Proxy {
    pub async fn before(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let stop = CancellationToken::new();
        let (server, gate, stopped) = (server.to_owned(), Arc::clone(&way), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Who comes while the way is cut waits for it, as everybody does.
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                // Small messages wait for nothing.
                if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
                    continue;
                }
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                for (from, to) in [(from_client, to_server), (from_server, to_client)] {
                    let passing = pass(from, to, gate.subscribe());
                    tokio::spawn(stopped.clone().run_until_cancelled_owned(passing));
                }
            }
        }));
        Ok(Self { address, way, _stop: stop.drop_guard() })
    }

    /// From now on nothing comes through; connections stay as they are.
    pub fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }

    /// From now on no block comes through, neither told nor asked for; all else does.
    pub fn hold_blocks(&self) {
        self.way.send_replace(Way::WithoutBlocks);
    }

    /// What was held up goes on its way.
    pub fn heal(&self) {
        self.way.send_replace(Way::Open);
    }
}

async fn pass(from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut from = BufReader::new(from);
    while let Ok(Some(frame)) = Frame::read(&mut from).await {
        let Ok(way) = way.wait_for(|way| *way != Way::Cut).await.map(|way| *way) else { break };
        if way == Way::WithoutBlocks && frame.is_about_blocks() {
            continue;
        }
        if to.write_all(&frame.bytes).await.is_err() {
            break;
        }
    }
    // The other side hears of the end only if the way is open.
    if way.wait_for(|way| *way != Way::Cut).await.is_ok() {
        drop(to.shutdown().await);
    }
}

/// One thing that is said: a line, and with messages what follows it.
struct Frame {
    bytes: Vec<u8>,
    subject: Option<String>,
}

impl Frame {
    /// The next one; nothing at the end.
    async fn read(from: &mut BufReader<OwnedReadHalf>) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        if from.read_until(b'\n', &mut bytes).await? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&bytes).into_owned();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["PUB" | "HPUB" | "MSG" | "HMSG", subject, .., length] = *words else {
            return Ok(Some(Self { bytes, subject: None }));
        };
        let start = bytes.len();
        // With the end of the line after it.
        bytes.resize(start + length.parse::<usize>()? + 2, 0);
        from.read_exact(&mut bytes[start..]).await?;
        Ok(Some(Self { bytes, subject: Some(subject.to_owned()) }))
    }

    fn is_about_blocks(&self) -> bool {
        let is_prefix = |subject: &str| BLOCK_SUBJECTS.iter().any(|prefix| subject.starts_with(prefix));
        self.subject.as_deref().is_some_and(is_prefix)
    }
}
