//! Sealing: every stored value is encrypted and authenticated, bound to its place and to the node it belongs to.
//!
//! redb does not check what it reads, so this is what turns a flipped bit, a value in another's place or a file of
//! another node into an error. It also keeps secrets unreadable at rest. What it does not notice is an older value of
//! the same place: that needs an attacker who can write the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::Error;
use crate::model::{ClusterId, NodeId};
use crate::random;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// The data key of a node: 32 bytes in a file that only the node's user may read. Lost with the file.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; KEY_BYTES]>);

impl SealKey {
    /// Makes a new key and writes its file. Refuses to replace an existing one.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let io = |doing| move |source| Error::Io { path: path.to_owned(), doing, source };
        if path.exists() {
            return Err(Error::KeyExists { path: path.to_owned() });
        }
        let key = Self(Zeroizing::new(random::bytes()));
        // Under a name of its own first: a crash never leaves half a key under the real one.
        let unfinished = path.with_extension("key-unfinished");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(io("create"))?;
        file.write_all(key.0.as_slice()).map_err(io("write"))?;
        file.sync_all().map_err(io("sync"))?;
        fs::rename(&unfinished, path).map_err(io("rename"))?;
        sync_folder_of(path)?;
        Ok(key)
    }

    /// Reads the key file, after a look at who else may.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let io = |doing| move |source| Error::Io { path: path.to_owned(), doing, source };
        let mut file = File::open(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::KeyMissing { path: path.to_owned() },
            _ => Error::Io { path: path.to_owned(), doing: "open", source },
        })?;
        let mode = file.metadata().map_err(io("inspect"))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::KeyMode { path: path.to_owned(), mode });
        }
        // One byte more than a key, to notice a file that is too long.
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
        (&mut file).take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io("read"))?;
        let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice())
            .map_err(|_| Error::KeyLength { path: path.to_owned(), bytes: bytes.len() })?;
        Ok(Self(Zeroizing::new(key)))
    }
}

/// Seals and opens values of one node.
pub(super) struct Sealer {
    cipher: XChaCha20Poly1305,
    cluster: ClusterId,
    node: NodeId,
}

/// The bytes are not what was sealed in this place by this node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

impl Sealer {
    pub(super) fn new(key: &SealKey, cluster: ClusterId, node: NodeId) -> Self {
        Self { cipher: XChaCha20Poly1305::new((&*key.0).into()), cluster, node }
    }

    /// `nonce | ciphertext | tag`, which opens only under the same table and key.
    pub(super) fn seal(&self, table: &str, key: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = random::bytes();
        let mut sealed = Vec::with_capacity(NONCE_BYTES + plain.len() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = self
            .cipher
            .encrypt_inout_detached(&XNonce::from(nonce), &self.place(table, key), (&mut sealed[NONCE_BYTES..]).into())
            .expect("a value is far shorter than the cipher's limit of 256 GiB");
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// What [`Self::seal`] was given.
    pub(super) fn open(&self, table: &str, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Broken> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Broken)?;
        let (text, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(Broken)?;
        let mut plain = text.to_vec();
        self.cipher
            .decrypt_inout_detached(
                &XNonce::from(*nonce),
                &self.place(table, key),
                plain.as_mut_slice().into(),
                &Tag::from(*tag),
            )
            .map_err(|_| Broken)?;
        Ok(plain)
    }

    /// The associated data: lengths come first, so that no two places read the same.
    fn place(&self, table: &str, key: &[u8]) -> Vec<u8> {
        let mut place = Vec::with_capacity(40 + table.len() + key.len());
        for part in [table.as_bytes(), key, self.cluster.0.as_bytes(), &self.node.0.to_be_bytes()] {
            place.extend_from_slice(&(part.len() as u64).to_be_bytes());
            place.extend_from_slice(part);
        }
        place
    }
}

/// Makes a rename, creation or removal in this file's folder durable.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let io = |doing| move |source| Error::Io { path: folder.to_owned(), doing, source };
    File::open(folder).map_err(io("open"))?.sync_all().map_err(io("sync"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::random;

    fn sealer(key: &SealKey, cluster: ClusterId, node: u64) -> Sealer {
        Sealer::new(key, cluster, NodeId(node))
    }

    #[test]
    fn a_value_opens_only_whole_in_its_place_and_on_its_node() {
        let folder = tempfile::tempdir().expect("folder");
        let key = SealKey::create(&folder.path().join("node.key")).expect("key");
        let cluster = random::id();
        let one = sealer(&key, cluster, 1);
        let sealed = one.seal("log", b"7", b"the value");
        assert_eq!(one.open("log", b"7", &sealed).as_deref(), Ok(b"the value".as_slice()));

        assert_eq!(one.open("log", b"8", &sealed), Err(Broken), "another key");
        assert_eq!(one.open("lo", b"g7", &sealed), Err(Broken), "another table");
        assert_eq!(sealer(&key, cluster, 2).open("log", b"7", &sealed), Err(Broken), "another node");
        assert_eq!(sealer(&key, random::id(), 1).open("log", b"7", &sealed), Err(Broken), "another cluster");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(one.open("log", b"7", &flipped), Err(Broken), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(one.open("log", b"7", &sealed[..length]), Err(Broken), "cut to {length}");
        }
    }

    #[test]
    fn the_key_file_is_private_and_never_replaced() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("node.key");
        assert!(matches!(SealKey::load(&path), Err(Error::KeyMissing { .. })));
        let key = SealKey::create(&path).expect("key");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o600);
        assert!(*SealKey::load(&path).expect("loads").0 == *key.0);
        assert!(matches!(SealKey::create(&path), Err(Error::KeyExists { .. })));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let Err(error @ Error::KeyMode { mode: 0o640, .. }) = SealKey::load(&path) else { panic!("open to the group") };
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::write(&path, [0; KEY_BYTES + 1]).expect("write");
        assert!(matches!(SealKey::load(&path), Err(Error::KeyLength { .. })));
    }
}
