//! The format: what is sealed is opened, by others too, and nothing else is.

use proptest::prelude::*;

use super::*;

fn passphrase(text: &str) -> Passphrase {
    Passphrase::known(text.to_owned()).expect("not empty")
}

/// At the least cost.
fn sealed(plain: &[u8], parts: usize) -> Vec<u8> {
    let mut sealing = Sealing::begin_at(Vec::new(), &passphrase("tulips"), 1).expect("begins");
    for part in plain.chunks(parts) {
        sealing.write_all(part).expect("writes");
    }
    sealing.finish().expect("finishes")
}

fn opened(sealed: &[u8], with: &str) -> Result<Vec<u8>, Unopened> {
    let mut opening = Opening::begin(sealed, &passphrase(with))?;
    let mut plain = Vec::new();
    match opening.read_to_end(&mut plain) {
        Ok(_) => Ok(plain),
        Err(error) => Err(*error.into_inner().expect("one of ours").downcast().expect("one of ours")),
    }
}

#[test]
fn what_is_sealed_is_opened_at_every_length_around_a_chunk() {
    for length in [0, 1, 15, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 7] {
        let plain: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8).collect();
        let file = sealed(&plain, 10_000);
        assert_eq!(opened(&file, "tulips").expect("opens"), plain, "{length} bytes");
        let chunks = length.div_ceil(CHUNK_BYTES).max(1);
        let head = file.windows(4).position(|four| four == b"\n---").expect("a head") + 4 + 1 + 43 + 1;
        assert_eq!(file.len(), head + PAYLOAD_NONCE_BYTES + length + chunks * TAG_BYTES, "nothing is empty at the end");
    }
}

/// Sealed by the reference program (`age` 1.1.1, `age -p`), passphrase `correct horse battery`.
#[test]
fn a_file_of_the_reference_program_is_opened() {
    let file = include_bytes!("sealed-by-age");
    assert_eq!(opened(file, "correct horse battery").expect("opens"), b"sealed by another program\n");
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let file = sealed(b"hello", 2);
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(opened(&flipped, "tulips").is_err(), "bit {bit}");
    }
    for length in 0..file.len() {
        assert!(opened(&file[..length], "tulips").is_err(), "cut to {length}");
    }
    assert!(matches!(opened(&[&file[..], b"x"].concat(), "tulips"), Err(Unopened::Changed(1))));
}

#[test]
fn a_cut_between_chunks_is_told_from_a_change() {
    let file = sealed(&vec![7; 3 * CHUNK_BYTES], CHUNK_BYTES);
    let sealed_chunk = CHUNK_BYTES + TAG_BYTES;
    for chunks in 1..3 {
        let cut = &file[..file.len() - chunks * sealed_chunk];
        assert!(matches!(opened(cut, "tulips"), Err(Unopened::Truncated)), "{chunks} chunks less");
    }
    let nothing = &file[..file.len() - 3 * sealed_chunk];
    assert!(matches!(opened(nothing, "tulips"), Err(Unopened::Truncated)));
    // Chunks in another order.
    let mut swapped = file.clone();
    let at = file.len() - 3 * sealed_chunk;
    swapped[at..at + 2 * sealed_chunk].rotate_left(sealed_chunk);
    assert!(matches!(opened(&swapped, "tulips"), Err(Unopened::Changed(1))));
}

#[test]
fn what_is_wrong_is_said() {
    let file = sealed(b"hello", 5);
    assert!(matches!(opened(&file, "roses"), Err(Unopened::WrongPassphrase)));
    assert!(matches!(opened(b"", "x"), Err(Unopened::Foreign)));
    assert!(matches!(opened(b"hello, world\n", "x"), Err(Unopened::Foreign)));
    assert!(matches!(opened(&[b'x'; 100_000], "x"), Err(Unopened::Foreign)));
    assert!(matches!(opened(b"age-encr", "x"), Err(Unopened::Truncated)));
    assert!(matches!(opened(b"age-encryption.org/v2\n", "x"), Err(Unopened::Newer(_))));
    let keys = b"age-encryption.org/v1\n-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\n";
    assert!(matches!(opened(keys, "x"), Err(Unopened::OtherRecipient)));
    let costly = String::from_utf8_lossy(&file).replacen(" 1\n", " 63\n", 1);
    assert!(matches!(opened(costly.as_bytes(), "x"), Err(Unopened::WorkFactor(63))));
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..400), with_head: bool) {
        let head: &[u8] = if with_head { b"age-encryption.org/v1\n-> scrypt " } else { b"" };
        let _refused = opened(&[head, &bytes].concat(), "x");
    }
}
