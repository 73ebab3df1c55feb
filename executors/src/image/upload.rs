//! A file on its way to a store: it may take as long as it takes, but it must go on.

use std::future::Future;
use std::task::{Poll, ready};
use std::time::Duration;

use futures::{Stream, stream};
use reqwest::Client;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::store::ImageError;

/// How files are sent to a store.
#[derive(Clone, Debug)]
pub struct Uploads {
    /// Without a `read_timeout`: reqwest counts that from the beginning of a request to its answer,
    /// however well the file goes on meanwhile.
    pub client: Client,
    /// How long the store may take nothing of what is left.
    pub idle_limit: Duration,
    /// How long it may take to answer once it has everything.
    pub answer_limit: Duration,
}

impl Uploads {
    /// The same bytes, and what ends once they have stopped going on.
    pub fn watched<S: Stream + Send + Unpin + 'static>(
        &self,
        mut bytes: S,
    ) -> (impl Stream<Item = S::Item> + Send + use<S>, impl Future<Output = ImageError> + use<S>) {
        let (taken, mut seen) = watch::channel(());
        let mut taken = Some(taken);
        let watched = stream::poll_fn(move |context| {
            let next = ready!(std::pin::Pin::new(&mut bytes).poll_next(context));
            match (&next, &taken) {
                (Some(_), Some(taken)) => taken.send_replace(()),
                (Some(_), None) => {}
                (None, _) => taken = None,
            }
            Poll::Ready(next)
        });
        let (idle_limit, answer_limit) = (self.idle_limit, self.answer_limit);
        let stopped = async move {
            loop {
                match timeout(idle_limit, seen.changed()).await {
                    Ok(Ok(())) => {}
                    // all of it has been taken, or nobody will take the rest
                    Ok(Err(_closed)) => break,
                    Err(_elapsed) => {
                        let seconds = idle_limit.as_secs_f64();
                        let reason = format!("it took nothing of the file for {seconds} s");
                        return ImageError::Unavailable(reason);
                    }
                }
            }
            sleep(answer_limit).await;
            let seconds = answer_limit.as_secs_f64();
            ImageError::Unavailable(format!("it has the file, and said nothing for {seconds} s"))
        };
        (watched, stopped)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn uploads() -> Uploads {
        Uploads { client: Client::new(), idle_limit: MINUTE, answer_limit: MINUTE * 5 }
    }

    /// A store that pauses before it takes each of so many pieces, and before it answers. By the clock
    /// of the test, on which nothing takes time but waiting.
    async fn sent(pauses: &[u64], answer_s: u64) -> Result<usize, String> {
        let (bytes, stopped) = uploads().watched(stream::iter(vec![[7_u8; 3]; pauses.len()]));
        let store = async {
            let mut bytes = Box::pin(bytes);
            let mut length = 0;
            for pause_s in pauses {
                sleep(Duration::from_secs(*pause_s)).await;
                length += bytes.next().await.map_or(0, |piece| piece.len());
            }
            assert_eq!(bytes.next().await, None);
            sleep(Duration::from_secs(answer_s)).await;
            length
        };
        tokio::select! {
            length = store => Ok(length),
            error = stopped => Err(error.to_string()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_goes_on_may_take_longer_than_a_store_may_be_silent() {
        assert_eq!(sent(&[59; 100], 299).await, Ok(300));
        assert_eq!(sent(&[], 1).await, Ok(0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_stops_is_ended_and_says_where() {
        let error = sent(&[1, 61], 1).await.unwrap_err();
        assert!(error.contains("took nothing of the file for 60 s"), "{error}");
        let error = sent(&[1, 1], 301).await.unwrap_err();
        assert!(error.contains("has the file, and said nothing for 300 s"), "{error}");
    }
}
