//! What users write in arguments: ports, `key=value`, volumes, times.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{Protocol, parse_duration};

/// A port of a container: `8080` or `53/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortArg {
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

impl PortArg {
    pub(super) fn json(self) -> Value {
        json!({ "container_port": self.port, "protocol": self.protocol.as_str() })
    }
}

impl FromStr for PortArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        match (port.parse(), protocol.to_ascii_lowercase().parse()) {
            (Ok(port @ 1..), Ok(protocol)) => Ok(Self { port, protocol }),
            _ => Err(format!("must be a port such as 8080 or 53/udp, got {text:?}")),
        }
    }
}

/// `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) value: String,
}

impl FromStr for Pair {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // The value may be a secret, so that it is not repeated in the message.
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            _ => Err("must be KEY=VALUE".to_owned()),
        }
    }
}

/// A label with its new value, `key=value`, or one to take away, `key-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LabelChange {
    pub(super) key: String,
    pub(super) value: Option<String>,
}

impl FromStr for LabelChange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) => (key, Some(value.to_owned())),
            (None, Some(key)) => (key, None),
            (None, None) => return Err(format!("must be KEY=VALUE, or KEY- to take one away, got {text:?}")),
        };
        Ok(Self { key: key.to_owned(), value })
    }
}

/// `SERVICE=N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    pub(super) service: String,
    pub(super) replicas: u32,
}

impl FromStr for Scale {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').and_then(|(service, number)| Some((service, number.parse().ok()?)));
        match parsed {
            Some((service, replicas)) if !service.is_empty() => Ok(Self { service: service.to_owned(), replicas }),
            _ => Err(format!("must be SERVICE=NUMBER such as web=3, got {text:?}")),
        }
    }
}

/// `NAME:PATH` or `NAME:PATH:SIZE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VolumeArg {
    name: String,
    path: String,
    size: Option<String>,
}

impl VolumeArg {
    pub(super) fn json(&self) -> Value {
        let mut volume = json!({ "name": self.name, "path": self.path });
        if let Some(size) = &self.size {
            volume["size"] = size.clone().into();
        }
        volume
    }
}

impl FromStr for VolumeArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(path), size) if !name.is_empty() && path.starts_with('/') => {
                Ok(Self { name, path, size })
            }
            _ => Err(format!("must be NAME:PATH or NAME:PATH:SIZE such as data:/var/lib/data:1Gi, got {text:?}")),
        }
    }
}

/// A time such as `10m`; `0s` is none.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|problem| problem.to_string())
}

/// Whole seconds of a time such as `10s`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    duration(text).map(|duration| duration.as_secs())
}

/// Something like `text` that is a name of an app or service: a DNS label that begins with a letter. `None` when no letter is in it.
pub(super) fn name_like(text: &str) -> Option<String> {
    /// Longest DNS label.
    const BYTES_MAX: usize = 63;
    let mut name = String::new();
    for c in text.to_lowercase().chars() {
        match c {
            'a'..='z' => name.push(c),
            '0'..='9' if !name.is_empty() => name.push(c),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    name.truncate(BYTES_MAX);
    let name = name.trim_end_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!("8080".parse(), Ok(PortArg { port: 8080, protocol: Protocol::Tcp }));
        assert_eq!("53/UDP".parse(), Ok(PortArg { port: 53, protocol: Protocol::Udp }));
        for text in ["", "0", "65536", "x", "80/sctp", "80/", "-1"] {
            assert!(text.parse::<PortArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_keep_the_value_as_it_is_and_never_repeat_it() {
        assert_eq!("A=b=c ".parse(), Ok(Pair { key: "A".into(), value: "b=c ".into() }));
        assert_eq!("A=".parse(), Ok(Pair { key: "A".into(), value: String::new() }));
        for text in ["hunter2", "=hunter2", ""] {
            let error = text.parse::<Pair>().expect_err("refused");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn scales_and_volumes() {
        assert_eq!("web=3".parse(), Ok(Scale { service: "web".into(), replicas: 3 }));
        for text in ["web", "web=", "=3", "web=-1", "web=x"] {
            assert!(text.parse::<Scale>().is_err(), "{text}");
        }
        let volume: VolumeArg = "data:/var/lib/data:1Gi".parse().expect("a volume");
        assert_eq!(volume.json(), json!({ "name": "data", "path": "/var/lib/data", "size": "1Gi" }));
        for text in ["data", "data:", ":/x", "data:relative"] {
            assert!(text.parse::<VolumeArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_from_folders() {
        for (folder, name) in [
            ("hello", Some("hello")),
            ("My App_2.0", Some("my-app-2-0")),
            ("2048-game", Some("game")),
            ("--x--", Some("x")),
            ("Ünïcode", Some("n-code")),
            ("123", None),
            ("", None),
        ] {
            assert_eq!(name_like(folder).as_deref(), name, "{folder}");
        }
        assert_eq!(name_like(&"a".repeat(80)).map(|name| name.len()), Some(63));
    }
}
