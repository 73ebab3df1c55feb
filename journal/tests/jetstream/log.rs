//! The log on real servers: the contract, what survives, what is fenced, what is found again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use futures::StreamExt;
use tephra_journal::hash_chain::verify_chain;
use tephra_journal::jetstream::{JetStreamLog, MAX_BLOCK_BYTES, NatsConfig};
use tephra_journal::log::{AppendOutcome, BlockNumber, Log, LogError};
use tephra_journal::wire::EncodedBlock;

use crate::cluster::Cluster;
use crate::support::log_suite::{append_surely, contract};
use crate::support::{chain, small_block};
use crate::{soon, until};

async fn open(cluster: &Cluster) -> JetStreamLog {
    JetStreamLog::open(&cluster.client().await, &cluster.config()).await.unwrap()
}

async fn keeps_the_contract(cluster: &Cluster) {
    let client = cluster.client().await;
    let mut logs: Vec<Arc<dyn Log>> = Vec::new();
    for cell in 0..5 {
        let config = NatsConfig { cell: format!("cell{cell}").parse().unwrap(), ..cluster.config() };
        logs.push(Arc::new(JetStreamLog::open(&client, &config).await.unwrap()));
    }
    let logs = Mutex::new(logs);
    contract(|| logs.lock().unwrap().pop().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_keeps_the_contract() {
    keeps_the_contract(&Cluster::start(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_keep_the_contract() {
    keeps_the_contract(&Cluster::start(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_block_sent_twice_is_there_once_and_both_are_told_so() {
    for servers in [1, 3] {
        let cluster = Cluster::start(servers);
        let log = open(&cluster).await;
        let block = small_block(1, [0; 32]);
        for _ in 0..3 {
            let outcome = log.append(BlockNumber(0), Arc::clone(&block.bytes)).await;
            assert_eq!(outcome, AppendOutcome::Appended(BlockNumber(1)), "{servers} servers");
        }
        assert_eq!(log.head().await.unwrap(), BlockNumber(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_every_size_come_back_from_a_reader_that_starts_anywhere() {
    let cluster = Cluster::start(1);
    let log = open(&cluster).await;
    let sizes = [1, 300, MAX_BLOCK_BYTES, 2, MAX_BLOCK_BYTES - 1, 4096, 77];
    let block = |index: usize| -> Arc<[u8]> {
        vec![u8::try_from(index % 251).unwrap(); sizes[index % sizes.len()]].into()
    };
    let count = 150;
    for index in 0..count {
        append_surely(&log, u64::try_from(index).unwrap(), block(index)).await;
    }
    let too_large = log.append(BlockNumber(150), vec![0; MAX_BLOCK_BYTES + 1].into()).await;
    assert!(matches!(too_large, AppendOutcome::Unknown { reason } if reason.contains("at most")));
    let other = open(&cluster).await;
    for start in [1, 2, 63, 64, 65, 149, 150] {
        let mut next = start;
        while next <= 150 {
            let read = other.read(BlockNumber(next), 1000).await.unwrap();
            assert!(!read.is_empty(), "block {next} is there");
            for (number, bytes) in read {
                assert_eq!(number, BlockNumber(next));
                assert_eq!(bytes, block(usize::try_from(next).unwrap() - 1), "block {next}");
                next += 1;
            }
        }
        assert_eq!(other.read(BlockNumber(151), 1000).await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_made_without_direct_requests_is_read_too() {
    let cluster = Cluster::start(1);
    let log = open(&cluster).await;
    let context = async_nats::jetstream::new(cluster.client().await);
    let stream = context.get_stream(cluster.config().cell.ledger_stream()).await.unwrap();
    assert!(stream.cached_info().config.allow_direct);
    let before = Config { allow_direct: false, ..stream.cached_info().config.clone() };
    context.update_stream(before).await.unwrap();
    let blocks = chain(50);
    for (expected, block) in (0..).zip(&blocks) {
        append_surely(&log, expected, Arc::clone(&block.bytes)).await;
    }
    let other = open(&cluster).await;
    let read = other.read(BlockNumber(1), 1000).await.unwrap();
    assert!(read.iter().map(|(_, bytes)| bytes).eq(blocks.iter().map(|block| &block.bytes)));
    verify_chain(&other, |_, _| Ok(())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_told_nothing_or_too_much_finds_what_is_there() {
    let cluster = Cluster::start(1);
    let (log, reader) = (open(&cluster).await, open(&cluster).await);
    let blocks = chain(3);
    reader.wait_beyond(BlockNumber(0)).await;
    let client = cluster.client().await;
    let told = |number: &str| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Tephra-Block", number);
        client.publish_with_headers("tephra.block.main", headers, "no block".into())
    };
    for number in ["7", "x", "18446744073709551615"] {
        told(number).await.unwrap();
    }
    client.flush().await.unwrap();
    assert_eq!(reader.read(BlockNumber(1), 9).await.unwrap(), []);
    // Somebody appends who tells nobody.
    let context = async_nats::jetstream::new(client.clone());
    for block in &blocks[..2] {
        let payload = bytes::Bytes::from_owner(Arc::clone(&block.bytes));
        context.publish("tephra.ledger.main", payload).await.unwrap().await.unwrap();
    }
    append_surely(&log, 2, Arc::clone(&blocks[2].bytes)).await;
    let mut read = Vec::new();
    soon("all blocks", async {
        while read.len() < 3 {
            let known = BlockNumber(u64::try_from(read.len()).unwrap());
            reader.wait_beyond(known).await;
            read.extend(reader.read(BlockNumber(known.0 + 1), 9).await.unwrap());
        }
    })
    .await;
    assert!(read.iter().map(|(_, bytes)| bytes).eq(blocks.iter().map(|block| &block.bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_writer_meets_a_conflict_and_a_reader_elsewhere_hears_of_every_block() {
    let cluster = Cluster::start(1);
    let (first, second, reader) = (open(&cluster).await, open(&cluster).await, open(&cluster).await);
    let heard = tokio::spawn(async move {
        let mut numbers = Vec::new();
        while numbers.len() < 4 {
            let known = BlockNumber(u64::try_from(numbers.len()).unwrap());
            reader.wait_beyond(known).await;
            let read = reader.read(BlockNumber(known.0 + 1), 10).await.unwrap();
            numbers.extend(read.into_iter().map(|(number, _)| number.0));
        }
        numbers
    });
    let blocks = chain(4);
    append_surely(&first, 0, Arc::clone(&blocks[0].bytes)).await;
    let stale = second.append(BlockNumber(0), small_block(9, [0; 32]).bytes).await;
    assert_eq!(stale, AppendOutcome::Conflict { head: BlockNumber(1) });
    append_surely(&second, 1, Arc::clone(&blocks[1].bytes)).await;
    append_surely(&first, 2, Arc::clone(&blocks[2].bytes)).await;
    append_surely(&second, 3, Arc::clone(&blocks[3].bytes)).await;
    assert_eq!(soon("four blocks", heard).await.unwrap(), [1, 2, 3, 4]);
    verify_chain(&first, |_, _| Ok(())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_the_server_was_killed() {
    let cluster = Cluster::start(1);
    let log = open(&cluster).await;
    let blocks = chain(20);
    for (expected, block) in (0..10).zip(&blocks) {
        append_surely(&log, expected, Arc::clone(&block.bytes)).await;
    }
    cluster.kill(1);
    let unanswered = log.append(BlockNumber(10), Arc::clone(&blocks[10].bytes)).await;
    assert!(matches!(unanswered, AppendOutcome::Unknown { .. }), "{unanswered:?}");
    assert!(log.read(BlockNumber(99), 1).await.is_err(), "without a server nothing is known to be the end");
    cluster.resume(1);
    until("the server", async || log.head().await.is_ok()).await;
    for (expected, block) in (10..20).zip(&blocks[10..]) {
        append_surely(&log, expected, Arc::clone(&block.bytes)).await;
    }
    assert_eq!(verify_chain(&open(&cluster).await, |_, _| Ok(())).await.unwrap().block, BlockNumber(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_servers_each_may_be_killed_in_turn_while_blocks_are_appended() {
    let cluster = Cluster::start(3);
    let log = open(&cluster).await;
    let reader = open(&cluster).await;
    let blocks = chain(60);
    let appending = tokio::spawn({
        let blocks = blocks.clone();
        async move {
            for (expected, block) in (0..).zip(&blocks) {
                // As the sequencer does: the same bytes again until they are known to be there.
                let there = AppendOutcome::Appended(BlockNumber(expected + 1));
                loop {
                    let outcome = log.append(BlockNumber(expected), Arc::clone(&block.bytes)).await;
                    assert!(!matches!(outcome, AppendOutcome::Conflict { .. }), "nobody else writes");
                    if outcome == there {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
    for number in 1..=3 {
        let third = BlockNumber(u64::try_from(number).unwrap() * 15);
        until("a third of the blocks", async || reader.head().await.is_ok_and(|head| head >= third)).await;
        cluster.kill(number);
        cluster.resume(number);
    }
    soon("all appends", appending).await.unwrap();
    let mut read = Vec::new();
    until("all blocks", async || {
        let next = BlockNumber(u64::try_from(read.len()).unwrap() + 1);
        if let Ok(more) = reader.read(next, 100).await {
            read.extend(more.into_iter().map(|(_, bytes)| bytes));
        }
        read.len() == blocks.len()
    })
    .await;
    assert!(read.iter().zip(&blocks).all(|(read, written)| *read == written.bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_s_leader_may_be_held_still_and_come_back_with_old_views() {
    let cluster = Cluster::start(3);
    let log = open(&cluster).await;
    let blocks = chain(6);
    append_surely(&log, 0, Arc::clone(&blocks[0].bytes)).await;
    let context = async_nats::jetstream::new(cluster.client().await);
    let stream = context.get_stream(cluster.config().cell.ledger_stream()).await.unwrap();
    let leader = stream.cached_info().cluster.as_ref().unwrap().leader.clone().unwrap();
    let leader: usize = leader.trim_start_matches('n').parse().unwrap();
    cluster.pause(leader);
    let began = std::time::Instant::now();
    for (expected, block) in (1..).zip(&blocks[1..5]) {
        let there = AppendOutcome::Appended(BlockNumber(expected + 1));
        until("an append", async || {
            log.append(BlockNumber(expected), Arc::clone(&block.bytes)).await == there
        })
        .await;
    }
    eprintln!("four blocks, {:?} after the leader was held still", began.elapsed());
    cluster.resume(leader);
    append_surely(&log, 5, Arc::clone(&blocks[5].bytes)).await;
    let head = soon("the whole chain", async {
        loop {
            // The one that was held still may be asked before it has caught up.
            match verify_chain(&open(&cluster).await, |_, _| Ok(())).await {
                Ok(head) if head.block == BlockNumber(6) => return head,
                Ok(_) | Err(LogError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(damaged @ LogError::Corrupt { .. }) => panic!("{damaged}"),
            }
        }
    });
    assert_eq!(head.await.hash, blocks[5].hash);
}

/// What becomes of answers on their way to a reader.
#[derive(Clone, Copy)]
enum Answers {
    /// The nth of the first answer is lost, counted from 0: as when a connection breaks and is made again.
    Lose(usize),
    /// That one is not in the stream either, as far as the stream says.
    Lack(usize),
}

/// JetStream under another name, where answers get lost.
async fn lossy_jetstream(cluster: &Cluster, name: &'static str, answers: Answers) -> NatsConfig {
    const NOT_FOUND: &str = r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#;
    let client = cluster.client().await;
    let mut questions = client.subscribe(format!("{name}.>")).await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        let mut lost = false;
        while let Some(question) = questions.next().await {
            let asked = question.subject.replacen(name, "$JS.API", 1);
            let reply = question.reply.unwrap();
            if asked.contains(".DIRECT.GET.") {
                let inbox = client.new_inbox();
                let mut found = client.subscribe(inbox.clone()).await.unwrap();
                client.publish_with_reply(asked, inbox, question.payload).await.unwrap();
                let mut number = 0;
                while let Some(block) = found.next().await {
                    let Some(headers) = block.headers.filter(|_| block.status.is_none()) else { break };
                    let (Answers::Lose(nth) | Answers::Lack(nth)) = answers;
                    let loses = !lost && number == nth;
                    number += 1;
                    if loses {
                        lost = true;
                        continue;
                    }
                    client.publish_with_headers(reply.clone(), headers, block.payload).await.unwrap();
                }
            } else if asked.contains(".MSG.GET.") && matches!(answers, Answers::Lack(_)) {
                client.publish(reply, NOT_FOUND.into()).await.unwrap();
            } else {
                let answer = client.request(asked, question.payload).await.unwrap();
                client.publish(reply, answer.payload).await.unwrap();
            }
        }
    });
    NatsConfig { ledger_api: name.to_owned(), ..cluster.config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_an_answer_is_read_again_and_is_damage_only_if_the_stream_says_so() {
    const BLOCKS: u64 = 6;
    let cluster = Cluster::start(1);
    let writer = open(&cluster).await;
    let blocks = chain(BLOCKS);
    for (number, block) in (0..).zip(&blocks) {
        append_surely(&writer, number, Arc::clone(&block.bytes)).await;
    }
    let read = async |name, answers| {
        let config = lossy_jetstream(&cluster, name, answers).await;
        let log = JetStreamLog::open_to_read(&cluster.client().await, &config).await.unwrap();
        soon("an answer", log.read(BlockNumber(1), 100)).await
    };
    let whole = read("ONE.API", Answers::Lose(2)).await.unwrap();
    let expected = (1..).map(BlockNumber).zip(blocks.into_iter().map(|block| block.bytes));
    assert_eq!(whole, expected.collect::<Vec<_>>());
    match read("TWO.API", Answers::Lose(0)).await {
        Err(LogError::Unavailable(reason)) => assert!(reason.contains("in place of block 1"), "{reason}"),
        other => panic!("{other:?}"),
    }
    match read("THREE.API", Answers::Lack(0)).await {
        Err(LogError::Corrupt { number, .. }) => assert_eq!(number, BlockNumber(1)),
        other => panic!("{other:?}"),
    }
}

/// Puts another stream in the place of the log's.
async fn replace_stream(cluster: &Cluster, blocks: &[EncodedBlock]) {
    let context = async_nats::jetstream::new(cluster.client().await);
    let name = cluster.config().cell.ledger_stream();
    let made = context.get_stream(&name).await.unwrap().cached_info().config.clone();
    context.delete_stream(&name).await.unwrap();
    context.create_stream(made).await.unwrap();
    for block in blocks {
        let payload = bytes::Bytes::from_owner(Arc::clone(&block.bytes));
        context.publish(cluster.config().cell.ledger_subject(), payload).await.unwrap().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_sees_what_has_become_of_blocks_that_this_process_remembers() {
    let cluster = Cluster::start(1);
    let log = open(&cluster).await;
    let blocks = chain(4);
    for (expected, block) in (0..).zip(&blocks) {
        append_surely(&log, expected, Arc::clone(&block.bytes)).await;
    }
    let stored = async |log: JetStreamLog, from| {
        let read = soon("an answer", log.read_stored(BlockNumber(from), 9)).await.unwrap();
        read.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    let bytes = |blocks: &[EncodedBlock]| blocks.iter().map(|block| block.bytes.clone()).collect::<Vec<_>>();
    assert_eq!(stored(log.clone(), 1).await, bytes(&blocks));
    let others = chain(4);
    assert_ne!(bytes(&others), bytes(&blocks));
    replace_stream(&cluster, &others).await;
    assert_eq!(stored(log.clone(), 1).await, bytes(&others));
    assert_eq!(stored(log.clone(), 4).await, bytes(&others[3..]));
    // And where it has lost its end, it ends there, once it has had the time to come up with the rest.
    replace_stream(&cluster, &others[..3]).await;
    assert_eq!(stored(log.clone(), 4).await, bytes(&[]));
    assert_eq!(stored(log, 1).await, bytes(&others[..3]));
}
