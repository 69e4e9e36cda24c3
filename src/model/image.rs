//! References to container images, as users write them.

use super::{Digest, Problem, quoted};

/// A container image reference: `[registry[:port]/]path[:tag][@sha256:…]`, at most 255 bytes.
pub fn check_image(image: &str) -> Result<(), Problem> {
    let bad =
        |why: &str| Err(Problem::new(format!("{why}, got {}; such as docker.io/library/nginx:1.27", quoted(image))));
    if image.is_empty() || image.len() > 255 {
        return bad("must have 1 to 255 characters");
    }
    let (named, digest) = match image.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (image, None),
    };
    if let Some(digest) = digest {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return bad("its digest must be sha256: and 64 hex digits");
        }
    }
    let last_slash = named.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match named[last_slash..].split_once(':') {
        Some((last, tag)) => (&named[..last_slash + last.len()], Some(tag)),
        None => (named, None),
    };
    if let Some(tag) = tag {
        let charset_ok = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if tag.is_empty() || tag.len() > 128 || !charset_ok || tag.starts_with(['.', '-']) {
            return bad("its tag must be 1 to 128 of letters, digits and _.-");
        }
    }
    for (position, part) in path.split('/').enumerate() {
        let is_registry = position == 0 && path.contains('/') && (part.contains(['.', ':']) || part == "localhost");
        let (name, port) = if is_registry { part.split_once(':').unwrap_or((part, "0")) } else { (part, "0") };
        let charset_ok = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        let edges_ok = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric());
        if !charset_ok || !edges_ok || port.parse::<u16>().is_err() {
            return bad("its path must be lower-case letters, digits and ._- between slashes");
        }
    }
    Ok(())
}

/// The tag that a reference without one means.
const LATEST: &str = "latest";

/// The part of a reference that names the image in its registry, and the tag, if it has one. A digest belongs to neither.
fn parts(image: &str) -> (&str, Option<&str>) {
    let named = image.split_once('@').map_or(image, |(named, _)| named);
    let last_part = named.rfind('/').map_or(0, |at| at + 1);
    match named[last_part..].find(':') {
        Some(colon) => (&named[..last_part + colon], Some(&named[last_part + colon + 1..])),
        None => (named, None),
    }
}

/// The name of an image without tag and digest.
pub fn image_name(image: &str) -> &str {
    parts(image).0
}

/// The reference to what has this digest under the same name, whatever its tag means by now.
pub fn image_by_digest(image: &str, digest: &Digest) -> String {
    format!("{}@{}", image_name(image), digest.with_algorithm())
}

/// Whether a reference names what is in no registry: of what is on `localhost` each engine has its own.
pub fn is_local_image(image: &str) -> bool {
    image.starts_with("localhost/")
}

/// Whether a reference names an image of a registry by a tag, which may mean another image tomorrow.
pub fn is_image_by_tag(image: &str) -> bool {
    !image.contains('@') && !is_local_image(image)
}

/// Whether a reference asks for the newest image there is, whatever an engine has already.
pub fn is_latest_image(image: &str) -> bool {
    is_image_by_tag(image) && parts(image).1.unwrap_or(LATEST) == LATEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let digest = format!("nginx@sha256:{}", "a".repeat(64));
        for good in
            ["nginx", "nginx:1.27", "docker.io/library/nginx:latest", "localhost:5000/a/b", "localhost/x:y", &digest]
        {
            assert_eq!(check_image(good), Ok(()), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "-v/:/h", "Nginx", "nginx:", "nginx:-a", "a//b", "a@sha256:1", "x y", "host:99999/a", &long] {
            assert!(check_image(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_without_tag_and_digest() {
        let digest = Digest::new([0xab; 32]);
        let hex = "ab".repeat(32);
        for (image, name) in [
            ("nginx", "nginx"),
            ("nginx:1.27", "nginx"),
            ("h:5000/a/b", "h:5000/a/b"),
            ("h:5000/a/b:c", "h:5000/a/b"),
            ("h:5000/a@sha256:00", "h:5000/a"),
            ("h:5000/a:1@sha256:00", "h:5000/a"),
        ] {
            assert_eq!(image_name(image), name);
            assert_eq!(image_by_digest(image, &digest), format!("{name}@sha256:{hex}"));
        }
    }

    #[test]
    fn tags_move_and_digests_do_not() {
        for (image, by_tag, latest) in [
            ("nginx", true, true),
            ("nginx:latest", true, true),
            ("nginx:1.27", true, false),
            ("h:5000/a", true, true),
            ("localhost:5000/a:1", true, false),
            ("localhost/a", false, false),
            ("nginx@sha256:00", false, false),
            ("nginx:latest@sha256:00", false, false),
        ] {
            assert_eq!((is_image_by_tag(image), is_latest_image(image)), (by_tag, latest), "{image}");
        }
    }
}
