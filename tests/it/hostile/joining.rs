//! Join tokens, and what is asked with them.

use std::sync::Arc;

use narvana::cluster::{Authority, JoinSecret, PEER_LIFE, SigningRequest, TokenText, peer_name};
use narvana::model::{NEWEST_CLUSTER_VERSION, NodeId, RequestId};
use narvana::rpc::{Admitted, JoinError, Newcomer, Request};
use narvana::{clock, random};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::live::{Live, program, said};
use super::{Check, Row};
use Check::{Live as Do, Test};

const TOKEN: &str = "src/cluster/token.rs";
const CLUSTER: &str = "tests/real/node/cluster.rs";

/// A signing request with an RSA key of 512 bits, well formed and signed, made with OpenSSL.
const RSA_512: &str = "3081c930750201003010310e300c06035504030c056775657374305c300d06092a864886f70d0101010500034b0030480241\
    00e3dcb27069a6a941ec296e961711bd980a45bee21e2d19a64d3c0958f9a300aaff84ff85d54f86ebee6128d7f83401748c\
    657c9dbf1bb3fa3b2a031896fc301f0203010001a000300d06092a864886f70d01010b0500034100d7272ef1d746baffa866\
    084e2fde5240219a724a8f4cc6f0465dca4c1f348b0da9a5e0e0ed0c95b60a63841cc9b86eef57dd7b6dfa51bd49c5d005da\
    a43b5bca";

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 59,
        sent: "a token with a wrong character",
        checks: &[Test(TOKEN, "every_changed_character_is_noticed"), Do(wrong_character)],
    },
    Row { number: 60, sent: "a token of another authority", checks: &[Do(another_authority)] },
    Row {
        number: 61,
        sent: "a token that has expired",
        checks: &[Test(CLUSTER, "a_token_lets_in_as_many_as_it_says")],
    },
    Row { number: 62, sent: "a token that was used", checks: &[Do(used)] },
    Row {
        number: 63,
        sent: "a token that was revoked",
        checks: &[Test(CLUSTER, "a_token_lets_in_as_many_as_it_says")],
    },
    Row {
        number: 64,
        sent: "a worker that wants to vote (the token has the role, and no request can name one)",
        checks: &[Test("src/rpc/tests/admission.rs", "only_members_are_heard_and_only_in_their_own_name")],
    },
    Row { number: 65, sent: "names that are none, or somebody's", checks: &[Do(names)] },
    Row {
        number: 66,
        sent: "signing requests for more than a node gets, with other keys, and of keys that the caller does not have",
        checks: &[Do(signing_requests)],
    },
    Row { number: 67, sent: "a signing request of 1 MiB", checks: &[Do(long_request)] },
    Row { number: 68, sent: "guesses", checks: &[Do(guesses)] },
];

pub(super) fn token(live: &Live) -> TokenText {
    let mut command = program();
    command.args(["token", "create", "--quiet"]);
    command.env("NARVANA_API", format!("http://{}", live.api)).env("NARVANA_TOKEN", &live.token);
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").parse().expect("a token")
}

/// What a node asks with this token.
pub(super) fn question(token: &TokenText, signing_request: Vec<u8>, name: &str) -> Request {
    Request {
        token: token.id,
        secret: token.secret.clone(),
        request: random::id::<RequestId>(),
        signing_request,
        name: name.to_owned(),
        address: "127.0.0.1:9".to_owned(),
        cluster_version_max: NEWEST_CLUSTER_VERSION,
    }
}

pub(super) fn knock(live: &Live, token: &TokenText, question: Request) -> Result<Admitted, JoinError> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let newcomer = Newcomer::new(token.cluster, token.pin).expect("a pin");
        newcomer.reach(&live.grpc(), clock::now).await.expect("a member").knock(question).await
    })
}

#[track_caller]
fn refused(answer: Result<Admitted, JoinError>, words: &str) {
    match answer {
        Err(JoinError::Refused { reason }) => assert!(reason.contains(words), "{words}: {reason}"),
        Err(error) => panic!("{words}: {error}"),
        Ok(admitted) => panic!("{words}: node {} was let in", admitted.node),
    }
}

fn fine() -> Vec<u8> {
    SigningRequest::new().expect("a key").request
}

/// Found where it is typed: nothing is sent, nothing is made.
fn wrong_character(live: &Live) {
    let mut wrong = token(live).to_string();
    let other = if &wrong[20..21] == "A" { "B" } else { "A" };
    wrong.replace_range(20..21, other);
    let file = live.folder.path().join("wrong-token");
    std::fs::write(&file, wrong).expect("writes");
    let data = live.folder.path().join("unused");
    let mut command = program();
    command.args(["join", "--token-file"]).arg(&file).arg("--data-dir").arg(&data);
    let said = said(&command.output().expect("the program runs"), 2);
    assert!(said.contains("checksum"), "{said}");
    assert!(!data.exists());
}

/// Somebody in a member's place, with everything but its authority, hears nothing of the secret.
fn another_authority(live: &Live) {
    let token = token(live);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let other = Authority::new(token.cluster, clock::now()).expect("an authority");
        let identity = (token.cluster, NodeId::FOUNDER);
        let own = Authority::peer_certificate(&other.certificate, &other.key, identity, clock::now(), PEER_LIFE);
        let own = own.expect("signs");
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(own.chain, own.key);
        let mut config = config.expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("an address").to_string();
        let stranger = async {
            let (stream, _) = listener.accept().await.expect("somebody calls");
            TlsAcceptor::from(Arc::new(config)).accept(stream).await.map(drop)
        };
        let newcomer = Newcomer::new(token.cluster, token.pin).expect("a pin");
        let (reached, shaken) = tokio::join!(newcomer.reach(&address, clock::now), stranger);
        let Err(error) = reached else { panic!("it was believed") };
        assert!(matches!(error, JoinError::Stranger { .. }), "{error}");
        // The handshake itself broke off, so that not a byte came after it.
        assert!(shaken.is_err());
    });
}

fn used(live: &Live) {
    let token = token(live);
    knock(live, &token, question(&token, fine(), "guest-one")).expect("let in");
    refused(knock(live, &token, question(&token, fine(), "guest-two")), "used already");
}

fn names(live: &Live) {
    let token = token(live);
    let long = "n".repeat(4_096);
    for name in ["../node", "", "-rf", "a b", "node\n", "n\u{202e}ode", &long] {
        refused(knock(live, &token, question(&token, fine(), name)), "");
    }
    refused(knock(live, &token, question(&token, fine(), "test-node")), "a node named test-node");
    // None of these used the token.
    knock(live, &token, question(&token, fine(), "guest-three")).expect("let in");
}

fn signing_requests(live: &Live) {
    let token = token(live);
    let ask = |request: Vec<u8>| knock(live, &token, question(&token, request, "guest-four"));
    let mut wrong = fine();
    *wrong.last_mut().expect("bytes") ^= 1;
    let cut = fine();
    for request in [wrong, cut[..cut.len() / 2].to_vec(), b"no request".to_vec(), Vec::new()] {
        refused(ask(request), "signing request");
    }
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        refused(ask(request.der().to_vec()), "signing request");
    }
    refused(ask(hex::decode(RSA_512).expect("hex")), "signing request");
    // One that wants to be an authority: OID of basic constraints, and CA:TRUE.
    let mut authority = CertificateParams::default();
    let constraints = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xFF]);
    authority.custom_extensions.push(constraints);
    let request = authority.serialize_request(&KeyPair::generate().expect("a key")).expect("a request");
    assert!(request.der().windows(3).any(|part| part == BASIC_CONSTRAINTS), "it is in the request");
    let admitted = ask(request.der().to_vec()).expect("let in");
    nothing_but_its_name(&token, &admitted);
    // And one that wants to be another node, and to sign.
    let founder = peer_name(token.cluster, NodeId::FOUNDER);
    let mut params = CertificateParams::new(vec![founder.clone()]).expect("a name");
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let request = params.serialize_request(&KeyPair::generate().expect("a key")).expect("a request");
    let token = self::token(live);
    let admitted = knock(live, &token, question(&token, request.der().to_vec(), "guest-four-again")).expect("let in");
    nothing_but_its_name(&token, &admitted);
    let holds = |text: &str| admitted.certificate.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(!holds(&founder), "another node's name");
}

/// Identifiers of extensions.
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1D, 0x13];
const KEY_USAGE: [u8; 3] = [0x55, 0x1D, 0x0F];

/// Of a request only the key counts.
#[track_caller]
fn nothing_but_its_name(token: &TokenText, admitted: &Admitted) {
    let name = peer_name(token.cluster, admitted.node);
    assert!(admitted.certificate.windows(name.len()).any(|part| part == name.as_bytes()), "its own name");
    for extension in [BASIC_CONSTRAINTS, KEY_USAGE] {
        assert!(!admitted.certificate.windows(3).any(|part| part == extension), "{extension:x?}");
    }
}

fn long_request(live: &Live) {
    let token = token(live);
    refused(knock(live, &token, question(&token, vec![0x30; 1 << 20], "guest-five")), "too large");
}

/// Each is noted, soon they are slowed down, and the node answers others meanwhile.
fn guesses(live: &Live) {
    let mut guess = token(live);
    guess.secret = JoinSecret::new();
    let answers: Vec<_> = (0..20).map(|_| knock(live, &guess, question(&guess, fine(), "guest-six"))).collect();
    let slowed = answers.iter().filter(|answer| matches!(answer, Err(JoinError::Busy { .. }))).count();
    assert!(slowed >= 10, "{slowed} of 20 were slowed down");
    assert!(answers.iter().all(Result::is_err));
    assert!(live.log().contains("somebody who wanted to join was refused"), "{}", live.log());
    assert_eq!(live.ask_as("", "GET", "/health", b"").status, 200);
}

#[test]
fn rows_hold() {
    super::run(ROWS);
}
