//! Where randomness enters the program: ids, tokens and keys. Pure modules get them as arguments.

use rand::Rng;
use uuid::Uuid;

/// A new id. Ids sort by the time they were made, so that ordered maps list things in the order of their creation.
pub fn id<T: From<Uuid>>() -> T {
    #[cfg(test)]
    if let Some(now) = crate::host::now() {
        let milliseconds = u64::try_from(now.0).unwrap_or_default();
        return T::from(uuid::Builder::from_unix_timestamp_millis(milliseconds, &bytes()).into_uuid());
    }
    T::from(Uuid::now_v7())
}

/// `N` bytes fit for a key.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(test)]
    if crate::host::fill(&mut bytes) {
        return bytes;
    }
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
