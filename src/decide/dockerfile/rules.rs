//! What is refused, what is noted.

use std::collections::BTreeMap;

use super::image::image_problem;
use super::mount::{Mount, variable_in_source};
use super::syntax::{Instruction, words};
use super::values::{KERNEL_FOLDERS, default_frontend, join, ports, shown, under};
use super::variables::{assignments, replace};
use super::{Options, Problem, Scan, Stage};
use crate::decide::address::host_problem;

/// Where engines keep their sockets.
const VOLUME_FOLDERS: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/var/run"];
/// More ports than this in one file are a mistake.
const MAX_PORTS: usize = 1024;
/// Longest instruction, continuation lines joined. Linux takes no longer argument or variable, so none could run; engines
/// read a line of 1 MiB for minutes.
const MAX_INSTRUCTION_BYTES: usize = 128 * 1_024;
/// More stages or instructions than this were not written by a person.
const MAX_STAGES: usize = 100;
const MAX_INSTRUCTIONS: usize = 5_000;
/// Variables that engines set by themselves. Any value will do, since none of them names a host.
const PLATFORM: [(&str, &str); 6] = [
    ("TARGETARCH", "amd64"),
    ("BUILDARCH", "amd64"),
    ("TARGETOS", "linux"),
    ("BUILDOS", "linux"),
    ("TARGETPLATFORM", "linux/amd64"),
    ("BUILDPLATFORM", "linux/amd64"),
];

/// Walks over the instructions and keeps what later ones need.
pub(super) struct Checker<'a> {
    options: &'a Options,
    scan: Scan,
    problems: Vec<Problem>,
    /// `ARG`s before the first `FROM`.
    global: BTreeMap<String, String>,
    /// One per stage, beside `scan.stages`.
    states: Vec<StageState>,
    missing_from_told: bool,
}

#[derive(Clone, Default)]
struct StageState {
    values: BTreeMap<String, String>,
    folder: String,
    ports: Vec<u16>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        Self {
            options,
            scan: Scan::default(),
            problems: Vec::new(),
            global: PLATFORM.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            states: Vec::new(),
            missing_from_told: false,
        }
    }

    pub(super) fn directives(&mut self, directives: &[(usize, String, String)]) {
        for (line, key, value) in directives {
            match key.as_str() {
                "syntax" if default_frontend(value) => {}
                "syntax" => self.problem(
                    *line,
                    format!(
                        "the frontend {} is refused, since it would be a program that runs the build; remove the line or \
                         use docker/dockerfile:1",
                        shown(value)
                    ),
                ),
                _ => {}
            }
        }
    }

    pub(super) fn finish(mut self, unreadable: Vec<Problem>) -> Result<Scan, Vec<Problem>> {
        self.problems.extend(unreadable);
        if self.scan.stages.is_empty() && !self.missing_from_told && self.problems.is_empty() {
            self.problem(1, "there is no FROM; a Dockerfile names the image it starts from".to_owned());
        }
        if let Some(last) = self.states.pop() {
            self.scan.exposed_ports = last.ports;
        }
        if self.problems.is_empty() {
            return Ok(self.scan);
        }
        self.problems.sort_by_key(|problem| problem.line);
        Err(self.problems)
    }

    /// All of them, in order.
    pub(super) fn instructions(&mut self, instructions: &[Instruction]) {
        for instruction in instructions.iter().take(MAX_INSTRUCTIONS) {
            self.instruction(instruction);
        }
        if let Some(first) = instructions.get(MAX_INSTRUCTIONS) {
            self.problem(first.line, format!("more than {MAX_INSTRUCTIONS} instructions"));
        }
    }

    fn instruction(&mut self, instruction: &Instruction) {
        if instruction.rest.contains('\0') {
            return self.problem(instruction.line, "a NUL character".to_owned());
        }
        if instruction.in_heredoc {
            return self.inside_heredoc(instruction);
        }
        if instruction.rest.len() > MAX_INSTRUCTION_BYTES {
            let message =
                format!("more than {} KiB in one instruction: put it into a file", MAX_INSTRUCTION_BYTES / 1_024);
            return self.problem(instruction.line, message);
        }
        if self.scan.stages.is_empty() && !matches!(instruction.keyword.as_str(), "FROM" | "ARG") {
            if !self.missing_from_told {
                self.missing_from_told = true;
                self.problem(instruction.line, format!("{} before the first FROM", shown(&instruction.keyword)));
            }
            return;
        }
        if instruction.rest.is_empty() && instruction.keyword != "HEALTHCHECK" && known(&instruction.keyword) {
            return self.problem(instruction.line, format!("{} needs arguments", instruction.keyword));
        }
        self.judge(instruction);
    }

    fn judge(&mut self, instruction: &Instruction) {
        match instruction.keyword.as_str() {
            "FROM" => self.from(instruction),
            "ARG" => self.arg(instruction),
            "ENV" => self.env(instruction),
            "RUN" => self.run_flags(instruction),
            "COPY" | "ADD" => self.copy(instruction),
            "WORKDIR" => self.workdir(instruction),
            "EXPOSE" => self.expose(instruction),
            "VOLUME" => self.volume(instruction),
            "USER" => self.user(instruction),
            "ONBUILD" => {
                let inner = Instruction::read(instruction.line, &instruction.rest, instruction.escape);
                match inner.keyword.as_str() {
                    "ONBUILD" | "FROM" | "MAINTAINER" => {
                        self.problem(instruction.line, format!("ONBUILD cannot hold {}", inner.keyword));
                    }
                    _ => self.instruction(&inner),
                }
            }
            "MAINTAINER" => self.warning(instruction.line, "MAINTAINER is deprecated; use LABEL".to_owned()),
            keyword if known(keyword) => {}
            keyword => self.problem(instruction.line, format!("{} is no instruction of a Dockerfile", shown(keyword))),
        }
    }

    /// Only what would be dangerous if the engine took the line for an instruction: anything else is just text.
    fn inside_heredoc(&mut self, instruction: &Instruction) {
        match instruction.keyword.as_str() {
            "RUN" => self.run_flags(instruction),
            "WORKDIR" => self.workdir(instruction),
            "FROM" => {
                let image = instruction.words().into_iter().next().unwrap_or_default();
                let image = replace(&image, &self.global);
                let local = image.split_once('/').filter(|(host, _)| host.contains([':', '.']) || *host == "localhost");
                if let Some(why) = local.and_then(|(host, _)| host_problem(host, self.options.allow_loopback)) {
                    self.problem(instruction.line, format!("the image {} is refused: it {why}", shown(&image)));
                }
            }
            _ => {}
        }
    }

    fn from(&mut self, instruction: &Instruction) {
        let words = instruction.words();
        let (base, name) = match words.as_slice() {
            [base] => (base, None),
            [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => (base, Some(name.to_lowercase())),
            _ => return self.unreadable_from(instruction.line, "FROM takes an image, or \"image AS name\"".to_owned()),
        };
        if self.scan.stages.len() >= MAX_STAGES {
            return self.problem(instruction.line, format!("more than {MAX_STAGES} stages"));
        }
        let base = replace(base, &self.global);
        let mut state = StageState { folder: "/".to_owned(), ..StageState::default() };
        if let Some(parent) = self.stage(&base) {
            state = self.states[parent].clone();
        } else if base != "scratch" {
            self.image(instruction.line, &base);
        }
        self.scan.stages.push(Stage { name, base, line: instruction.line });
        self.states.push(state);
    }

    /// Keeps what follows from being reported as "before the first FROM" too.
    fn unreadable_from(&mut self, line: usize, message: String) {
        self.problem(line, message);
        self.scan.stages.push(Stage { line, ..Stage::default() });
        self.states.push(StageState { folder: "/".to_owned(), ..StageState::default() });
    }

    /// The index of an earlier stage by name or number.
    fn stage(&self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        self.scan.stages.iter().rposition(|stage| stage.name.as_deref() == Some(&name))
    }

    /// An image or stage that content is taken from.
    fn taken_from(&mut self, line: usize, source: &str) {
        let source = replace(source, &self.global);
        let number = source.parse::<usize>().is_ok_and(|number| number < self.scan.stages.len());
        if !number && self.stage(&source).is_none() && source != "scratch" && source != "context" {
            self.image(line, &source);
        }
    }

    fn image(&mut self, line: usize, image: &str) {
        match image_problem(image, self.options.allow_loopback) {
            Some(why) => self.problem(line, format!("the image {} is refused: it {why}", shown(image))),
            None if !self.scan.base_images.iter().any(|known| known == image) => {
                self.scan.base_images.push(image.to_owned());
            }
            None => {}
        }
    }

    fn arg(&mut self, instruction: &Instruction) {
        for word in instruction.words() {
            let (name, default) =
                word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            let given = self.options.build_args.get(name).cloned();
            let value = match self.states.last() {
                None => given.or_else(|| default.map(|default| replace(default, &self.global))),
                Some(state) => given
                    .or_else(|| default.map(|default| replace(default, &state.values)))
                    .or_else(|| self.global.get(name).cloned()),
            };
            let values = self.states.last_mut().map_or(&mut self.global, |state| &mut state.values);
            if let Some(value) = value {
                values.insert(name.to_owned(), value);
            }
        }
    }

    fn env(&mut self, instruction: &Instruction) {
        let Some(state) = self.states.last_mut() else { return };
        // All of one line see the values from before it.
        let set = assignments(&words(&instruction.rest, instruction.escape)).into_iter();
        let set: Vec<_> = set.map(|(key, value)| (key, replace(&value, &state.values))).collect();
        state.values.extend(set);
    }

    fn run_flags(&mut self, instruction: &Instruction) {
        let line = instruction.line;
        for (name, value) in &instruction.flags {
            let value = self.replaced(value);
            match name.as_str() {
                "mount" => self.mount(line, instruction, &value),
                "security" if value != "sandbox" => {
                    self.problem(line, "--security=insecure is refused: builds run without privileges".to_owned());
                }
                "network" if value != "none" && value != "default" => self.problem(
                    line,
                    "--network takes none or default here: builds do not share the network of the machine".to_owned(),
                ),
                "security" | "network" => {}
                other => self.problem(line, format!("RUN --{} is refused", shown(other))),
            }
        }
    }

    fn mount(&mut self, line: usize, instruction: &Instruction, options: &str) {
        let mut mount = Mount::default();
        // The raw text tells whether a variable stands there: its value could be another one when the build runs.
        let raw = instruction.flags.iter().any(|(name, value)| name == "mount" && variable_in_source(value));
        if raw {
            self.problem(line, "a mount's type, from and source must not hold variables".to_owned());
        }
        for option in options.split(',') {
            let option = option.trim();
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key.to_ascii_lowercase().as_str() {
                "type" => mount.kind = Some(value.to_ascii_lowercase()),
                "from" => mount.from = Some(value.to_owned()),
                "source" | "src" => mount.source = Some(value.to_owned()),
                "target" | "dst" | "destination" => mount.target = Some(value.to_owned()),
                "rw" | "readwrite" => mount.writable = value != "false",
                "ro" | "readonly" => mount.writable = value == "false",
                "bind-propagation" => {
                    self.problem(line, "bind-propagation is refused: mounts stay inside the build".to_owned());
                }
                _ => {}
            }
        }
        if let Some(from) = &mount.from {
            self.taken_from(line, from);
        }
        match mount.kind.as_deref().unwrap_or("bind") {
            "cache" => self.scan.uses_cache_mounts = true,
            "tmpfs" => {}
            "secret" => self.warning(line, "no build secrets are given to builds; this mount stays empty".to_owned()),
            "bind" => {}
            "ssh" => self.problem(line, "--mount=type=ssh is refused: no keys of the machine enter a build".to_owned()),
            other => self.problem(line, format!("--mount=type={} is unknown", shown(other))),
        }
        if let Some(why) = mount.problem() {
            self.problem(line, why.to_owned());
        }
    }

    fn copy(&mut self, instruction: &Instruction) {
        let line = instruction.line;
        let from = instruction.flags.iter().find(|(name, _)| name == "from");
        if let Some((_, from)) = from {
            return self.taken_from(line, from);
        }
        let mut sources = instruction.words();
        sources.pop();
        for source in sources {
            let source = self.replaced(&source);
            if let Some((_, rest)) = source.split_once("://") {
                self.remote_source(line, rest);
            } else if source.split('/').any(|part| part == "..") {
                self.problem(line, format!("{} leaves the build context", shown(&source)));
            }
        }
    }

    fn remote_source(&mut self, line: usize, rest: &str) {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        if authority.contains('@') {
            return self.problem(line, "an address with a user or password in it is refused".to_owned());
        }
        if let Some(why) = host_problem(authority, self.options.allow_loopback) {
            self.problem(line, format!("the host {} is refused: it {why}", shown(authority)));
        }
    }

    fn workdir(&mut self, instruction: &Instruction) {
        let path = self.replaced(&words(&instruction.rest, instruction.escape).join(" "));
        let Some(state) = self.states.last_mut() else { return };
        let folder = join(&state.folder, &path);
        let refused = under(&folder, &KERNEL_FOLDERS);
        if !instruction.in_heredoc {
            state.folder.clone_from(&folder);
        }
        if refused {
            self.problem(instruction.line, format!("WORKDIR {} is refused: it leads out of the build", shown(&folder)));
        }
    }

    fn expose(&mut self, instruction: &Instruction) {
        for word in instruction.words() {
            let word = self.replaced(&word);
            for port in word.split_whitespace() {
                match ports(port) {
                    Ok(ports) => self.add_ports(instruction.line, ports),
                    Err(why) => self.problem(instruction.line, format!("EXPOSE {}: {why}", shown(port))),
                }
            }
        }
    }

    fn add_ports(&mut self, line: usize, ports: std::ops::RangeInclusive<u16>) {
        let Some(state) = self.states.last_mut() else { return };
        if state.ports.len() + ports.len() > MAX_PORTS {
            return self.problem(line, format!("more than {MAX_PORTS} ports are exposed"));
        }
        for port in ports {
            if !state.ports.contains(&port) {
                state.ports.push(port);
            }
        }
    }

    fn volume(&mut self, instruction: &Instruction) {
        for word in instruction.words() {
            let path = join("/", &self.replaced(&word));
            if path == "/" || under(&path, &VOLUME_FOLDERS) {
                self.problem(instruction.line, format!("VOLUME {} is refused", shown(&path)));
            } else {
                let message =
                    format!("VOLUME {} is empty in every new container; declare a volume to keep data", shown(&path));
                self.warning(instruction.line, message);
            }
        }
    }

    fn user(&mut self, instruction: &Instruction) {
        let user = self.replaced(instruction.rest.trim_matches(['"', '\'']));
        for part in user.splitn(2, ':') {
            let number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            // The last id means "no change" to the kernel.
            if number && !part.parse::<u32>().is_ok_and(|id| id < u32::MAX) {
                self.problem(instruction.line, format!("USER {} is not an id that exists", shown(part)));
            }
        }
    }

    fn replaced(&self, text: &str) -> String {
        replace(text, self.states.last().map_or(&self.global, |state| &state.values))
    }

    fn problem(&mut self, line: usize, message: String) {
        self.problems.push(Problem { line, message });
    }

    fn warning(&mut self, line: usize, message: String) {
        self.scan.warnings.push(Problem { line, message });
    }
}

fn known(keyword: &str) -> bool {
    const KNOWN: [&str; 18] = [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    KNOWN.contains(&keyword)
}
