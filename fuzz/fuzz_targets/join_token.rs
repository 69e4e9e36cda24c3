//! Join tokens, as somebody pastes them.
//!
//! The first byte of the input chooses: the text itself; or what a token carries, given the right checksum, so that
//! everything behind the checksum is reached. A token that is taken is written again as the same text, and a text with one
//! character changed is refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use narvana::cluster::{JoinSecret, TokenText};
use narvana::model::{ClusterId, JoinTokenId};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    if kind % 2 == 0 {
        let Ok(text) = std::str::from_utf8(rest) else { return };
        if let Ok(token) = text.parse::<TokenText>() {
            assert_eq!(token.to_string(), text.trim(), "one token has one text");
        }
    } else {
        made(rest);
    }
});

/// `id 16 | cluster 16 | pin 32 | length u8, address…`: the token of these parts can be read when its addresses are some.
fn made(bytes: &[u8]) {
    let Some((id, rest)) = bytes.split_first_chunk::<16>() else { return };
    let Some((cluster, rest)) = rest.split_first_chunk::<16>() else { return };
    let Some((pin, mut rest)) = rest.split_first_chunk::<32>() else { return };
    let mut addresses = Vec::new();
    while let Some((length, after)) = rest.split_first() {
        let (address, after) = after.split_at(usize::from(*length).min(after.len()));
        addresses.push(String::from_utf8_lossy(address).into_owned());
        rest = after;
    }
    let token = TokenText {
        id: JoinTokenId(uuid::Uuid::from_bytes(*id)),
        secret: JoinSecret::new(),
        cluster: ClusterId(uuid::Uuid::from_bytes(*cluster)),
        pin: *pin,
        addresses,
    };
    let text = token.to_string();
    let Ok(read) = text.parse::<TokenText>() else { return };
    assert_eq!(read.to_string(), text);
    assert!((read.id, read.cluster, read.pin) == (token.id, token.cluster, token.pin));
    assert!(read.secret.expose() == token.secret.expose());
    assert!(token.addresses.starts_with(&read.addresses), "the addresses are others");
    // Another letter in one place, chosen by what was read.
    let place = text.len() - 1 - usize::from(pin[0]) % (text.len() / 2);
    let mut changed = text.clone().into_bytes();
    changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("ASCII");
    assert!(changed.parse::<TokenText>().is_err(), "a changed token was read");
}
