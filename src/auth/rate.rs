//! Slows down whoever tries too often: one bucket of tokens for each key, in bounded memory of this node.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Keys remembered at most: a megabyte or so, whatever comes in.
const KEYS_MAX: usize = 10_000;

/// How often something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Times in a row.
    pub burst: u32,
    /// Time in which one more becomes free.
    pub every: Duration,
}

/// Too often; free again after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts; try again in {} seconds", .0.as_secs().max(1))]
pub struct Slow(pub Duration);

/// Counts attempts by key.
pub struct RateLimiter<K> {
    pace: Pace,
    buckets: Mutex<HashMap<K, Bucket>>,
}

struct Bucket {
    /// Time at which the bucket is full again. The further in the future, the more has been taken.
    full_at: Instant,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    /// A limiter that has seen nobody yet.
    pub fn new(pace: Pace) -> Self {
        Self { pace, buckets: Mutex::default() }
    }

    /// Takes one attempt, or says how long to wait for the next.
    pub fn take(&self, key: &K, now: Instant) -> Result<(), Slow> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= KEYS_MAX && !buckets.contains_key(key) {
            make_room(&mut buckets, now);
        }
        let bucket = buckets.entry(key.clone()).or_insert(Bucket { full_at: now });
        let after = bucket.full_at.max(now) + self.pace.every;
        let room = self.pace.every * self.pace.burst;
        if after > now + room {
            return Err(Slow(after.duration_since(now + room)));
        }
        bucket.full_at = after;
        Ok(())
    }

    /// Gives an attempt back: only failures should count.
    pub fn give_back(&self, key: &K) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(key) {
            bucket.full_at = bucket.full_at.checked_sub(self.pace.every).unwrap_or(bucket.full_at);
        }
    }
}

/// Forgets keys whose bucket is full; when there is none, the one that is nearest to it.
fn make_room<K: Hash + Eq + Clone>(buckets: &mut HashMap<K, Bucket>, now: Instant) {
    buckets.retain(|_, bucket| bucket.full_at > now);
    if buckets.len() >= KEYS_MAX {
        let nearest = buckets.iter().min_by_key(|(_, bucket)| bucket.full_at).map(|(key, _)| key.clone());
        nearest.map(|key| buckets.remove(&key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { burst: 3, every: Duration::from_secs(10) };

    #[test]
    fn a_burst_then_the_pace() {
        let limiter = RateLimiter::new(PACE);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(limiter.take(&"a", now), Ok(()));
        }
        assert_eq!(limiter.take(&"a", now), Err(Slow(Duration::from_secs(10))));
        assert_eq!(limiter.take(&"b", now), Ok(()));
        let later = now + Duration::from_secs(10);
        assert_eq!(limiter.take(&"a", later), Ok(()));
        assert!(limiter.take(&"a", later).is_err());
        limiter.give_back(&"a");
        assert_eq!(limiter.take(&"a", later), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = RateLimiter::new(PACE);
        let now = Instant::now();
        for key in 0..KEYS_MAX + 100 {
            assert_eq!(limiter.take(&key, now), Ok(()));
        }
        assert!(limiter.buckets.lock().expect("lock").len() <= KEYS_MAX);
    }
}
