//! Where container engines of this machine keep images and containers, by their own configuration.

use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// What a machine says of it.
struct Machine {
    /// Instead of `/`, for tests.
    root: PathBuf,
    /// Of the user whose engine is meant, unless that is root.
    home: Option<PathBuf>,
}

/// The folders that are there, each with what it is shown as.
pub(super) fn folders() -> Vec<(&'static str, PathBuf)> {
    let home = if geteuid().is_root() { None } else { std::env::home_dir() };
    let machine = Machine { root: PathBuf::from("/"), home };
    let all = [("space for podman", machine.podman()), ("space for docker", machine.docker())];
    all.into_iter().filter(|(_, folder)| folder.exists()).collect()
}

impl Machine {
    fn podman(&self) -> PathBuf {
        let (file, usual) = match &self.home {
            Some(home) => (home.join(".config/containers/storage.conf"), home.join(".local/share/containers/storage")),
            None => (self.root.join("etc/containers/storage.conf"), self.root.join("var/lib/containers/storage")),
        };
        graph_root(&read(&file)).unwrap_or(usual)
    }

    /// It runs as root, whoever asks it.
    fn docker(&self) -> PathBuf {
        data_root(&read(&self.root.join("etc/docker/daemon.json"))).unwrap_or_else(|| self.root.join("var/lib/docker"))
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// Of Podman's `storage.conf`. With variables in it, it is not what it says.
fn graph_root(text: &str) -> Option<PathBuf> {
    let table: toml::Table = text.parse().ok()?;
    let folder = table.get("storage")?.get("graphroot")?.as_str()?;
    absolute(folder)
}

/// Of Docker's `daemon.json`.
fn data_root(text: &str) -> Option<PathBuf> {
    let configuration: serde_json::Value = serde_json::from_str(text).ok()?;
    absolute(configuration.get("data-root")?.as_str()?)
}

fn absolute(folder: &str) -> Option<PathBuf> {
    (folder.starts_with('/') && !folder.contains('$')).then(|| PathBuf::from(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_where_engines_are_told_to_have_them() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |path: &str| root.path().join(path);
        let machine = Machine { root: root.path().to_owned(), home: None };
        assert_eq!(machine.podman(), at("var/lib/containers/storage"));
        assert_eq!(machine.docker(), at("var/lib/docker"));
        for folder in ["etc/containers", "etc/docker"] {
            std::fs::create_dir_all(at(folder)).expect("made");
        }
        std::fs::write(at("etc/containers/storage.conf"), "[storage]\ngraphroot = \"/srv/podman\"\n").expect("writes");
        std::fs::write(at("etc/docker/daemon.json"), r#"{"data-root": "/srv/docker"}"#).expect("writes");
        assert_eq!(machine.podman(), Path::new("/srv/podman"));
        assert_eq!(machine.docker(), Path::new("/srv/docker"));
        // A user's Podman has nothing to do with root's.
        let user = Machine { home: Some(PathBuf::from("/home/ada")), ..machine };
        assert_eq!(user.podman(), Path::new("/home/ada/.local/share/containers/storage"));
    }

    #[test]
    fn what_cannot_be_understood_says_nothing() {
        for text in [
            "",
            "[storage",
            "[storage]\ndriver = \"overlay\"",
            "[storage]\ngraphroot = \"$HOME/x\"",
            "[storage]\ngraphroot = 3",
        ] {
            assert_eq!(graph_root(text), None, "{text}");
        }
        for text in ["", "{", "{}", r#"{"data-root": "relative"}"#, r#"{"data-root": 3}"#, "[]"] {
            assert_eq!(data_root(text), None, "{text}");
        }
    }
}
