//! Against the real git and a real server.

use std::os::unix::fs::symlink;

use super::git_server::{Behaviour, GitServer};
use super::*;

fn options() -> Options {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    Options { allow_loopback: true, search_path, ..Options::default() }
}

struct Run {
    folder: tempfile::TempDir,
    result: Result<Fetched, Error>,
    lines: Vec<String>,
}

impl Run {
    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.folder.path().join("source").join(path)).expect("a file")
    }

    fn has(&self, path: &str) -> bool {
        self.folder.path().join("source").join(path).symlink_metadata().is_ok()
    }

    #[track_caller]
    fn ok(&self) -> &Fetched {
        self.result.as_ref().unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn error(&self) -> &Error {
        self.result.as_ref().expect_err("refused")
    }
}

async fn run(options: &Options, repository: &str, reference: Option<&str>) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let into = folder.path().join("source");
    fs::create_dir(&into).expect("a folder");
    let (sender, mut receiver) = mpsc::channel(1000);
    let result = fetch(options, repository, reference, &into, &sender, &CancellationToken::new()).await;
    drop(sender);
    let mut lines = Vec::new();
    while let Some(line) = receiver.recv().await {
        lines.push(line);
    }
    let beside = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(beside, 1, "something was left beside the source");
    Run { folder, result, lines }
}

#[tokio::test]
async fn branches_tags_and_commits() {
    let server = GitServer::start();
    let repository = server.repository("app", "main", &[("Dockerfile", "FROM scratch"), ("src/a.txt", "one")]);
    let first = repository.git(&["rev-parse", "HEAD"]);
    repository.git(&["tag", "--annotate", "--message", "x", "v1"]);
    repository.git(&["branch", "feature/x"]);
    let second = repository.commit(&[("src/a.txt", "two")]);

    for (reference, commit, text, name) in [
        (None, &second, "two", "refs/heads/main"),
        (Some("main"), &second, "two", "refs/heads/main"),
        (Some("v1"), &first, "one", "refs/tags/v1"),
        (Some("feature/x"), &first, "one", "refs/heads/feature/x"),
        (Some(first.as_str()), &first, "one", first.as_str()),
    ] {
        let run = run(&options(), &server.url("app"), reference).await;
        assert_eq!(run.ok(), &Fetched { commit: commit.clone(), reference: name.to_owned() });
        assert_eq!(run.read("src/a.txt"), text);
        assert!(!run.has(".git"));
        assert!(run.lines.last().is_some_and(|line| line.contains(commit.as_str())), "{:?}", run.lines);
    }
}

#[tokio::test]
async fn a_name_is_fetched_from_the_address_that_was_checked() {
    let server = GitServer::start();
    server.repository("app", "main", &[("a", "x")]);
    let run = run(&options(), &format!("http://localhost:{}/app/", server.address().port()), None).await;
    run.ok();
    assert_eq!(run.read("a"), "x");
}

#[tokio::test]
async fn without_main_the_default_branch_is_taken_only_when_nothing_was_asked_for() {
    let server = GitServer::start();
    server.repository("app", "trunk", &[("a", "x")]);
    let default = run(&options(), &server.url("app"), None).await;
    assert_eq!(default.ok().reference, "refs/heads/trunk");
    let asked = run(&options(), &server.url("app"), Some("main")).await;
    let Error::RefNotFound { wanted, exist, .. } = asked.error() else { panic!("{:?}", asked.error()) };
    assert_eq!((wanted.as_str(), exist.as_slice()), ("main", &["trunk".to_owned()][..]));
    let missing = run(&options(), &server.url("app"), Some("0123456789012345678901234567890123456789")).await;
    assert!(matches!(missing.error(), Error::RefNotFound { .. }), "{:?}", missing.error());
}

#[tokio::test]
async fn what_cannot_be_read_says_why() {
    let server = GitServer::start();
    let missing = run(&options(), &server.url("none"), None).await;
    assert!(matches!(missing.error(), Error::AccessFailed { .. }), "{:?}", missing.error());
    assert_eq!(missing.error().code(), "repository_access_failed");

    server.behave("private", Behaviour::AskPassword);
    let private = run(&options(), &server.url("private"), None).await;
    assert!(private.error().to_string().contains("password"), "{}", private.error());

    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let refused = run(&options(), &format!("http://{closed}/x"), None).await;
    assert!(matches!(refused.error(), Error::CloneFailed { .. }), "{:?}", refused.error());
    assert!(refused.error().is_transient());
}

#[tokio::test]
async fn loopback_needs_the_operators_word() {
    let server = GitServer::start();
    server.repository("app", "main", &[("a", "x")]);
    let strict = Options { allow_loopback: false, ..options() };
    for url in [server.url("app"), format!("http://localhost:{}/app", server.address().port())] {
        let run = run(&strict, &url, None).await;
        assert!(matches!(run.error(), Error::AddressRefused { .. }), "{:?}", run.error());
    }
    assert_eq!(server.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn redirects_are_followed_and_checked() {
    let server = GitServer::start();
    server.repository("app", "main", &[("a", "x")]);
    server.behave("old", Behaviour::Redirect(server.url("app")));
    server.behave("older", Behaviour::Redirect("/old".to_owned()));
    run(&options(), &server.url("older"), None).await.ok();

    server.behave("circle", Behaviour::Redirect("/circle".to_owned()));
    server.behave("file", Behaviour::Redirect("file:///etc".to_owned()));
    server.behave("metadata", Behaviour::Redirect("http://169.254.169.254/x".to_owned()));
    for name in ["circle", "file"] {
        let run = run(&options(), &server.url(name), None).await;
        assert!(matches!(run.error(), Error::CloneFailed { .. }), "{name}: {:?}", run.error());
    }
    let metadata = run(&options(), &server.url("metadata"), None).await;
    assert!(matches!(metadata.error(), Error::AddressRefused { .. }), "{:?}", metadata.error());
}

#[tokio::test]
async fn a_server_that_stalls_is_given_up() {
    let server = GitServer::start();
    server.behave("slow", Behaviour::Stall);
    let stall = Options { stall: Duration::from_millis(600), ..options() };
    let stalled = run(&stall, &server.url("slow"), None).await;
    assert!(matches!(stalled.error(), Error::TimedOut { what: "sent nothing", .. }), "{:?}", stalled.error());
    let deadline = Options { deadline: Duration::from_millis(600), ..options() };
    let late = run(&deadline, &server.url("slow"), None).await;
    assert!(matches!(late.error(), Error::TimedOut { what: "was being fetched", .. }), "{:?}", late.error());
}

#[tokio::test]
async fn stopping_ends_every_process() {
    let server = GitServer::start();
    server.behave("slow", Behaviour::Stall);
    let folder = tempfile::tempdir().expect("a folder");
    let into = folder.path().join("source");
    fs::create_dir(&into).expect("a folder");
    let stop = CancellationToken::new();
    let (sender, _receiver) = mpsc::channel(10);
    let url = server.url("slow");
    let options = options();
    let fetching = fetch(&options, &url, None, &into, &sender, &stop);
    let asked = async {
        // A request has arrived, so the transport helper, a child of git, runs.
        wait_until(|| !server.seen().is_empty()).await;
        assert!(!processes_with(&url).is_empty());
        stop.cancel();
    };
    let (result, ()) = tokio::join!(fetching, asked);
    assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
    wait_until(|| processes_with(&url).is_empty()).await;

    // Dropping it is as good.
    let stop = CancellationToken::new();
    let seen = server.seen().len();
    {
        let fetching = fetch(&options, &url, None, &into, &sender, &stop);
        tokio::select! {
            result = fetching => panic!("{result:?}"),
            () = wait_until(|| server.seen().len() > seen) => {}
        }
    }
    wait_until(|| processes_with(&url).is_empty()).await;
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not become true");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Processes whose command line holds a text; those that ended and wait to be reaped have none.
fn processes_with(text: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .expect("a process table")
        .flatten()
        .filter_map(|item| fs::read_to_string(item.path().join("cmdline")).ok())
        .filter(|line| line.contains(text))
        .collect()
}

#[tokio::test]
async fn limits_hold_before_anything_is_written() {
    let server = GitServer::start();
    let files: Vec<(String, String)> = (0..20).map(|number| (format!("f{number}"), "same".to_owned())).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    server.repository("many", "main", &files);
    // One object, many times: next to nothing to receive.
    server.repository("zeros", "main", &[("zeros", &"0".repeat(3_000_000))]);
    server.repository("deep", "main", &[("a/b/c/d/e/f", "x")]);
    let noise: String = (0..60_000_u32).map(|number| format!("{:x}", number.wrapping_mul(2_654_435_761))).collect();
    server.repository("noise", "main", &[("noise", &noise)]);
    for (name, limits, wanted) in [
        ("many", Limits { entries: 19, ..Limits::default() }, "files"),
        ("zeros", Limits { bytes: 1_000_000, ..Limits::default() }, "bytes"),
        ("deep", Limits { depth: 4, ..Limits::default() }, "folders within folders"),
        ("noise", Limits { bytes: 100_000, ..Limits::default() }, "bytes to receive"),
    ] {
        let run = run(&Options { limits, ..options() }, &server.url(name), None).await;
        assert!(matches!(run.error(), Error::TooLarge { what, .. } if *what == wanted), "{name}: {:?}", run.error());
        assert_eq!(fs::read_dir(run.folder.path().join("source")).expect("a folder").count(), 0, "{name}");
    }
}

#[tokio::test]
async fn nothing_of_a_repository_is_executed_or_followed() {
    let server = GitServer::start();
    let mark = server.address().port();
    let witness = std::env::temp_dir().join(format!("narvana-git-test-{mark}"));
    let script = format!("#!/bin/sh\ntouch {}\n", witness.display());
    let repository = server.repository(
        "evil",
        "main",
        &[
            ("hooks/post-checkout", &script),
            (".gitattributes", "* filter=evil\n*.bin filter=lfs\n"),
            (".lfsconfig", "[lfs]\nurl = http://169.254.169.254/"),
            ("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
            (".gitmodules", "[submodule \"x\"]\npath = x\nurl = ../../../etc\n"),
        ],
    );
    symlink("/etc/shadow", repository.folder.join("Link")).expect("a link");
    repository.commit(&[]);
    let run = run(&options(), &server.url("evil"), None).await;
    run.ok();
    assert!(!witness.exists());
    assert!(run.read("big.bin").contains("git-lfs"));
    assert!(run.has("Link"));
    let source = run.folder.path().join("source");
    assert!(crate::build::tree::read_inside(&source, "Link", 100).is_err());
    assert!(run.lines.iter().any(|line| line.contains("submodules")), "{:?}", run.lines);
}

#[tokio::test]
async fn a_git_that_is_missing_or_too_old_is_named() {
    let missing = Options { program: "/nonexistent/git".into(), ..options() };
    let run_missing = run(&missing, "http://127.0.0.1:9/x", None).await;
    assert!(matches!(run_missing.error(), Error::Program { .. }), "{:?}", run_missing.error());
    // Any program that is not git.
    let other = Options { program: "true".into(), ..options() };
    let run_other = run(&other, "http://127.0.0.1:9/x", None).await;
    assert!(run_other.error().to_string().contains("2.37"), "{}", run_other.error());
}
