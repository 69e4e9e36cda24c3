//! What a Dockerfile asks for, read before an engine sees it.
//!
//! Comes in: the text and what the operator allows. Goes out: a [`Scan`] (base images, ports, stages, warnings), or every
//! [`Problem`] with its line. The engine's own limits still apply; this refuses what no limit covers: host network,
//! elevated builds, mounts and folders that have been used to break out of a build, foreign frontends, other tenants'
//! images. Deliberately absent: reading files, pulling images, and judging what a `RUN` line does inside its container.
//!
//! Engines do not agree on every corner of the syntax (Podman 4 does not know here-documents, for one), so whatever one
//! of them could take for an instruction is checked as an instruction.

mod image;
mod mount;
mod rules;
mod syntax;
mod values;
mod variables;

use std::collections::BTreeMap;
use std::fmt;

use self::rules::Checker;
pub use self::values::check_path;

/// The longest Dockerfile that is read, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// What the caller knows beside the text.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Values for `ARG` that the build is started with.
    pub build_args: BTreeMap<String, String>,
    /// Images and addresses of this machine (`localhost/…`, `127.0.0.1:5000/…`) may be used. Off by default: on a shared
    /// engine they are other tenants' images.
    pub allow_loopback: bool,
}

/// What a Dockerfile asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Every image that is not built by the file itself, in order of use, without doubles and without `scratch`.
    pub base_images: Vec<String>,
    /// TCP ports that the last stage exposes, its parent stages' included, in order.
    pub exposed_ports: Vec<u16>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// Whether a `RUN` uses `--mount=type=cache`, which an engine shares between all builds that name the same cache.
    pub uses_cache_mounts: bool,
    /// What works but deserves a word.
    pub warnings: Vec<Problem>,
}

/// One `FROM`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// Its name (`AS name`), lower-case as engines compare it.
    pub name: Option<String>,
    /// The image or the earlier stage it starts from, variables replaced.
    pub base: String,
    /// The line of its `FROM`, from 1.
    pub line: usize,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to do about it. User text in it is escaped and cut.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Reads a Dockerfile.
///
/// # Errors
/// Every reason why it must not be given to an engine, in the order of lines; never empty.
pub fn scan(text: &str, options: &Options) -> Result<Scan, Vec<Problem>> {
    if text.len() > MAX_BYTES {
        let message = format!("the Dockerfile has {} bytes; at most {MAX_BYTES} are read", text.len());
        return Err(vec![Problem { line: 1, message }]);
    }
    let parsed = syntax::parse(text);
    let mut checker = Checker::new(options);
    checker.directives(&parsed.directives);
    checker.instructions(&parsed.instructions);
    checker.finish(parsed.problems)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ok(text: &str) -> Scan {
        scan(text, &Options::default()).unwrap_or_else(|problems| panic!("refused: {problems:?}\n{text}"))
    }

    /// The lines of the problems.
    fn refused(text: &str) -> Vec<usize> {
        match scan(text, &Options::default()) {
            Ok(scan) => panic!("accepted: {scan:?}\n{text}"),
            Err(problems) => problems.into_iter().map(|problem| problem.line).collect(),
        }
    }

    #[test]
    fn a_usual_file() {
        let scan = ok(concat!(
            "# syntax=docker/dockerfile:1\n",
            "ARG GO=1.22\n",
            "FROM --platform=$BUILDPLATFORM docker.io/library/golang:${GO}-alpine AS Build\n",
            "WORKDIR /src\n",
            "COPY . .\n",
            "RUN --mount=type=cache,target=/root/.cache \\\n",
            "    # a comment inside\n",
            "\n",
            "    go build -o /out/app .\n",
            "FROM scratch\n",
            "COPY --from=build /out/app /app\n",
            "COPY --from=ghcr.io/astral-sh/uv:0.5 /uv /bin/uv\n",
            "EXPOSE 8080 9000-9002/tcp 53/udp\n",
            "USER 1000:1000\n",
            "ENTRYPOINT [\"/app\"]\n",
        ));
        assert_eq!(scan.base_images, ["docker.io/library/golang:1.22-alpine", "ghcr.io/astral-sh/uv:0.5"]);
        assert_eq!(scan.exposed_ports, [8080, 9000, 9001, 9002]);
        assert_eq!(scan.stages.len(), 2);
        assert_eq!(scan.stages[0].name.as_deref(), Some("build"));
        assert_eq!((scan.stages[1].base.as_str(), scan.stages[1].line), ("scratch", 10));
        assert!(scan.uses_cache_mounts);
    }

    #[test]
    fn variables_are_replaced_as_engines_do() {
        assert_eq!(ok("ARG A=alpine\nARG B=${A}:3\nFROM $B\n").base_images, ["alpine:3"]);
        assert_eq!(ok("ARG V\nFROM alpine:${V:-3.20}\n").base_images, ["alpine:3.20"]);
        assert_eq!(ok("ARG V=1\nFROM alpine${V:+:edge}\n").base_images, ["alpine:edge"]);
        assert_eq!(ok("FROM alpine\nENV PORT=81 X=2\nARG P=8\nEXPOSE ${PORT}\nEXPOSE $P\n").exposed_ports, [81, 8]);
        let options = Options { build_args: [("V".to_owned(), "9".to_owned())].into(), ..Options::default() };
        assert_eq!(scan("ARG V=1\nFROM alpine:$V", &options).expect("accepted").base_images, ["alpine:9"]);
        assert_eq!(refused("FROM $UNKNOWN\n"), [1]);
    }

    #[test]
    fn ports_come_from_parent_stages_but_not_from_others() {
        assert_eq!(
            ok("FROM a AS base\nEXPOSE 80\nFROM b AS other\nEXPOSE 81\nFROM base\nEXPOSE 82").exposed_ports,
            [80, 82]
        );
    }

    #[test]
    fn a_stage_is_not_a_base_image() {
        assert_eq!(ok("FROM alpine AS one\nFROM ONE\nCOPY --from=0 /a /b\n").base_images, ["alpine"]);
        // Only earlier stages count: this one is an image of that name.
        assert_eq!(ok("FROM later\nFROM alpine AS later\n").base_images, ["later", "alpine"]);
    }

    #[test]
    fn here_documents_are_text() {
        let scan = ok("FROM alpine\nRUN <<EOF cat <<-'TWO'\nEXPOSE 1\nEOF\n\tFROM evil\n\tTWO\nEXPOSE 80\n");
        assert_eq!(
            (scan.base_images.as_slice(), scan.exposed_ports.as_slice()),
            (&["alpine".to_owned()][..], &[80][..])
        );
        // An engine without here-documents would run this line as an instruction.
        assert_eq!(refused("FROM alpine\nRUN <<EOF\nRUN --security=insecure id\nEOF\n"), [3]);
        assert_eq!(refused("FROM alpine\nRUN <<EOF\nFROM localhost/other\nEOF\n"), [3]);
        assert_eq!(refused("FROM alpine\nRUN <<EOF\nnever closed\n"), [2]);
        // Not here-documents: a shell here-string, and a shift.
        ok("FROM alpine\nRUN cat <<<word\nRUN echo $((1 << 3))\nEXPOSE 80\n");
    }

    #[test]
    fn the_escape_directive_changes_continuation() {
        let text = "# escape=`\nFROM alpine\nRUN echo C:\\\nEXPOSE 80\nRUN echo `\n  EXPOSE 81\n";
        assert_eq!(ok(text).exposed_ports, [80]);
        // After the first line that is no directive, it is a comment.
        assert_eq!(ok("# hello\n# escape=`\nFROM alpine\nRUN echo \\\n EXPOSE 81\n").exposed_ports, [0_u16; 0]);
        assert_eq!(refused("# escape=x\nFROM alpine\n"), [1]);
    }

    #[test]
    fn foreign_frontends_are_refused() {
        assert_eq!(refused("# syntax=attacker/frontend\nFROM alpine\n"), [1]);
        assert_eq!(refused("#SYNTAX = docker.io/docker/dockerfile-evil:1\nFROM alpine\n"), [1]);
        assert_eq!(refused("\u{feff}# syntax=evil\nFROM alpine\n"), [1]);
        assert_eq!(refused("#!/bin/sh\n# syntax=evil\nFROM alpine\n"), [2]);
        assert_eq!(refused("// syntax=evil\nFROM alpine\n")[0], 1);
        ok("# syntax=docker.io/docker/dockerfile:1.7-labs\nFROM alpine\n");
    }

    #[test]
    fn forbidden_instructions() {
        for (line, why) in [
            ("RUN --mount=type=bind,from=base,source=/,target=/x id", "CVE-2024-1753"),
            ("RUN --mount=from=base,target=/x id", "the source of a bind defaults to the root"),
            ("RUN --mount=type=bind,from=base,src=/./,dst=/x id", "spelt otherwise"),
            ("RUN --mount=type=bind,from=base,source=/a,target=/x,rw id", "writable"),
            ("RUN --mount=\"type=bind,source=../..,target=/x\" id", "outside the context"),
            ("RUN --mount=type=bind,source=$X,target=/x id", "a variable"),
            ("RUN --mount=type=bind,source=a,target=/x,bind-propagation=shared id", "CVE-2024-9407"),
            ("RUN --mount=type=bind,source=a,target=/proc/x id", "over /proc"),
            ("RUN --network=none --mount=type=ssh id", "the agent of the host"),
            ("RUN --mount=type=weird id", "unknown type"),
            ("RUN \\\n  --security=insecure id", "after a continuation"),
            ("run --network=HOST id", "case"),
            ("RUN --device=vendor.com/gpu id", "a device"),
            ("ONBUILD RUN --security=insecure id", "for later"),
            ("WORKDIR /proc/self/fd/8", "CVE-2024-21626"),
            ("WORKDIR //proc/./self/../self/fd/8", "not normal"),
            ("WORKDIR /\nWORKDIR proc", "relative"),
            ("ENV D=/proc\nWORKDIR ${D}/self", "through a variable"),
            ("WORKDIR \"/sys/fs\"", "quoted"),
            ("VOLUME /var/run/docker.sock", "the host's socket"),
            ("VOLUME [\"/data\", \"/run\"]", "in a list"),
            ("EXPOSE 99999", "no such port"),
            ("EXPOSE 0", "no such port"),
            ("EXPOSE 9000-80", "backwards"),
            ("EXPOSE 80/sctpx", "no such protocol"),
            ("USER 4294967296", "overflow"),
            ("USER app:99999999999", "overflow"),
            ("FROM localhost/other-org-image", "another tenant's image"),
            ("FROM 127.0.0.1:5000/x", "this machine"),
            ("FROM 169.254.169.254/x", "the metadata service"),
            ("FROM Upper/Case", "not an image"),
            ("FROM -v/:/h", "an option"),
            ("FROM a b", "too many words"),
            ("COPY --from=localhost/x /a /b", "another tenant's image"),
            ("COPY ../secret /", "outside the context"),
            ("ADD http://169.254.169.254/latest /", "the metadata service"),
            ("ADD https://user:pw@example.com/x /", "a password"),
            ("FOO bar", "unknown"),
            ("--mount=type=bind id", "unknown"),
            ("RUN", "empty"),
            ("RUN echo \0", "NUL"),
        ] {
            let text = format!("FROM alpine AS base\n{line}\n");
            assert!(scan(&text, &Options::default()).is_err(), "accepted ({why}): {line}");
        }
    }

    #[test]
    fn an_instruction_that_is_too_long_for_any_kernel() {
        let env = |bytes: usize| format!("FROM alpine\nENV A=1 \\\n  B={}\n", "x".repeat(bytes));
        ok(&env(100 * 1_024));
        assert_eq!(refused(&env(128 * 1_024)), [2]);
    }

    #[test]
    fn harmless_lines_that_look_close() {
        for line in [
            "RUN --mount=type=bind,from=ghcr.io/astral-sh/uv,source=/uv,target=/bin/uv id",
            "RUN --mount=target=/src id",
            "RUN --mount=type=tmpfs,target=/tmp --network=none id",
            "RUN echo --network=host",
            "RUN echo 'RUN --security=insecure'",
            "WORKDIR /process",
            "WORKDIR /srv/proc",
            "VOLUME /var/running",
            "CMD echo $HOME \\\\",
            "COPY a..b /x",
            "ADD https://example.com/a.tar.gz /",
            "LABEL a=\"b \\\n c\"",
            "HEALTHCHECK --interval=5s CMD curl -f http://127.0.0.1/",
            "USER nobody",
            "FROM alpine@sha256:c5b1261d6d3e43071626931fc004f70149baeba2c8ec672bd4f27761f8e1ad6b",
            "FROM registry.internal:5000/team/x:1",
            "FROM internal:5000/x",
        ] {
            ok(&format!("FROM alpine AS base\n{line}\n"));
        }
    }

    #[test]
    fn the_operator_may_allow_local_images() {
        let options = Options { allow_loopback: true, ..Options::default() };
        let scan = scan("FROM localhost/base:1\nCOPY --from=127.0.0.1:5000/x /a /b\n", &options).expect("accepted");
        assert_eq!(scan.base_images, ["localhost/base:1", "127.0.0.1:5000/x"]);
    }

    #[test]
    fn a_file_needs_a_from_first() {
        assert_eq!(refused(""), [1]);
        assert_eq!(refused("# only a comment\n"), [1]);
        assert_eq!(refused("RUN id\nFROM alpine\n"), [1]);
    }

    #[test]
    fn all_problems_are_reported_with_their_lines() {
        assert_eq!(refused("FROM alpine\nEXPOSE 0\nRUN a \\\n b\nWORKDIR /proc\n"), [2, 5]);
    }

    #[test]
    fn user_text_in_messages_is_escaped() {
        let problems = scan("FROM alpine\nFOO\u{1b}[2J x\n", &Options::default()).expect_err("refused");
        assert!(!problems[0].to_string().contains('\u{1b}'), "{}", problems[0]);
    }

    #[test]
    fn a_file_made_to_take_long_does_not() {
        for line in [
            "FROM a AS b\n",
            "FROM b\n",
            "ENV A$A=b c=$A$A\n",
            "COPY --from=b a b\n",
            "EXPOSE 1-65535\n",
            "RUN <<A <<B\n",
        ] {
            let text = format!("FROM a AS b\n{}", line.repeat(MAX_BYTES / line.len() - 2));
            let _ = scan(&text, &Options::default());
        }
        let keys: String = (0..200_000).map(|number| format!("{number:x}= ")).collect();
        let _ = scan(&format!("FROM a\nENV {keys}\n"), &Options::default());
    }

    #[test]
    fn paths_of_the_file_itself() {
        for good in ["Dockerfile", "docker/Dockerfile.prod", "./Dockerfile"] {
            check_path(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in ["", "-", "../Dockerfile", "/etc/passwd", "a/../../b", "http://x/Dockerfile", "a\0b", "-f"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn never_panics_on_arbitrary_text(text in "\\PC{0,200}") {
            let _ = scan(&text, &Options::default());
        }

        #[test]
        fn never_panics_on_nearly_dockerfiles(parts in proptest::collection::vec(prop_oneof![
            Just("FROM alpine\n"), Just("RUN "), Just("\\\n"), Just("<<EOF"), Just("EOF\n"), Just("--mount="), Just("type=bind,"),
            Just("from="), Just("source="), Just("/"), Just("$"), Just("${"), Just("}"), Just(":-"), Just("\""), Just("'"), Just("#"),
            Just("ARG "), Just("ENV "), Just("a=b "), Just("EXPOSE "), Just("1-2"), Just("WORKDIR "), Just("[\""), Just("\n"), Just("é"),
            Just("ONBUILD "), Just("USER "), Just("COPY "), Just("@"), Just(".."), Just("AS "), Just("\0"), Just("`"),
        ], 0..40)) {
            let text: String = parts.concat();
            let _ = scan(&text, &Options::default());
        }

        /// Whatever stands around it on other lines, a forbidden flag is found.
        #[test]
        fn a_forbidden_line_is_found_after_any_harmless_one(before in "[a-zA-Z0-9 =/.'-]{0,40}") {
            let text = format!("FROM alpine\nRUN x {before}\nRUN --security=insecure id\n");
            prop_assert!(scan(&text, &Options::default()).is_err());
        }
    }
}
