//! A way to a server that can be cut: nothing comes through, and nobody is told.

use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A listener that passes bytes on, both ways, while the way is open. Ends when it is dropped.
pub struct Proxy {
    pub address: String,
    is_open: Arc<watch::Sender<bool>>,
    _stop: DropGuard,
}

impl Proxy {
    pub async fn before(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let is_open = Arc::new(watch::Sender::new(true));
        let stop = CancellationToken::new();
        let (server, gate, stopped) = (server.to_owned(), Arc::clone(&is_open), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Who comes while the way is cut waits for it, as everybody does.
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                for (from, to) in [(from_client, to_server), (from_server, to_client)] {
                    let passing = pass(from, to, gate.subscribe());
                    tokio::spawn(stopped.clone().run_until_cancelled_owned(passing));
                }
            }
        }));
        Ok(Self { address, is_open, _stop: stop.drop_guard() })
    }

    /// From now on nothing comes through; connections stay as they are.
    pub fn cut(&self) {
        self.is_open.send_replace(false);
    }

    /// What was held up goes on its way.
    pub fn heal(&self) {
        self.is_open.send_replace(true);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_open: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if is_open.wait_for(|open| *open).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    // The other side hears of the end only if the way is open.
    if is_open.wait_for(|open| *open).await.is_ok() {
        drop(to.shutdown().await);
    }
}
