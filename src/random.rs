//! Where randomness enters the program: ids, tokens and keys. Pure modules get them as arguments.

use rand::Rng;
use uuid::Uuid;

/// A new id. Ids sort by the time they were made, so that ordered maps list things in the order of their creation.
pub fn id<T: From<Uuid>>() -> T {
    T::from(Uuid::now_v7())
}

/// `N` bytes fit for a key.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
