//! Every name of an archive as a tree in memory: what may stand where, and where links lead.
//!
//! Links are judged against this tree once all of it is known, because each alone looks harmless: `a -> b/..` leads
//! elsewhere when `b` is itself a link.

use std::collections::HashMap;

use icu_normalizer::ComposingNormalizerBorrowed;

use crate::build::tree::Limits;

const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4_096;
/// As Linux.
const MAX_LINKS_FOLLOWED: usize = 40;
/// Steps for all links of an archive together, so that no arrangement of them takes long.
const MAX_STEPS: usize = 5_000_000;

const ROOT: usize = 0;

/// Why a name is refused.
#[derive(Debug)]
pub(super) enum Refused {
    Name(String),
    /// The name that was there before.
    Duplicate(String),
    TooMany,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Folder,
    File,
    /// And its target.
    Link(String),
}

struct Node {
    parent: usize,
    name: String,
    kind: Kind,
    /// It has an entry of its own, not only entries inside of it.
    listed: bool,
    /// The entry's number and the path as written there, for links.
    number: usize,
}

pub(super) struct Names {
    nodes: Vec<Node>,
    /// Parent and folded name to node.
    index: HashMap<(usize, String), usize>,
    limits: Limits,
}

impl Names {
    pub(super) fn new(limits: Limits) -> Self {
        let root = Node { parent: ROOT, name: String::new(), kind: Kind::Folder, listed: true, number: 0 };
        Self { nodes: vec![root], index: HashMap::new(), limits }
    }

    /// Adds an entry and returns its clean relative path; empty for the root itself.
    pub(super) fn add(&mut self, number: usize, path: &[u8], kind: Kind) -> Result<String, Refused> {
        let parts = self.parts(path)?;
        let Some((last, folders)) = parts.split_last() else {
            return match kind {
                Kind::Folder => Ok(String::new()),
                _ => refused("it stands for the whole source"),
            };
        };
        // A folder counts itself, as it does when the source is read again.
        if folders.len() + usize::from(kind == Kind::Folder) > self.limits.depth {
            return refused(format!("it lies more than {} folders deep", self.limits.depth));
        }
        let mut at = ROOT;
        for part in folders {
            at = self.folder(at, part, number)?;
        }
        match self.find(at, last) {
            Some(found) if self.nodes[found].name != **last => return Err(Refused::Duplicate(self.path(found))),
            Some(found) => {
                let node = &mut self.nodes[found];
                if kind != Kind::Folder || node.kind != Kind::Folder || node.listed {
                    return Err(Refused::Duplicate(self.path(found)));
                }
                node.listed = true;
            }
            None => {
                self.push(at, last, kind, true, number)?;
            }
        }
        Ok(parts.join("/"))
    }

    /// The clean path of a file that an earlier entry holds: what a hard link may point to.
    pub(super) fn file(&self, path: &[u8]) -> Result<String, Refused> {
        let parts = self.parts(path)?;
        let mut at = ROOT;
        for part in &parts {
            at = self.find(at, part).filter(|found| self.nodes[*found].name == *part).ok_or_else(no_such_file)?;
        }
        if self.nodes[at].kind == Kind::File { Ok(parts.join("/")) } else { Err(no_such_file()) }
    }

    /// Finds links that lead outside, by entry number, path and target; to be asked when all entries are known.
    pub(super) fn escaping_link(&self) -> Option<(usize, String, String)> {
        let mut steps = MAX_STEPS;
        for (id, node) in self.nodes.iter().enumerate() {
            let Kind::Link(target) = &node.kind else { continue };
            if self.leads_outside(node.parent, target, &mut steps) {
                return Some((node.number, self.path(id), target.clone()));
            }
        }
        None
    }

    /// Walks a target as the kernel would. What does not exist counts as folders that somebody may make later.
    fn leads_outside(&self, from: usize, target: &str, steps: &mut usize) -> bool {
        if target.starts_with('/') {
            return true;
        }
        let mut rest: Vec<&str> = target.split('/').rev().collect();
        let (mut at, mut missing, mut followed) = (from, 0_usize, 0_usize);
        while let Some(part) = rest.pop() {
            let Some(left) = steps.checked_sub(1) else { return true };
            *steps = left;
            match part {
                "" | "." => {}
                ".." if missing > 0 => missing -= 1,
                ".." if at == ROOT => return true,
                ".." => at = self.nodes[at].parent,
                part if missing > 0 => missing += usize::from(!part.is_empty()),
                part => match self.find(at, part).map(|found| (found, &self.nodes[found].kind)) {
                    Some((_, Kind::Link(next))) => {
                        followed += 1;
                        // Judged on its own when its turn comes; the kernel gives up on a circle as well.
                        if next.starts_with('/') {
                            return true;
                        }
                        if followed > MAX_LINKS_FOLLOWED {
                            return false;
                        }
                        rest.extend(next.split('/').rev());
                    }
                    Some((found, _)) => at = found,
                    None => missing += 1,
                },
            }
        }
        false
    }

    fn folder(&mut self, parent: usize, name: &str, number: usize) -> Result<usize, Refused> {
        let Some(found) = self.find(parent, name) else { return self.push(parent, name, Kind::Folder, false, number) };
        let node = &self.nodes[found];
        if node.name != name {
            return Err(Refused::Duplicate(self.path(found)));
        }
        match node.kind {
            Kind::Folder => Ok(found),
            Kind::File => refused("a file stands where it needs a folder"),
            Kind::Link(_) => refused("it would be written through a symbolic link"),
        }
    }

    fn find(&self, parent: usize, name: &str) -> Option<usize> {
        self.index.get(&(parent, fold(name))).copied()
    }

    fn push(&mut self, parent: usize, name: &str, kind: Kind, listed: bool, number: usize) -> Result<usize, Refused> {
        if self.nodes.len() > self.limits.entries {
            return Err(Refused::TooMany);
        }
        let id = self.nodes.len();
        self.nodes.push(Node { parent, name: name.to_owned(), kind, listed, number });
        self.index.insert((parent, fold(name)), id);
        Ok(id)
    }

    fn path(&self, mut id: usize) -> String {
        let mut parts = Vec::new();
        while id != ROOT {
            parts.push(self.nodes[id].name.as_str());
            id = self.nodes[id].parent;
        }
        parts.reverse();
        super::shown(parts.join("/").as_bytes())
    }

    fn parts(&self, path: &[u8]) -> Result<Vec<String>, Refused> {
        if path.is_empty() || path.len() > MAX_PATH {
            return refused(format!("a path has 1 to {MAX_PATH} bytes"));
        }
        if path.contains(&0) {
            return refused("its path holds a NUL character");
        }
        let Ok(path) = std::str::from_utf8(path) else { return refused("its path is not UTF-8") };
        if path.starts_with('/') {
            return refused("its path is absolute");
        }
        let parts: Vec<String> = path.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned).collect();
        if parts.iter().any(|part| part == "..") {
            return refused("its path holds \"..\"");
        }
        if parts.iter().any(|part| part.len() > MAX_NAME) {
            return refused(format!("a name has at most {MAX_NAME} bytes"));
        }
        Ok(parts)
    }
}

/// One spelling for all names that a file system may take for the same.
fn fold(name: &str) -> String {
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    let nfc = ComposingNormalizerBorrowed::new_nfc();
    nfc.normalize(&nfc.normalize(name).to_lowercase()).into_owned()
}

fn refused<T>(reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Name(reason.into()))
}

fn no_such_file() -> Refused {
    Refused::Name("it is a hard link to something that is not an earlier file of the archive".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(entries: &[(&str, Kind)]) -> Option<String> {
        let mut names = Names::new(Limits::default());
        for (number, (path, kind)) in entries.iter().enumerate() {
            names.add(number + 1, path.as_bytes(), kind.clone()).expect("an acceptable name");
        }
        names.escaping_link().map(|(_, path, _)| path)
    }

    fn link(target: &str) -> Kind {
        Kind::Link(target.to_owned())
    }

    #[test]
    fn links_that_stay_inside_are_fine() {
        for target in ["file", "./file", "d/../file", "missing/deep/../../also", "self"] {
            assert_eq!(links(&[("file", Kind::File), ("d/e", Kind::Folder), ("self", link(target))]), None, "{target}");
        }
        assert_eq!(links(&[("a/b/c", link("../../x"))]), None);
    }

    #[test]
    fn links_that_lead_outside_are_found() {
        for target in ["/", "/etc", "..", "d/../..", "missing/../../x", "../file"] {
            assert_eq!(links(&[("d", Kind::Folder), ("l", link(target))]).as_deref(), Some("l"), "{target}");
        }
    }

    #[test]
    fn a_link_that_leads_outside_through_another_is_found() {
        // Read by its letters alone, "t" ends in d/e.
        let entries = [("d/e/s", link("../..")), ("t", link("d/e/s/../.."))];
        assert_eq!(links(&entries).as_deref(), Some("t"));
        // A circle ends.
        assert_eq!(links(&[("a", link("b")), ("b", link("a"))]), None);
    }

    #[test]
    fn a_folder_at_the_limit_may_hold_files_and_no_folder() {
        let add = |path: &str, kind| Names::new(Limits { depth: 2, ..Limits::default() }).add(1, path.as_bytes(), kind);
        for (path, kind) in [("a/b", Kind::Folder), ("a/b/file", Kind::File), ("a/b/l", link("file"))] {
            assert!(add(path, kind).is_ok(), "{path}");
        }
        for (path, kind) in [("a/b/c", Kind::Folder), ("a/b/c/file", Kind::File)] {
            let Err(Refused::Name(reason)) = add(path, kind) else { panic!("{path} is taken") };
            assert_eq!(reason, "it lies more than 2 folders deep", "{path}");
        }
    }

    #[test]
    fn many_links_through_many_links_take_bounded_time() {
        let mut names = Names::new(Limits::default());
        for number in 0..3_000 {
            let target = format!("{}l{}", "x/../".repeat(700), number + 1);
            names.add(number + 1, format!("l{number}").as_bytes(), Kind::Link(target)).expect("a name");
        }
        // Given up on, which refuses the archive.
        assert!(names.escaping_link().is_some());
    }
}
