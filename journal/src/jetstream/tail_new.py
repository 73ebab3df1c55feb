import re
p='tail.rs'; s=open(p).read()
a=s.index('//! How readers'); b=s.index('/// The latest blocks, without gaps.')
head='''//! How readers hear of new blocks: whoever appends one tells everybody, with the block itself.
//!
//! Nothing rests on it. Who missed something notices by the next block's number, or by asking for the
//! head now and then, and reads the stream. A number that is not the next one is not believed, but
//! asked about.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reading::Past;
use crate::log::{BlockNumber, LogError};

/// Blocks kept at hand, and their bytes at most. Who is further behind reads the stream.
const KEPT_BLOCKS: usize = 256;
const KEPT_BYTES: usize = 16 << 20;

/// The number of the block that a message is.
const BLOCK_HEADER: &str = "Tephra-Block";

/// The wait before a broken subscription is made anew.
const PAUSE: Duration = Duration::from_millis(200);

/// Tells whoever listens of a block that is in the stream.
pub(super) async fn tell(client: &Client, subject: &str, number: BlockNumber, bytes: Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(BLOCK_HEADER, number.0.to_string());
    if let Err(error) = client.publish_with_headers(subject.to_owned(), headers, bytes).await {
        tracing::debug!(%error, "nobody is told of a block; it is found by asking");
    }
}

fn number_of(message: &Message) -> Option<BlockNumber> {
    let number = message.headers.as_ref()?.get(BLOCK_HEADER)?.as_str().parse().ok()?;
    Some(BlockNumber(number))
}

'''
s=head+s[b:]
s=s.replace('''    fn push(&mut self, number: BlockNumber, bytes: Arc<[u8]>) {
        let follows = self.blocks.back().is_none_or(|(last, _)| last.0.saturating_add(1) == number.0);
        if !follows {
''','''    fn push(&mut self, number: BlockNumber, bytes: Arc<[u8]>) {
        let next = self.blocks.back().map(|(last, _)| last.0.saturating_add(1));
        if next.is_some_and(|next| number.0 < next) {
            return;
        }
        if next.is_some_and(|next| number.0 > next) {
''')
a=s.index('    /// Starts listening, once'); b=s.index('#[cfg(test)]')
s=s[:a]+'''    /// A block that is in the stream: we appended it, or were told of it.
    pub fn has(&self, number: BlockNumber, bytes: Arc<[u8]>) {
        self.recent().push(number, bytes);
        self.heard_of(number);
    }

    /// Starts listening, once, until `stop`.
    pub fn listen(self: &Arc<Self>, past: &Arc<Past>, subject: &str, stop: &CancellationToken) {
        self.started.call_once(|| {
            let (tail, past, subject) = (Arc::clone(self), Arc::clone(past), subject.to_owned());
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(tail.follow(&past, &subject)).await });
        });
    }

    async fn follow(&self, past: &Past, subject: &str) {
        loop {
            if let Err(reason) = self.follow_once(past, subject).await {
                tracing::debug!(%reason, "listening for new blocks begins anew");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn follow_once(&self, past: &Past, subject: &str) -> Result<(), async_nats::Error> {
        let mut messages = past.client.subscribe(subject.to_owned()).await?;
        // What was appended before the servers knew that we listen.
        self.heard_of(past.head().await?);
        while let Some(message) = messages.next().await {
            if let Some(number) = number_of(&message) {
                self.told(past, number, &message).await?;
            }
        }
        Ok(())
    }

    async fn told(&self, past: &Past, number: BlockNumber, message: &Message) -> Result<(), LogError> {
        if number.0 > self.head().0.saturating_add(1) {
            self.heard_of(past.head().await?);
        }
        if number.0 <= self.head().0.saturating_add(1) {
            self.has(number, message.payload.as_ref().into());
        }
        Ok(())
    }
}

'''+s[b:]
s=s.replace('''        assert_eq!(numbers(&recent, 9, 9), [9]);
        assert_eq!(recent.bytes, 3);
''','''        assert_eq!(numbers(&recent, 9, 9), [9]);
        recent.push(BlockNumber(9), Arc::from(vec![1; 7]));
        recent.push(BlockNumber(8), Arc::from(vec![1; 7]));
        assert_eq!(recent.from(BlockNumber(9), 9), [(BlockNumber(9), Arc::from(vec![0; 3]))]);
        assert_eq!(recent.bytes, 3);
''')
open(p,'w').write(s)

p='log.rs'; s=open(p).read()
s=s.replace('''//! Reads are complete up to the head that the stream's leader names: consumers may run on a replica
//! that lags, so a read waits for what it knows to be there.
''','''//! Reads are complete up to the head that the stream's leader names: a replica that lags may answer,
//! so a read waits for what it knows to be there.
''')
s=s.replace('''use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
''','')
s=s.replace('''use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, Placement, RawMessageErrorKind, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, StatusCode};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
''','''use async_nats::Client;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, Placement, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_trait::async_trait;
use bytes::Bytes;
''')
s=s.replace('use std::sync::{Arc, Mutex, PoisonError};','use std::sync::Arc;')
s=s.replace('use super::connect::{NatsConfig, NatsError, jetstream};\nuse super::tail::Tail;','use super::connect::{NatsConfig, NatsError, ledger_jetstream};\nuse super::reading::{Past, unavailable};\nuse super::tail::{Tail, tell};')
a=s.index('/// Blocks in the first fetch'); b=s.index('/// `wait_beyond` returns after')
s=s[:a]+s[b:]
a=s.index('struct Shared {'); b=s.index('/// What the stream is to be.') if '/// What the stream is to be.' in s else s.index('fn wanted_stream')
print(repr(s[a:b][-600:]))
open(p,'w').write(s)
