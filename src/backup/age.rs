//! The format age-encryption.org/v1 with one recipient, a passphrase (scrypt).
//!
//! ```text
//! age-encryption.org/v1
//! -> scrypt <salt> <work factor>
//! <the file key, sealed with the key that scrypt makes of the passphrase>
//! --- <HMAC of all that, with a key made of the file key>
//! <nonce [16]> <chunks of 64 KiB, each with a tag; their number and whether one is the last is in its nonce>
//! ```
//!
//! Nothing is handed out before its tag was checked, and the end is known to be the end.

use std::io::{self, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Passphrase;
use crate::random;

const VERSION: &str = "age-encryption.org/v1";
/// What the first line of every version begins with.
const FAMILY: &str = "age-encryption.org/";
const FILE_KEY_BYTES: usize = 16;
const SALT_BYTES: usize = 16;
const PAYLOAD_NONCE_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const CHUNK_BYTES: usize = 64 * 1024;
/// Longest line of a head that is read; the longest of ours has 80 bytes.
const LINE_BYTES_MAX: u64 = 256;
/// log2 of the work of a guess: 128 MiB, and some tenths of a second (OWASP's advice for scrypt).
const WORK_FACTOR: u8 = 17;
/// A file may ask for this much: a gibibyte.
const WORK_FACTOR_MAX: u8 = 20;

/// Something that was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Unopened {
    /// It does not begin like a sealed file.
    #[error("it is not a sealed file: it does not begin with `{VERSION}`")]
    Foreign,
    /// Its format is newer.
    #[error("it is sealed in a format that this version does not know ({0}): use a newer version of narvana")]
    Newer(String),
    /// It is sealed for keys, or in another way.
    #[error("it is sealed with `age`, but not with a passphrase alone")]
    OtherRecipient,
    /// It wants more memory than anybody seals with.
    #[error(
        "it asks for 2^{0} steps of work before it can be opened, more than 2^{WORK_FACTOR_MAX}: nobody seals like that"
    )]
    WorkFactor(u8),
    /// The passphrase does not fit.
    #[error("the passphrase is wrong, or the first lines of the file were changed")]
    WrongPassphrase,
    /// Its head was changed.
    #[error("its first lines were changed after it was sealed")]
    HeadChanged,
    /// A part was changed.
    #[error("its part {0} (of 64 KiB each) is damaged, was changed after it was sealed, or is cut short")]
    Changed(u64),
    /// It ends too early.
    #[error("it is cut short")]
    Truncated,
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[source] io::Error),
}

/// Seals what is written to it. [`Self::finish`] it: without an end it cannot be opened.
pub struct Sealing<W> {
    output: W,
    stream: Stream,
    plain: Vec<u8>,
}

impl<W: Write> Sealing<W> {
    /// Begins a sealed file.
    pub fn begin(output: W, passphrase: &Passphrase) -> io::Result<Self> {
        Self::begin_at(output, passphrase, WORK_FACTOR)
    }

    /// The same at another cost, as log2 of the steps that a guess takes: for tests, which cannot wait.
    pub fn begin_at(mut output: W, passphrase: &Passphrase, work_factor: u8) -> io::Result<Self> {
        let file_key = Zeroizing::new(random::bytes::<FILE_KEY_BYTES>());
        let salt = random::bytes::<SALT_BYTES>();
        let mut body = file_key.to_vec();
        let tag = wrap_cipher(passphrase, &salt, work_factor)
            .encrypt_inout_detached(&Nonce::default(), b"", body.as_mut_slice().into())
            .expect("a key is far shorter than the cipher's limit");
        body.extend_from_slice(&tag);
        let (salt, body) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(&body));
        let head = format!("{VERSION}\n-> scrypt {salt} {work_factor}\n{body}\n---");
        let mac = STANDARD_NO_PAD.encode(head_mac(file_key.as_slice(), head.as_bytes()).finalize().into_bytes());
        let nonce = random::bytes::<PAYLOAD_NONCE_BYTES>();
        output.write_all(format!("{head} {mac}\n").as_bytes())?;
        output.write_all(&nonce)?;
        Ok(Self { output, stream: Stream::new(file_key.as_slice(), &nonce), plain: Vec::with_capacity(CHUNK_BYTES) })
    }

    /// Writes the end, and gives what was written to back.
    pub fn finish(mut self) -> io::Result<W> {
        self.chunk(true)?;
        Ok(self.output)
    }

    fn chunk(&mut self, is_last: bool) -> io::Result<()> {
        let tag = self.stream.seal(&mut self.plain, is_last);
        self.output.write_all(&self.plain)?;
        self.output.write_all(&tag)?;
        self.plain.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only when there is more: the last chunk is not known before the end, and is never empty.
        if self.plain.len() == CHUNK_BYTES && !bytes.is_empty() {
            self.chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.plain.len());
        self.plain.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Opens a sealed file as it is read. Errors of reading have an [`Unopened`] inside.
pub struct Opening<R> {
    input: R,
    stream: Stream,
    /// Opened and not handed out yet.
    plain: Vec<u8>,
    handed_out: usize,
    /// The first byte of the next chunk, which tells whether there is one.
    ahead: Option<u8>,
    ended: bool,
}

impl<R: Read> Opening<R> {
    /// Reads the head and finds out whether the passphrase fits.
    pub fn begin(mut input: R, passphrase: &Passphrase) -> Result<Self, Unopened> {
        let file_key = open_head(&mut input, passphrase)?;
        let mut nonce = [0; PAYLOAD_NONCE_BYTES];
        if fill(&mut input, &mut nonce)? < nonce.len() {
            return Err(Unopened::Truncated);
        }
        let mut first = [0];
        let ahead = (fill(&mut input, &mut first)? == 1).then_some(first[0]);
        // Also nothing at all is sealed as something.
        if ahead.is_none() {
            return Err(Unopened::Truncated);
        }
        let stream = Stream::new(file_key.as_slice(), &nonce);
        Ok(Self { input, stream, plain: Vec::new(), handed_out: 0, ahead, ended: false })
    }

    fn next_chunk(&mut self) -> Result<(), Unopened> {
        let Some(first) = self.ahead.take() else {
            self.ended = true;
            return Ok(());
        };
        // One byte more than a chunk: whether there is another one.
        let mut sealed = vec![0; CHUNK_BYTES + TAG_BYTES + 1];
        sealed[0] = first;
        let length = 1 + fill(&mut self.input, &mut sealed[1..])?;
        let is_last = length < sealed.len();
        if !is_last {
            self.ahead = sealed.pop();
        }
        sealed.truncate(length);
        let number = self.stream.counter;
        let opened = self.stream.open(&mut sealed, is_last);
        if !opened {
            // A whole chunk that is good, and only not the last one: the rest is missing.
            let cut = is_last && sealed.len() == CHUNK_BYTES + TAG_BYTES && self.stream.open(&mut sealed, false);
            return Err(if cut { Unopened::Truncated } else { Unopened::Changed(number + 1) });
        }
        if is_last && sealed.is_empty() && number > 0 {
            return Err(Unopened::Changed(number + 1));
        }
        self.stream.counter += 1;
        (self.plain, self.handed_out) = (sealed, 0);
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.handed_out == self.plain.len() && !self.ended && !into.is_empty() {
            self.next_chunk().map_err(io::Error::other)?;
        }
        let ready = &self.plain[self.handed_out..];
        let taken = ready.len().min(into.len());
        into[..taken].copy_from_slice(&ready[..taken]);
        self.handed_out += taken;
        Ok(taken)
    }
}

/// Reads the head and opens the file key.
fn open_head(input: &mut impl Read, passphrase: &Passphrase) -> Result<Zeroizing<[u8; FILE_KEY_BYTES]>, Unopened> {
    let mut head = Vec::new();
    let first = line(input, &mut head).map_err(|error| match error {
        Unopened::Truncated if !head.is_empty() && VERSION.as_bytes().starts_with(&head) => Unopened::Truncated,
        Unopened::Io(error) => Unopened::Io(error),
        _ => Unopened::Foreign,
    })?;
    match first.as_str() {
        VERSION => {}
        other if other.starts_with(FAMILY) => return Err(Unopened::Newer(other.to_owned())),
        _ => return Err(Unopened::Foreign),
    }
    let stanza = line(input, &mut head)?;
    let words: Vec<&str> = stanza.split(' ').collect();
    let ["->", "scrypt", salt, work_factor] = words[..] else { return Err(Unopened::OtherRecipient) };
    let salt: [u8; SALT_BYTES] = decoded(salt)?;
    let digits = work_factor.bytes().all(|byte| byte.is_ascii_digit()) && !work_factor.starts_with('0');
    let work_factor: u8 = work_factor.parse().ok().filter(|_| digits).ok_or(Unopened::HeadChanged)?;
    if work_factor > WORK_FACTOR_MAX {
        return Err(Unopened::WorkFactor(work_factor));
    }
    let body = line(input, &mut head)?;
    let sealed: [u8; FILE_KEY_BYTES + TAG_BYTES] = decoded(&body)?;
    let last = line(input, &mut head)?;
    let Some(mac) = last.strip_prefix("--- ") else { return Err(Unopened::OtherRecipient) };
    let mac: [u8; 32] = decoded(mac)?;

    let (key, tag) = sealed.split_first_chunk::<FILE_KEY_BYTES>().expect("it was decoded to this size");
    let mut file_key = Zeroizing::new(*key);
    let tag = Tag::try_from(tag).expect("it was decoded to this size");
    wrap_cipher(passphrase, &salt, work_factor)
        .decrypt_inout_detached(&Nonce::default(), b"", file_key.as_mut_slice().into(), &tag)
        .map_err(|_| Unopened::WrongPassphrase)?;
    let authenticated = head.len() - last.len() - 1 + "---".len();
    head_mac(file_key.as_slice(), &head[..authenticated]).verify_slice(&mac).map_err(|_| Unopened::HeadChanged)?;
    Ok(file_key)
}

/// The next line without its end; all bytes that were read are added to the head.
fn line(input: &mut impl Read, head: &mut Vec<u8>) -> Result<String, Unopened> {
    let begun = head.len();
    for _ in 0..LINE_BYTES_MAX {
        let mut byte = [0];
        if fill(input, &mut byte)? == 0 {
            return Err(Unopened::Truncated);
        }
        head.push(byte[0]);
        if byte == *b"\n" {
            let line = head[begun..head.len() - 1].to_vec();
            return String::from_utf8(line).map_err(|_| Unopened::HeadChanged);
        }
    }
    Err(Unopened::HeadChanged)
}

fn decoded<const N: usize>(text: &str) -> Result<[u8; N], Unopened> {
    let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| Unopened::HeadChanged)?;
    bytes.try_into().map_err(|_| Unopened::HeadChanged)
}

fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Unopened> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Unopened::Io(error)),
        }
    }
    Ok(filled)
}

/// What seals the file key.
fn wrap_cipher(passphrase: &Passphrase, salt: &[u8], work_factor: u8) -> ChaCha20Poly1305 {
    let salt = [VERSION.as_bytes(), b"/scrypt", salt].concat();
    let params = scrypt::Params::new(work_factor, 8, 1).expect("the work factor was checked");
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(passphrase.bytes(), &salt, &params, key.as_mut_slice()).expect("32 bytes can be derived");
    ChaCha20Poly1305::new((&*key).into())
}

fn derived(file_key: &[u8], salt: Option<&[u8]>, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(salt, file_key).expand(purpose, key.as_mut_slice()).expect("32 bytes can be derived");
    key
}

fn head_mac(file_key: &[u8], head: &[u8]) -> Hmac<Sha256> {
    let key = derived(file_key, None, b"header");
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).expect("any length is a key");
    mac.update(head);
    mac
}

/// The cipher of the chunks.
struct Stream {
    cipher: ChaCha20Poly1305,
    counter: u64,
}

impl Stream {
    fn new(file_key: &[u8], nonce: &[u8]) -> Self {
        let key = derived(file_key, Some(nonce), b"payload");
        Self { cipher: ChaCha20Poly1305::new((&*key).into()), counter: 0 }
    }

    /// Eleven bytes of number, and one that says whether it is the last.
    fn nonce(&self, is_last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.counter.to_be_bytes());
        nonce[11] = u8::from(is_last);
        nonce.into()
    }

    fn seal(&mut self, chunk: &mut [u8], is_last: bool) -> Tag {
        let nonce = self.nonce(is_last);
        self.counter += 1;
        let tag = self.cipher.encrypt_inout_detached(&nonce, b"", chunk.into());
        tag.expect("a chunk is far shorter than the cipher's limit")
    }

    /// Opens a chunk with its tag in place. One that is not opened is as it was.
    fn open(&self, sealed: &mut Vec<u8>, is_last: bool) -> bool {
        let Some(length) = sealed.len().checked_sub(TAG_BYTES) else { return false };
        let (text, tag) = sealed.split_at_mut(length);
        let tag = Tag::try_from(&*tag).expect("it was split at this size");
        let opened = self.cipher.decrypt_inout_detached(&self.nonce(is_last), b"", text.into(), &tag).is_ok();
        if opened {
            sealed.truncate(length);
        }
        opened
    }
}

#[cfg(test)]
mod tests;
