//! The logs of all nodes: those of this one from its files, the others through whoever holds them.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::{Entry, Error, Followed, LogKey, LogStore};
use crate::model::NodeId;

/// How long to wait before a node that broke off is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With this line.
    At(u64),
    /// This many lines before the end.
    Last(usize),
}

/// Why lines of another node do not come.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node {node} does not give its log lines: {reason}")]
pub struct Away {
    /// The node.
    pub node: NodeId,
    /// What was seen.
    pub reason: String,
    /// It is no member any more: they will never come.
    pub for_good: bool,
}

/// The logs that other nodes hold. Defined here, implemented by `rpc`.
pub trait Elsewhere: Send + Sync + 'static {
    /// Lines that are there now, oldest first.
    fn read(&self, node: NodeId, key: LogKey, start: Start) -> BoxFuture<'static, Result<Vec<Entry>, Away>>;

    /// Those, and all that follow until the log is closed. An error is the last item.
    fn follow(&self, node: NodeId, key: LogKey, start: Start) -> BoxStream<'static, Result<Followed, Away>>;
}

/// Why lines do not come.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Another node does not give them. Following goes on when it does again.
    #[error(transparent)]
    Away(#[from] Away),
    /// The log of this node cannot be read.
    #[error(transparent)]
    Here(#[from] Error),
}

/// All logs. Clones are the same.
#[derive(Clone)]
pub struct Library {
    own: LogStore,
    others: Option<(NodeId, Arc<dyn Elsewhere>)>,
}

impl Library {
    /// Only the logs of this node.
    pub fn of_one(own: LogStore) -> Self {
        Self { own, others: None }
    }

    /// Of this node, and through `elsewhere` of the others.
    pub fn new(own: LogStore, node: NodeId, elsewhere: Arc<dyn Elsewhere>) -> Self {
        Self { own, others: Some((node, elsewhere)) }
    }

    /// The last `count` lines of a log that this node holds, oldest first. One that does not exist is empty.
    pub async fn tail(&self, node: NodeId, key: LogKey, count: usize) -> Result<Vec<Entry>, ReadError> {
        match self.elsewhere(node) {
            Some(elsewhere) => Ok(elsewhere.read(node, key, Start::Last(count)).await?),
            None => Ok(self.own.tail(key, count).await?),
        }
    }

    /// Lines of a log that this node holds, and all that follow until it is closed. Of another node that breaks off, each
    /// break is an item, and the lines go on where they were as soon as it answers again; they end when it is removed.
    pub async fn follow(
        &self,
        node: NodeId,
        key: LogKey,
        start: Start,
    ) -> Result<BoxStream<'static, Result<Followed, ReadError>>, Error> {
        if let Some(elsewhere) = self.elsewhere(node) {
            return Ok(again_and_again(Arc::clone(elsewhere), node, key, start));
        }
        Ok(self.own.follow_from(key, start).await?.map(|item| item.map_err(ReadError::from)).boxed())
    }

    fn elsewhere(&self, node: NodeId) -> Option<&Arc<dyn Elsewhere>> {
        self.others.as_ref().filter(|(own, _)| *own != node).map(|(_, elsewhere)| elsewhere)
    }
}

fn again_and_again(
    elsewhere: Arc<dyn Elsewhere>,
    node: NodeId,
    key: LogKey,
    mut start: Start,
) -> BoxStream<'static, Result<Followed, ReadError>> {
    Box::pin(stream! {
        loop {
            let mut lines = elsewhere.follow(node, key, start);
            let broke = loop {
                match lines.next().await {
                    Some(Ok(Followed::Entry(entry))) => {
                        start = Start::At(entry.seq.saturating_add(1));
                        yield Ok(Followed::Entry(entry));
                    }
                    Some(Ok(Followed::Begins { seq })) => {
                        // Once: what was written while it was away counts from there.
                        start = Start::At(seq);
                        yield Ok(Followed::Begins { seq });
                    }
                    Some(Ok(skipped)) => yield Ok(skipped),
                    Some(Err(away)) => break Some(away),
                    None => break None,
                }
            };
            let Some(away) = broke else { break };
            let for_good = away.for_good;
            yield Err(ReadError::Away(away));
            if for_good {
                break;
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use uuid::Uuid;

    use super::super::{LogLine, LogStream, LogTime};
    use super::*;
    use crate::model::InstanceId;

    fn away(node: NodeId, for_good: bool) -> Away {
        Away { node, reason: "it broke off".to_owned(), for_good }
    }

    /// Breaks off after every second line.
    #[derive(Default)]
    struct Shaky(Mutex<Vec<Start>>);

    impl Elsewhere for Shaky {
        fn read(&self, node: NodeId, _: LogKey, _: Start) -> BoxFuture<'static, Result<Vec<Entry>, Away>> {
            Box::pin(std::future::ready(Err(away(node, false))))
        }

        fn follow(&self, node: NodeId, _: LogKey, start: Start) -> BoxStream<'static, Result<Followed, Away>> {
            self.0.lock().unwrap().push(start);
            let from = match start {
                Start::At(seq) => seq,
                Start::Last(count) => 3 - count as u64,
            };
            let line = LogLine::new(LogTime(0), LogStream::Stdout, "x");
            let mut items: Vec<_> =
                (from..7).take(2).map(|seq| Ok(Followed::Entry(Entry { seq, line: line.clone() }))).collect();
            if items.len() == 2 {
                items.push(Err(away(node, false)));
            }
            futures::stream::iter(items).boxed()
        }
    }

    #[tokio::test]
    async fn lines_go_on_after_a_break_without_a_gap_and_none_comes_twice() {
        let shaky = Arc::new(Shaky::default());
        let key = LogKey::Instance(InstanceId(Uuid::nil()));
        let lines = again_and_again(shaky.clone(), NodeId(2), key, Start::Last(2));
        let seen: Vec<Option<u64>> = lines
            .map(|item| match item {
                Ok(Followed::Entry(entry)) => Some(entry.seq),
                Ok(other) => panic!("{other:?}"),
                Err(_) => None,
            })
            .collect()
            .await;
        assert_eq!(seen, [Some(1), Some(2), None, Some(3), Some(4), None, Some(5), Some(6), None]);
        let starts = shaky.0.lock().unwrap().clone();
        assert_eq!(starts, [Start::Last(2), Start::At(3), Start::At(5), Start::At(7)]);
    }

    /// Says where it begins, breaks off, and has three more lines when it is asked again.
    #[derive(Default)]
    struct Quiet(Mutex<Vec<Start>>);

    impl Elsewhere for Quiet {
        fn read(&self, node: NodeId, _: LogKey, _: Start) -> BoxFuture<'static, Result<Vec<Entry>, Away>> {
            Box::pin(std::future::ready(Err(away(node, false))))
        }

        fn follow(&self, node: NodeId, _: LogKey, start: Start) -> BoxStream<'static, Result<Followed, Away>> {
            self.0.lock().unwrap().push(start);
            let entry = |seq| {
                let line = LogLine::new(LogTime(0), LogStream::Stdout, "x");
                Ok(Followed::Entry(Entry { seq, line }))
            };
            let items = match start {
                Start::At(seq) => (seq..8).map(entry).collect(),
                Start::Last(_) => {
                    vec![Ok(Followed::Begins { seq: 5 }), Err(away(node, false))]
                }
            };
            futures::stream::iter(items).boxed()
        }
    }

    #[tokio::test]
    async fn lines_that_come_while_a_quiet_log_is_away_are_all_sent() {
        let quiet = Arc::new(Quiet::default());
        let key = LogKey::Instance(InstanceId(Uuid::nil()));
        let lines = again_and_again(quiet.clone(), NodeId(2), key, Start::Last(1));
        let seen: Vec<u64> = lines
            .filter_map(async |item| match item {
                Ok(Followed::Entry(entry)) => Some(entry.seq),
                _ => None,
            })
            .collect()
            .await;
        assert_eq!(seen, [5, 6, 7]);
        assert_eq!(*quiet.0.lock().unwrap(), [Start::Last(1), Start::At(5)]);
    }

    /// Has one line, and is removed then.
    struct Leaving;

    impl Elsewhere for Leaving {
        fn read(&self, node: NodeId, _: LogKey, _: Start) -> BoxFuture<'static, Result<Vec<Entry>, Away>> {
            Box::pin(std::future::ready(Err(away(node, true))))
        }

        fn follow(&self, node: NodeId, _: LogKey, _: Start) -> BoxStream<'static, Result<Followed, Away>> {
            let line = LogLine::new(LogTime(0), LogStream::Stdout, "x");
            futures::stream::iter([Ok(Followed::Entry(Entry { seq: 0, line })), Err(away(node, true))]).boxed()
        }
    }

    #[tokio::test]
    async fn the_log_of_a_node_that_is_removed_ends() {
        let key = LogKey::Instance(InstanceId(Uuid::nil()));
        let lines = again_and_again(Arc::new(Leaving), NodeId(2), key, Start::Last(1));
        assert_eq!(lines.count().await, 2, "a line, and why there are no more");
    }
}
