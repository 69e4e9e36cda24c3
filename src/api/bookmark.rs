//! How far the reader of a stream is: what stands in the ids of events, and in the `Last-Event-ID` of a client that was cut off.
//!
//! It holds all that another node needs to go on: the index of the state that was shown, the place in each log, and a
//! fingerprint of each object as it was sent last. Nothing of it is kept on any node.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use http::HeaderMap;
use sha2::{Digest, Sha256};

use crate::logs::LogKey;
use crate::model::{BuildId, InstanceId};

use super::sse::LOGS_MAX;

/// Objects whose fingerprints an id holds at most. Those that are told after them are repeated to a client that was cut off.
const OBJECTS_MAX: usize = 128;
/// Longest id that is read, in bytes: one with [`LOGS_MAX`] logs and [`OBJECTS_MAX`] objects has less.
const BYTES_MAX: usize = 64 * LOGS_MAX + 20 * OBJECTS_MAX;

/// How far a reader is in one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This line is the next one.
    At(u64),
    /// The reader wants its last lines, and its node has not said yet where they begin.
    Last,
}

/// What there is to say about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The reader has never heard of it.
    New,
    /// It is not any more as the reader was told.
    Changed,
}

/// Which object, and how it was. Parts of hashes: a change is missed once in four billion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    object: u32,
    content: u32,
}

/// How far a reader is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bookmark {
    /// The newest index of the state that the reader saw something of.
    pub(super) index: u64,
    pub(super) logs: BTreeMap<LogKey, Place>,
    told: Vec<Told>,
}

impl Bookmark {
    /// Where a client that was cut off is; `None` of one that begins, or whose id cannot be read.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("last-event-id")?.to_str().ok()?;
        if text.is_empty() || text.len() > BYTES_MAX {
            return None;
        }
        let mut bookmark = Self::default();
        for part in text.split(',') {
            bookmark.take(part)?;
        }
        Some(bookmark)
    }

    fn take(&mut self, part: &str) -> Option<()> {
        let (kind, rest) = part.split_at_checked(1)?;
        match kind {
            "@" => self.index = rest.parse().ok()?,
            "o" => {
                let (object, content) = rest.split_at_checked(8)?;
                let number = |hex| u32::from_str_radix(hex, 16).ok();
                self.told.push(Told { object: number(object)?, content: number(content)? });
            }
            _ => {
                let (id, place) = rest.split_once('=')?;
                let key = match kind {
                    "b" => LogKey::Build(id.parse::<BuildId>().ok()?),
                    "i" => LogKey::Instance(id.parse::<InstanceId>().ok()?),
                    _ => return None,
                };
                self.logs.insert(key, if place == "-" { Place::Last } else { Place::At(place.parse().ok()?) });
            }
        }
        Some(())
    }

    /// Notes that an object is told as it is now, and says whether that is news.
    pub(super) fn tell(&mut self, id: impl Display, content: &[u8]) -> Option<News> {
        let now = Told { object: short(id.to_string().as_bytes()), content: short(content) };
        if self.told.contains(&now) {
            return None;
        }
        let before = self.told.len();
        self.told.retain(|told| told.object != now.object);
        let news = if self.told.len() < before { News::Changed } else { News::New };
        self.told.push(now);
        Some(news)
    }

    /// Forgets all objects but these, the most important first.
    pub(super) fn keep(&mut self, ids: impl IntoIterator<Item = impl Display>) {
        let mut before = std::mem::take(&mut self.told);
        for id in ids {
            let object = short(id.to_string().as_bytes());
            self.told.extend(before.extract_if(.., |told| told.object == object));
        }
    }
}

impl Display for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.index)?;
        for (key, place) in &self.logs {
            match key {
                LogKey::Build(id) => write!(f, ",b{}=", id.0.as_simple())?,
                LogKey::Instance(id) => write!(f, ",i{}=", id.0.as_simple())?,
            }
            match place {
                Place::At(next) => write!(f, "{next}")?,
                Place::Last => f.write_str("-")?,
            }
        }
        for Told { object, content } in self.told.iter().take(OBJECTS_MAX) {
            write!(f, ",o{object:08x}{content:08x}")?;
        }
        Ok(())
    }
}

fn short(bytes: &[u8]) -> u32 {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    u32::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use uuid::Uuid;

    use super::*;

    fn read(text: &str) -> Option<Bookmark> {
        Bookmark::of(&HeaderMap::from_iter([(
            http::HeaderName::from_static("last-event-id"),
            HeaderValue::from_str(text).expect("a header"),
        )]))
    }

    #[test]
    fn an_id_brings_everything_back_and_the_largest_one_too() {
        let mut bookmark = Bookmark { index: u64::MAX, ..Bookmark::default() };
        for log in 0..LOGS_MAX as u128 {
            bookmark.logs.insert(LogKey::Build(BuildId(Uuid::from_u128(log))), Place::At(u64::MAX));
        }
        bookmark.logs.insert(LogKey::Build(BuildId(Uuid::nil())), Place::Last);
        for object in 0..OBJECTS_MAX {
            assert_eq!(bookmark.tell(object, b"one"), Some(News::New));
        }
        assert_eq!(read(&bookmark.to_string()).as_ref(), Some(&bookmark));
        assert_eq!(bookmark.tell(3, b"one"), None);
        assert_eq!(bookmark.tell(3, b"two"), Some(News::Changed));
        bookmark.keep([3, 5, 999]);
        assert_eq!((bookmark.tell(5, b"one"), bookmark.tell(4, b"one")), (None, Some(News::New)));
        let pinned = "@7,i00000000000000000000000000000009=-,oca9781126fd0f6dd";
        assert!(read(pinned).is_some());
        assert_eq!(read(pinned).expect("read").to_string(), pinned);
    }

    #[test]
    fn what_is_no_id_is_none() {
        for text in
            ["", "5", "@", "@x", "i5=1", "b00000000000000000000000000000009", "o12", "@1,,", "@1,ozzzzzzzzzzzzzzzz"]
        {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read(&"@1,".repeat(BYTES_MAX)), None);
    }
}
