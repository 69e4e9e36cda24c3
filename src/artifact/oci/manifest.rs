//! The manifest of an image: which blobs it is made of.

use serde::Deserialize;

use crate::artifact::Digest;

/// The largest manifest that is taken: what registries agree to take at least.
pub const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most layers of one image. Both engines refuse more than 127.
const LAYERS_MAX: usize = 256;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What is said of an image by its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The kind of manifest, which clients have to be told.
    pub media_type: &'static str,
    /// The image's configuration. Its digest is the id that engines know the image by.
    pub config: Part,
    /// The layers, lowest first.
    pub layers: Vec<Part>,
}

/// A blob that belongs to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub digest: Digest,
    /// Its size, as the manifest says.
    pub bytes: u64,
}

/// Why bytes are no manifest of an image that can be kept.
#[derive(Debug, thiserror::Error)]
pub enum NotAManifest {
    /// Too many bytes.
    #[error("a manifest may have {MANIFEST_BYTES_MAX} bytes")]
    TooLarge,
    /// Not JSON, or without the fields of a manifest.
    #[error("it is not the manifest of one image: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// A kind that is not kept.
    #[error(
        "its schema is {schema} and its media type {media_type:?}; taken are the manifests of one image, of OCI and of Docker's schema 2"
    )]
    Kind {
        /// Its schema version.
        schema: u32,
        /// Its own media type, or the one it was announced with.
        media_type: String,
    },
    /// A part that is not named by a SHA-256.
    #[error("its parts must be named by sha256 digests")]
    Digest,
    /// Too many layers.
    #[error("an image may have {LAYERS_MAX} layers")]
    Layers,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    config: WirePart,
    layers: Vec<WirePart>,
}

#[derive(Deserialize)]
struct WirePart {
    digest: String,
    size: u64,
}

impl Manifest {
    /// Reads one. `announced` is the media type that came with it, when one did: it must be the manifest's own.
    pub fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Self, NotAManifest> {
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(NotAManifest::TooLarge);
        }
        let wire: Wire = serde_json::from_slice(bytes)?;
        // Only OCI's may leave its kind out.
        let own = wire.media_type.as_deref().unwrap_or(OCI_MANIFEST);
        let known = [OCI_MANIFEST, DOCKER_MANIFEST].into_iter().find(|known| *known == own);
        let media_type = known.filter(|known| wire.schema_version == 2 && announced.is_none_or(|said| said == *known));
        let Some(media_type) = media_type else {
            let media_type = announced.filter(|said| known.is_some_and(|known| known != *said)).unwrap_or(own);
            return Err(NotAManifest::Kind { schema: wire.schema_version, media_type: media_type.to_owned() });
        };
        if wire.layers.len() > LAYERS_MAX {
            return Err(NotAManifest::Layers);
        }
        let layers = wire.layers.iter().map(WirePart::read).collect::<Result<_, _>>()?;
        Ok(Self { media_type, config: wire.config.read()?, layers })
    }

    /// Every blob it names, each once.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = self.layers.clone();
        parts.push(self.config);
        parts.sort_by_key(|part| part.digest);
        parts.dedup_by_key(|part| part.digest);
        parts
    }
}

impl WirePart {
    fn read(&self) -> Result<Part, NotAManifest> {
        let digest = Digest::from_algorithm_and_hex(&self.digest).map_err(|_| NotAManifest::Digest)?;
        Ok(Part { digest, bytes: self.size })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::new([byte; 32])
    }

    fn sample() -> Value {
        let part = |byte, size| json!({"mediaType": "x", "digest": digest(byte).with_algorithm(), "size": size});
        json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": part(1, 10),
               "layers": [part(2, 20), part(3, 30), part(2, 20)]})
    }

    fn parse(manifest: &Value, announced: Option<&str>) -> Result<Manifest, NotAManifest> {
        Manifest::parse(manifest.to_string().as_bytes(), announced)
    }

    #[test]
    fn names_the_blobs_of_an_image() {
        let manifest = parse(&sample(), Some(DOCKER_MANIFEST)).expect("a manifest");
        assert_eq!((manifest.media_type, manifest.layers.len()), (DOCKER_MANIFEST, 3));
        let part = |byte, bytes| Part { digest: digest(byte), bytes };
        assert_eq!(manifest.parts(), [part(1, 10), part(2, 20), part(3, 30)]);
        let mut silent = sample();
        silent.as_object_mut().expect("an object").remove("mediaType");
        assert_eq!(parse(&silent, None).expect("OCI's").media_type, OCI_MANIFEST);
    }

    #[test]
    fn refuses_what_is_not_the_manifest_of_one_image() {
        let with = |pointer: &str, value: Value| {
            let mut changed = sample();
            *changed.pointer_mut(pointer).expect("it is there") = value;
            changed
        };
        let kind = |result| matches!(result, Err(NotAManifest::Kind { .. }));
        assert!(kind(parse(&sample(), Some(OCI_MANIFEST))), "announced as another kind");
        assert!(kind(parse(&with("/schemaVersion", json!(1)), None)));
        assert!(kind(parse(&with("/mediaType", json!("application/vnd.oci.image.index.v1+json")), None)));
        assert!(matches!(parse(&json!({"schemaVersion": 2, "manifests": []}), None), Err(NotAManifest::Unreadable(_))));
        assert!(matches!(parse(&with("/config/size", json!(-1)), None), Err(NotAManifest::Unreadable(_))));
        for name in ["sha512:00", "../../etc/passwd", "sha256:../../etc/passwd", ""] {
            assert!(matches!(parse(&with("/layers/0/digest", json!(name)), None), Err(NotAManifest::Digest)), "{name}");
        }
        let many: Vec<Value> = (0..=LAYERS_MAX).map(|_| sample()["config"].clone()).collect();
        assert!(matches!(parse(&with("/layers", json!(many)), None), Err(NotAManifest::Layers)));
        let large = vec![b' '; usize::try_from(MANIFEST_BYTES_MAX).expect("small") + 1];
        assert!(matches!(Manifest::parse(&large, None), Err(NotAManifest::TooLarge)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _neither_panics = Manifest::parse(&bytes, None);
        }
    }
}
