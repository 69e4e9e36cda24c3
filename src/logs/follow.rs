//! The backlog of a log and all that follows, in order, once each.

use std::sync::Arc;

use async_stream::try_stream;
use futures::stream::BoxStream;

use super::cursor::Cursor;
use super::log::Log;
use super::{Entry, Error};
use crate::task::blocking;

/// Lines a follower holds in memory at once, for a client that reads slowly.
const BATCH_LINES: usize = 1024;

/// What a follower sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The next line.
    Entry(Entry),
    /// Where following begins, of a log that was asked for by a count from its end. Comes first, and before there is any
    /// line: whoever is cut off then knows where to go on.
    Begins {
        /// The place of the line that comes next, as soon as there is one.
        seq: u64,
    },
    /// Lines that were dropped as the oldest before this follower could read them. The next entry's `seq` is that much
    /// higher.
    Skipped {
        /// How many.
        count: u64,
    },
}

/// Ends when the log is closed and read to its end. Holds no lock and no line of the writer while the client takes its
/// time: every batch is read from the files anew.
pub(super) fn follow(log: Arc<Log>, from: u64) -> BoxStream<'static, Result<Followed, Error>> {
    Box::pin(try_stream! {
        let mut views = log.view.subscribe();
        let mut cursor = Cursor::new(log.key, log.dir.clone(), from);
        loop {
            let view = views.borrow_and_update().clone();
            if cursor.seq < view.next {
                let items;
                (cursor, items) = blocking(move || {
                    let items = cursor.read(&view, BATCH_LINES);
                    (cursor, items)
                })
                .await;
                for item in items? {
                    yield item;
                }
            } else if view.closed || views.changed().await.is_err() {
                break;
            }
        }
    })
}
