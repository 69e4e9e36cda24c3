//! The command line, its files, folders and variables, and what a hostile server makes it print.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::live::{Live, addresses, node_fails, program, said};
use super::{Check, Row, interrupt};
use Check::{Live as Do, Test};
use narvana::cluster::{JoinSecret, TokenText};

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 47,
        sent: "an empty or padded join token",
        checks: &[Do(no_token), Test("src/cluster/token.rs", "what_is_written_is_read")],
    },
    Row {
        number: 48,
        sent: "a join token as an argument (it is not erased from the list of processes, which would take unsafe code; the \
               warning says who can see it)",
        checks: &[Do(token_as_argument)],
    },
    Row {
        number: 49,
        sent: "a data folder that is /, a file, somebody else's, open to all, or cannot be written (a symlink is followed: \
               the check is on what it leads to)",
        checks: &[Do(data_folders), Test("tests/real/node/durability.rs", "a_folder_that_cannot_be_written_is_named")],
    },
    Row { number: 50, sent: "two processes on one data folder", checks: &[Do(two_processes)] },
    Row { number: 51, sent: "a port that is in use", checks: &[Do(port_in_use)] },
    Row {
        number: 52,
        sent: "configuration: unknown key, wrong type, not UTF-8, 100 MiB (files cannot include others)",
        checks: &[Do(config_files)],
    },
    Row {
        number: 53,
        sent: "an address of nowhere, or none, to be reached at (loopback is one as long as nobody joins)",
        checks: &[Do(addresses_of_nowhere), Test("src/config.rs", "addresses_to_be_reached_at")],
    },
    Row {
        number: 54,
        sent: "a heartbeat slower than the election (neither can be set)",
        checks: &[Do(no_raft_settings)],
    },
    Row { number: 55, sent: "a NARVANA_ variable that does not exist", checks: &[Do(unknown_variable)] },
    Row {
        number: 56,
        sent: "terminal escapes in what a server says",
        checks: &[Do(escapes), Test("src/cli/output.rs", "text_from_a_server_cannot_steer_the_terminal")],
    },
    Row {
        number: 57,
        sent: "an interrupt or a broken pipe in the middle of a deployment",
        checks: &[
            Test("tests/it/cli.rs", "the_wait_ends_with_a_code_of_its_own"),
            Test("tests/it/cli.rs", "an_interrupted_wait_says_what_goes_on"),
            Test("src/cli/outcome.rs", "exit_codes"),
            Do(broken_pipe),
            Do(interrupt::in_the_middle_of_an_upload),
        ],
    },
    Row {
        number: 58,
        sent: "a command line of another version than the server",
        checks: &[
            // There is one version of the API so far: what is understood is taken, and both versions are named.
            Do(answers_of_another_version),
            Do(both_versions_are_named),
            Test("tests/it/cli.rs", "programs_get_the_answer_unchanged_and_a_code"),
        ],
    },
];

fn no_token(live: &Live) {
    let data = live.folder.path().join("unused");
    for token in ["", " ", "\n", "'nvj1.x'", "nvj1.x", " nvj1.x\n", "nvj1.AAAA AAAA", "nvj2.AAAA"] {
        let asked = program().args(["join", token, "--data-dir"]).arg(&data).output().expect("the program runs");
        let text = said(&asked, 2);
        assert!(text.contains("join token"), "{text}");
    }
    assert!(!data.exists(), "nothing was made");
}

/// It works, with a warning, and what is printed does not repeat it.
fn token_as_argument(live: &Live) {
    let token = TokenText {
        id: narvana::random::id(),
        secret: JoinSecret::new(),
        cluster: narvana::random::id(),
        pin: [7; 32],
        addresses: vec!["127.0.0.1:1".to_owned()],
    };
    let token = token.to_string();
    let text = node_fails("join", &live.folder.path().join("joining"), &[&token], 1);
    assert!(text.contains("--token-file") && text.contains("cannot be reached"), "{text}");
    assert!(text.contains("everybody on this machine can see the join token in the list of processes"), "{text}");
    for verb in ["join", "node rebuild"] {
        let help = program().args(verb.split(' ')).arg("--help").output().expect("the program runs");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.contains("--token-file - < token") && !help.contains("nvj1."), "{help}");
    }
    assert!(!text.contains(&token), "{text}");
}

fn addresses_of_nowhere(live: &Live) {
    let data = live.folder.path().join("unused");
    for address in ["0.0.0.0", "::", "https://n1:8080", ""] {
        let text = node_fails("init", &data, &["--advertise", address], 2);
        assert!(text.contains("--advertise"), "{text}");
    }
    assert!(!data.exists(), "nothing was made");
}

fn data_folders(live: &Live) {
    let text = node_fails("init", "/".as_ref(), &[], 1);
    assert!(text.contains("/ is not empty and not a narvana data folder"), "{text}");
    let folder = live.folder.path();
    let file = folder.join("a-file");
    std::fs::write(&file, "x").expect("writes");
    let text = node_fails("init", &file, &[], 1);
    assert!(text.contains("a-file"), "{text}");
    let text = node_fails("init", &file.join("below"), &[], 1);
    assert!(text.contains("a-file"), "{text}");
    let foreign = folder.join("foreign");
    std::fs::create_dir(&foreign).expect("a folder");
    std::fs::write(foreign.join("letter.txt"), "x").expect("writes");
    let text = node_fails("init", &foreign, &[], 1);
    assert!(text.contains("letter.txt"), "{text}");
    assert_eq!(std::fs::read_dir(&foreign).expect("a folder").count(), 1, "nothing was added to it");
    let open = folder.join("open");
    std::fs::create_dir(&open).expect("a folder");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("its owner may");
    let text = node_fails("init", &open, &[], 1);
    assert!(text.contains("chmod go-w"), "{text}");
    let text = node_fails("run", &folder.join("nothing"), &[], 1);
    assert!(text.contains("narvana init"), "{text}");
}

fn two_processes(live: &Live) {
    for verb in ["run", "init"] {
        let exit = i32::from(verb == "run");
        let text = node_fails(verb, &live.data, &[], exit);
        // `init` finds a node there, and changes nothing.
        let expected =
            if verb == "run" { format!("(process {})", live.pid()) } else { "holds a node already".to_owned() };
        assert!(text.contains(&expected), "{text}");
    }
}

fn port_in_use(live: &Live) {
    for (flag, port) in [("--api-port", live.api.port()), ("--ingress-http-port", live.ingress.port())] {
        let mut arguments = addresses().map(str::to_owned);
        let position = arguments.iter().position(|argument| argument == flag).expect("a flag");
        arguments[position + 1] = port.to_string();
        let mut command = program();
        command.arg("init").arg("--data-dir").arg(live.folder.path().join(&flag[2..])).args(arguments);
        let text = said(&command.output().expect("the program runs"), 1);
        assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains(flag), "{text}");
    }
}

fn config_files(live: &Live) {
    let file = live.folder.path().join("narvana.toml");
    let data = live.folder.path().join("unused");
    for (bytes, words) in [
        (&b"api_port = 1\napi_prot = 2\n"[..], &["line 2", "api_prot", "api_port"][..]),
        (b"api_port = \"many\"\n", &["line 1"]),
        (b"api_port = 70000\n", &["line 1"]),
        (b"[", &["line 1"]),
        (b"name = \"\xff\"\n", &["UTF-8"]),
    ] {
        std::fs::write(&file, bytes).expect("writes");
        let text = node_fails("init", &data, &["--config", &file.to_string_lossy()], 2);
        for word in words.iter().chain(&["narvana.toml"]) {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    let large = std::fs::File::create(&file).expect("a file");
    large.set_len(100 << 20).expect("a file of zeros");
    let text = node_fails("init", &data, &["--config", &file.to_string_lossy()], 2);
    assert!(text.contains("larger than"), "{text}");
    assert!(!data.exists(), "nothing was made");
}

fn no_raft_settings(live: &Live) {
    let file = live.folder.path().join("raft.toml");
    std::fs::write(&file, "heartbeat = \"2s\"\nelection = \"1s\"\n").expect("writes");
    let text = node_fails("init", &live.folder.path().join("unused"), &["--config", &file.to_string_lossy()], 2);
    assert!(text.contains("unknown field"), "{text}");
}

fn unknown_variable(live: &Live) {
    let mut command = program();
    command.arg("run").arg("--data-dir").arg(live.folder.path().join("nothing"));
    let text = said(&command.env("NARVANA_DATADIR", "/x").env("NARVANA_QUIET", "0").output().expect("runs"), 1);
    assert!(text.contains("NARVANA_DATADIR") && !text.contains("NARVANA_QUIET"), "{text}");
}

/// A server that answers one request with this.
fn answer_once(head: &str, body: &str) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    listener.set_nonblocking(true).expect("it can be asked without waiting");
    let server = std::thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < ASKED_WITHIN {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(5)); // poll
                continue;
            };
            stream.set_nonblocking(false).expect("a socket");
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
            let mut request = [0; 8_192];
            // The port may have been another test's a moment ago, and somebody may still look for that one.
            if stream.read(&mut request).is_ok_and(|_| request.starts_with(b"GET ")) {
                return stream.write_all(answer.as_bytes()).expect("answers");
            }
        }
        panic!("nobody asked within {ASKED_WITHIN:?}");
    });
    (address, server)
}

/// How long the program may take until it asks.
const ASKED_WITHIN: Duration = Duration::from_secs(60);

fn escapes(_: &Live) {
    let hostile = r"\u001b]52;c;aGk=\u0007\u001b[2J\u009b2J\rover\u202e";
    let list = format!(r#"[{{"id":"{hostile}","name":"{hostile}","description":"{hostile}"}}]"#);
    let refusal = format!(
        r#"{{"code":"{hostile}","message":"{hostile}","details":{{"{hostile}":"{hostile}"}},"request_id":"{hostile}"}}"#
    );
    let json = "content-type: application/json";
    for (head, body) in [(format!("200 OK\r\n{json}"), &list), (format!("409 Conflict\r\n{json}"), &refusal)] {
        for format in ["table", "wide", "json", "yaml"] {
            let (address, server) = answer_once(&head, body);
            let output = program().args(["--api", &address, "--token", "t", "app", "ls", "-o", format]).output();
            let output = output.expect("the program runs");
            server.join().expect("it was asked");
            for bytes in [&output.stdout, &output.stderr] {
                let text = String::from_utf8_lossy(bytes);
                let steers = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
                assert!(!text.contains(steers), "{format}: {text:?}");
            }
            assert!(!(output.stdout.is_empty() && output.stderr.is_empty()), "{format}: it says something");
        }
    }
}

/// What is new is left alone, what is gone is left empty, and what is something else is said to be that, by whom.
fn answers_of_another_version(_: &Live) {
    let json = "content-type: application/json";
    for (head, body, exit, words) in [
        ("200 OK", r#"[{"name":"shop","novelty":{"deep":[1]}}]"#, 0, "shop"),
        ("200 OK", r#"[{"name":["shop"]}]"#, 1, "is a node of this version listening there?"),
        ("200 OK", r#"{"apps":[]}"#, 1, "is a node of this version listening there?"),
        ("200 OK", "<html>", 1, "is a node of this version listening there?"),
        ("200 OK", "", 1, "is a node of this version listening there?"),
        ("404 Not Found", "<html>", 3, "404"),
        ("410 Gone", r#"{"code":"gone_for_good","message":"use /v2","details":{},"request_id":"r"}"#, 1, "use /v2"),
    ] {
        let (address, server) = answer_once(&format!("{head}\r\n{json}"), body);
        let output = program().args(["--api", &address, "--token", "t", "app", "ls"]).output().expect("it runs");
        server.join().expect("it was asked");
        let said = said(&output, exit) + &String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(words), "{body}: {said}");
    }
}

fn both_versions_are_named(live: &Live) {
    let own = env!("CARGO_PKG_VERSION");
    for (version, exit, body) in [("9.9.9", 0, r#"[{"name":"shop"}]"#), ("9.9.9", 1, "<html>")] {
        let head = format!("200 OK\r\ncontent-type: application/json\r\nx-narvana-version: {version}");
        let (address, server) = answer_once(&head, body);
        let output = program().args(["--api", &address, "--token", "t", "app", "ls"]).output().expect("it runs");
        server.join().expect("it was asked");
        let said = said(&output, exit);
        assert!(said.contains(&format!("narvana {version}, this command line is {own}")), "{said}");
    }
    let mut command = program();
    command.args(["--api", &format!("http://{}", live.api), "--token", &live.token, "app", "ls"]);
    assert_eq!(said(&command.output().expect("it runs"), 0), "", "a node of this version is not worth a word");
    assert!(live.ask("GET", "/v1/apps", b"").head.contains(&format!("x-narvana-version: {own}")));
}

fn broken_pipe(live: &Live) {
    let mut command = program();
    command.args(["--api", &format!("http://{}", live.api), "--token", &live.token, "app", "ls"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command.stdout(writer).stderr(std::process::Stdio::piped()).output().expect("the program runs");
    assert_eq!(said(&output, 0), "", "nobody listens any more, which is no error");
}

#[test]
fn rows_hold() {
    super::run(ROWS);
}
