//! Images and hosts that a Dockerfile names.

use super::values::shown;
use crate::decide::address::host_problem;
use crate::model::check_image;

/// Why a reference is not one, or names what it must not.
pub(super) fn image_problem(image: &str, allow_loopback: bool) -> Option<String> {
    if image.is_empty() {
        return Some("is empty; does a variable lack its default?".to_owned());
    }
    if let Err(problem) = check_image(image) {
        return Some(shown(&problem.0));
    }
    let host = image.split_once('/').map(|(host, _)| host);
    let host = host.filter(|host| host.contains(['.', ':']) || *host == "localhost");
    host.and_then(|host| host_problem(host, allow_loopback)).map(str::to_owned)
}
