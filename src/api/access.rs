//! Every route, asked by everybody who should not get it and everybody who should: the list of routes comes from the
//! OpenAPI document, so that a new one without a line here fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use crate::agent::{Exec, LocalExec};
use crate::artifact::{ArtifactStore, Fetcher, Holdings, Nobody};
use crate::auth::Tokens;
use crate::build::Inspector;
use crate::clock;
use crate::cluster::Authority;
use crate::logs::{self, Library, LogStore};
use crate::model::{Membership, NodeId, Org, OrgId, PasswordHash, Role, Session, SessionId, User, UserId};
use crate::random;
use crate::space::Space;
use crate::state::{Record, State, sample_records};
use crate::task::Supervisor;
use crate::telemetry::Metrics;

use super::Options;
use super::gate::Gate;
use super::replica::Replica;
use super::router::{behind, document_of_all};

/// What a route asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing.
    Open,
    /// A log-in.
    LogIn,
    /// A role in the organisation of the object.
    Role(Role),
    /// To administer the cluster.
    Admin,
}

use Need::{Admin, LogIn, Open};
const VIEWER: Need = Need::Role(Role::Viewer);
const MEMBER: Need = Need::Role(Role::Member);

/// Each route with what it needs, a body that it accepts, and the status with which it does so for the sample state.
fn table() -> Vec<(&'static str, &'static str, Need, Value, u16)> {
    let none = Value::Null;
    let nothing = json!({});
    vec![
        ("get", "/health", Open, none.clone(), 200),
        ("get", "/ready", Open, none.clone(), 200),
        // Open to loopback, a log-in elsewhere; these requests come from elsewhere.
        ("get", "/metrics", LogIn, none.clone(), 200),
        ("get", "/api/docs", Open, none.clone(), 200),
        ("get", "/api/docs/openapi.json", Open, none.clone(), 200),
        ("get", "/auth/setup", Open, none.clone(), 200),
        ("get", "/auth/can-register", Open, none.clone(), 200),
        ("post", "/auth/register", Open, json!({"email": "a@b.c", "password": "12345678"}), 403),
        ("post", "/auth/login", Open, json!({"email": "no@example.org", "password": "12345678"}), 401),
        ("post", "/auth/logout", LogIn, nothing.clone(), 204),
        ("get", "/v1/auth/validate", LogIn, none.clone(), 200),
        ("get", "/v1/user/profile", LogIn, none.clone(), 200),
        ("get", "/v1/config", LogIn, none.clone(), 200),
        ("get", "/v1/dashboard/stats", LogIn, none.clone(), 200),
        ("get", "/v1/status", LogIn, none.clone(), 200),
        ("get", "/v1/authority", LogIn, none.clone(), 200),
        ("post", "/v1/authority/rotate", Admin, nothing.clone(), 202),
        ("get", "/v1/nodes", LogIn, none.clone(), 200),
        ("get", "/v1/nodes/{node}", LogIn, none.clone(), 200),
        ("get", "/v1/nodes/{node}/moves", Admin, none.clone(), 200),
        ("get", "/v1/nodes/{node}/only-copies", Admin, none.clone(), 200),
        ("post", "/v1/nodes/{node}/cordon", Admin, nothing.clone(), 200),
        ("post", "/v1/nodes/{node}/uncordon", Admin, nothing.clone(), 200),
        ("patch", "/v1/nodes/{node}", Admin, json!({"labels": {"disk": "hdd", "zone": null}}), 200),
        ("get", "/v1/nodes/{node}/drain", Admin, none.clone(), 200),
        ("post", "/v1/nodes/{node}/drain", Admin, json!({"stop_exclusive": true}), 202),
        // It is the only one that may vote: a conflict is an answer for those who may.
        ("delete", "/v1/nodes/{node}", Admin, none.clone(), 409),
        ("get", "/v1/rebalance", Admin, none.clone(), 200),
        ("post", "/v1/rebalance", Admin, json!({"budget": 2}), 202),
        ("get", "/v1/simulate/join", Admin, none.clone(), 200),
        ("get", "/v1/join-tokens", Admin, none.clone(), 200),
        ("post", "/v1/join-tokens", Admin, nothing.clone(), 201),
        ("delete", "/v1/join-tokens/{token}", Admin, none.clone(), 200),
        // Over TLS only, and these requests come over nothing: a conflict is an answer for those who may.
        ("get", "/v1/backup", Admin, none.clone(), 409),
        ("get", "/v1/settings", LogIn, none.clone(), 200),
        ("patch", "/v1/settings", Admin, json!({"public_ip": "192.0.2.1"}), 200),
        ("delete", "/v1/settings/{setting}", Admin, none.clone(), 200),
        ("get", "/v1/orgs", LogIn, none.clone(), 200),
        ("get", "/v1/orgs/{org}", VIEWER, none.clone(), 200),
        // Nobody is there: an answer for those who may.
        ("post", "/v1/detect", LogIn, json!({"git_url": "http://127.0.0.1:1/r"}), 400),
        ("get", "/v1/apps", LogIn, none.clone(), 200),
        ("post", "/v1/apps", MEMBER, json!({"name": "new", "org_id": SAMPLE_ORG.to_string()}), 201),
        ("get", "/v1/apps/{app}", VIEWER, none.clone(), 200),
        ("patch", "/v1/apps/{app}", MEMBER, json!({"description": "new", "version": 1}), 200),
        ("delete", "/v1/apps/{app}", MEMBER, none.clone(), 204),
        ("get", "/v1/apps/{app}/explain", VIEWER, none.clone(), 200),
        ("post", "/v1/apps/{app}/deploy", MEMBER, nothing.clone(), 202),
        ("get", "/v1/apps/{app}/deployments", VIEWER, none.clone(), 200),
        ("get", "/v1/apps/{app}/logs", VIEWER, none.clone(), 200),
        ("get", "/v1/apps/{app}/logs/stream", VIEWER, none.clone(), 200),
        ("get", "/v1/apps/{app}/services", VIEWER, none.clone(), 200),
        ("post", "/v1/apps/{app}/services", MEMBER, json!({"name": "db", "image": "docker.io/library/redis:7"}), 201),
        ("get", "/v1/apps/{app}/services/{service}", VIEWER, none.clone(), 200),
        ("patch", "/v1/apps/{app}/services/{service}", MEMBER, json!({"depends_on": []}), 200),
        ("delete", "/v1/apps/{app}/services/{service}", MEMBER, none.clone(), 204),
        ("post", "/v1/apps/{app}/services/{service}/deploy", MEMBER, nothing.clone(), 202),
        ("post", "/v1/apps/{app}/services/{service}/stop", MEMBER, nothing.clone(), 200),
        // It runs already: a conflict is an answer for those who may.
        ("post", "/v1/apps/{app}/services/{service}/start", MEMBER, nothing.clone(), 409),
        ("post", "/v1/apps/{app}/services/{service}/restart", MEMBER, nothing.clone(), 202),
        ("post", "/v1/apps/{app}/services/{service}/reload", MEMBER, nothing.clone(), 202),
        ("post", "/v1/apps/{app}/services/{service}/scale", MEMBER, json!({"replicas": 1}), 200),
        ("post", "/v1/apps/{app}/services/{service}/rollback", MEMBER, json!({"version": 1}), 202),
        ("get", "/v1/apps/{app}/services/{service}/env", VIEWER, none.clone(), 200),
        ("post", "/v1/apps/{app}/services/{service}/env", MEMBER, json!({"key": "NEW", "value": ""}), 201),
        ("put", "/v1/apps/{app}/services/{service}/env", MEMBER, json!({"dotenv": "A=1"}), 200),
        ("put", "/v1/apps/{app}/services/{service}/env/{key}", MEMBER, json!({"value": "1"}), 200),
        ("delete", "/v1/apps/{app}/services/{service}/env/{key}", MEMBER, none.clone(), 204),
        // The sample service comes from git: those who may are told that it takes no upload.
        ("post", "/v1/apps/{app}/services/{service}/source", MEMBER, json!("archive"), 409),
        // Nothing is fetched for it: an answer for those who may.
        ("post", "/v1/apps/{app}/services/{service}/preview", MEMBER, json!({"build_strategy": "magic"}), 400),
        ("get", "/v1/deployments", LogIn, none.clone(), 200),
        ("get", "/v1/deployments/{deployment}", VIEWER, none.clone(), 200),
        ("post", "/v1/deployments/{deployment}/rollback", MEMBER, nothing.clone(), 202),
        ("get", "/v1/deployments/{deployment}/explain", VIEWER, none.clone(), 200),
        ("get", "/v1/deployments/{deployment}/stream", VIEWER, none.clone(), 200),
        ("get", "/v1/instances/{instance}", VIEWER, none.clone(), 200),
        // These requests are no WebSockets, which those who may are told.
        ("get", "/v1/instances/{instance}/exec", MEMBER, none.clone(), 400),
        ("get", "/v1/instances/{instance}/explain", VIEWER, none.clone(), 200),
        ("get", "/v1/builds", LogIn, none.clone(), 200),
        ("get", "/v1/builds/{build}", VIEWER, none.clone(), 200),
        // The state says where it is, and nobody has it: an answer for those who may.
        ("get", "/v1/builds/{build}/recipe", VIEWER, none, 503),
        // It has ended: a conflict is an answer for those who may.
        ("post", "/v1/builds/{build}/cancel", MEMBER, nothing.clone(), 409),
        ("post", "/v1/builds/{build}/retry", MEMBER, nothing, 202),
    ]
}

const SAMPLE_ORG: Uuid = Uuid::from_u128(2);

/// Somebody with a token.
struct Person {
    name: &'static str,
    /// In the organisation of the sample objects.
    role: Option<Role>,
    is_admin: bool,
    session: Session,
}

/// For who belongs to another organisation.
fn token_of_the_stranger(state: &State, people: &[Person]) -> String {
    let stranger = people.iter().find(|person| person.name == "stranger").expect("one");
    Tokens::default().issue(state.cluster().expect("a cluster"), &stranger.session)
}

fn people() -> Vec<Person> {
    let person = |name, role, is_admin| {
        let created_at = clock::now();
        let expires_at = created_at.plus(Duration::from_secs(3_600));
        let session = Session { id: random::id::<SessionId>(), user: random::id::<UserId>(), created_at, expires_at };
        Person { name, role, is_admin, session }
    };
    vec![
        person("viewer", Some(Role::Viewer), false),
        person("member", Some(Role::Member), false),
        person("admin", Some(Role::Admin), false),
        person("owner", Some(Role::Owner), false),
        person("stranger", None, false),
        // Administering the cluster opens nobody's organisation.
        person("cluster admin", None, true),
    ]
}

fn state(people: &[Person]) -> State {
    let mut records = sample_records();
    let other: OrgId = random::id();
    let now = clock::now();
    let org = Org {
        id: other,
        name: "Other".to_owned(),
        slug: "other".to_owned(),
        description: String::new(),
        created_at: now,
        updated_at: now,
    };
    records.push(Record::from(org));
    // A join token names the key of the authority, so there has to be a real one.
    let Some(Record::Cluster(cluster)) = records.first_mut() else { panic!("the first sample is the cluster") };
    let cluster = Arc::make_mut(cluster);
    cluster.ca_certificate = Authority::new(cluster.id, now).expect("an authority").certificate;
    for person in people {
        let (org, role) = match person.role {
            Some(role) => (OrgId(SAMPLE_ORG), role),
            None => (other, Role::Owner),
        };
        records.push(Membership { org, user: person.session.user, role, created_at: now }.into());
        records.push(person.session.clone().into());
        let email = format!("{}@example.org", person.session.user);
        let password = PasswordHash(String::new());
        let (id, is_admin) = (person.session.user, person.is_admin);
        records.push(User { id, email, password, name: String::new(), is_admin, created_at: now }.into());
    }
    State::from_records(records)
}

struct Harness {
    logs: LogStore,
    artifacts: ArtifactStore,
    folder: tempfile::TempDir,
}

impl Harness {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let supervisor = Supervisor::new("test", CancellationToken::new());
        let logs =
            LogStore::open(folder.path().join("logs"), logs::Options::default(), supervisor).await.expect("logs");
        let artifacts = ArtifactStore::open(folder.path().join("artifacts")).await.expect("artifacts");
        Self { logs, artifacts, folder }
    }

    /// The real router over a state of its own.
    fn router(&self, state: State) -> Router {
        let replica = Replica::memory(state);
        let supervisor = Supervisor::new("test", CancellationToken::new());
        let exec = LocalExec::new(NodeId::FOUNDER, replica.watch(), watch::channel(None).1, supervisor.clone());
        let artifacts = Holdings::new(NodeId::FOUNDER, self.artifacts.clone(), Arc::new(Nobody));
        let logs = Library::of_one(self.logs.clone());
        let folder = self.folder.path();
        let inspector = Inspector::new(
            folder.to_owned(),
            Space::of(folder),
            false,
            Fetcher::new(self.artifacts.clone(), Arc::new(Nobody)),
            "github:a/b".to_owned(),
            supervisor,
        );
        let parts = (logs, Exec::of_one(exec), artifacts, Metrics::default(), inspector);
        behind(Gate::over(replica, parts, Options::default(), CancellationToken::new()))
    }

    async fn ask(
        &self,
        state: &State,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method.to_uppercase().as_str()).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = request.header("content-type", "application/json").body(body).expect("a request");
        let response = self.router(state.clone()).oneshot(request).await.expect("infallible");
        let status = response.status();
        let streams = response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let bytes =
            if streams { Vec::new().into() } else { to_bytes(response.into_body(), 1 << 20).await.expect("a body") };
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// The same for a reader who looks at the bytes, the header's included.
    async fn read(&self, state: &State, path: &str, token: &str) -> String {
        let request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
        let response = self.router(state.clone()).oneshot(request.body(Body::empty()).expect("a request")).await;
        let response = response.expect("infallible");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let head = format!("{:?}", response.headers());
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        format!("{head}\n{}", String::from_utf8_lossy(&body))
    }
}

/// A path of the sample objects, or of objects that do not exist.
fn path(template: &str, exists: bool) -> String {
    let id = |number: u128| Uuid::from_u128(if exists { number } else { 0xdead }).to_string();
    let app = if exists { "shop".to_owned() } else { "nope".to_owned() };
    // By id, since a stranger cannot find the app by its name anyway.
    let app = if exists { id(5) } else { app };
    let service = if exists { "web" } else { "nope" };
    let key = if exists { "KEY" } else { "NOPE" };
    template
        .replace("{app}", &app)
        .replace("{service}", service)
        .replace("{key}", key)
        .replace("{org}", &id(2))
        .replace("{deployment}", &id(9))
        .replace("{build}", &id(10))
        .replace("{instance}", &id(11))
        .replace("{token}", &id(14))
        .replace("{node}", "1")
        .replace("{setting}", "public_ip")
}

#[test]
fn the_table_lists_exactly_the_routes_of_the_document() {
    let mut listed: Vec<String> = table().iter().map(|(method, path, ..)| format!("{method} {path}")).collect();
    let mut routed = Vec::new();
    for (path, operations) in document_of_all()["paths"].as_object().expect("paths") {
        routed.extend(operations.as_object().expect("operations").keys().map(|method| format!("{method} {path}")));
    }
    listed.sort();
    routed.sort();
    assert_eq!(listed, routed);
}

#[tokio::test]
async fn everybody_gets_what_their_role_allows_and_nothing_else() {
    let harness = Harness::new().await;
    let people = people();
    let state = state(&people);
    let cluster = state.cluster().expect("a cluster").clone();
    let mut wrong = Vec::new();
    for (method, template, need, body, good) in table() {
        let at = path(template, true);
        let mut check = |who: &str, got: (StatusCode, Value), expected: u16| {
            if got.0.as_u16() != expected {
                wrong.push(format!("{method} {template} by {who}: expected {expected}, got {} {}", got.0, got.1));
            }
        };
        let nobody = harness.ask(&state, method, &at, None, &body).await;
        check("nobody", nobody, if need == Open { good } else { 401 });
        for person in &people {
            let token = Tokens::default().issue(&cluster, &person.session);
            let got = harness.ask(&state, method, &at, Some(&token), &body).await;
            let expected = match (need, person.role) {
                (Open | LogIn, _) => good,
                (Admin, _) => {
                    if person.is_admin {
                        good
                    } else {
                        403
                    }
                }
                (Need::Role(needed), Some(role)) => {
                    if role >= needed {
                        good
                    } else {
                        403
                    }
                }
                (Need::Role(_), None) => 404,
            };
            check(person.name, got, expected);
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_belongs_to_others_looks_like_what_does_not_exist() {
    let harness = Harness::new().await;
    let people = people();
    let state = state(&people);
    let token = token_of_the_stranger(&state, &people);
    let mut seen = BTreeMap::new();
    for (method, template, need, body, _) in table() {
        if !matches!(need, Need::Role(_)) || !template.contains('{') {
            continue;
        }
        let mut shapes = Vec::new();
        for exists in [true, false] {
            let at = path(template, exists);
            let (status, answer) = harness.ask(&state, method, &at, Some(&token), &body).await;
            // The message repeats the name that was asked for, and nothing else.
            let mut message = answer["message"].as_str().unwrap_or_default().to_owned();
            for name in at.split('/').filter(|name| name.len() > 3) {
                message = message.replace(name, "…");
            }
            shapes.push((status, answer["code"].clone(), answer["details"].clone(), message));
        }
        assert_eq!(shapes[0], shapes[1], "{method} {template}");
        seen.insert(template, ());
    }
    assert!(seen.len() > 15, "the walk found the routes");
}

/// What only the people of the sample's organisation may see: ids, names, texts and addresses of what belongs to it.
fn traces(people: &[Person]) -> Vec<String> {
    let ids = [2, 3, 4, 5, 6, 8, 9, 10, 11].map(|number| Uuid::from_u128(number).to_string());
    let texts = [
        "My Organization",
        "my-organization",
        "ada@example.org",
        "shop",
        "github.com/o/r",
        "step 2 ended with exit code 1",
        "it used more memory than it may",
        "out of memory",
    ];
    let others = people.iter().filter(|person| person.role.is_some());
    let emails = others.map(|person| format!("{}@example.org", person.session.user));
    ids.into_iter().chain(texts.map(str::to_owned)).chain(emails).collect()
}

/// The status without what it says of services: to administrators of those of all organisations.
fn for_administrators_left_out(answer: &str) -> String {
    let (head, body) = answer.split_once('\n').expect("a head and a body");
    let mut status: Value = serde_json::from_str(body).expect("JSON");
    for field in ["if_lost", "without_copies"] {
        status[field].take();
    }
    format!("{head}\n{status}")
}

#[tokio::test]
async fn what_everybody_may_ask_for_shows_nothing_of_other_organisations() {
    let harness = Harness::new().await;
    let people = people();
    let state = state(&people);
    let cluster = state.cluster().expect("a cluster").clone();
    let traces = traces(&people);
    let (mut asked, mut shown_to_owner) = (0, std::collections::BTreeSet::new());
    for (method, template, need, _, _) in table() {
        if method != "get" || need != LogIn {
            continue;
        }
        for at in [path(template, true), format!("{}?limit=1000", path(template, true))] {
            if at.contains('?') && !matches!(template, "/v1/orgs" | "/v1/apps" | "/v1/deployments" | "/v1/builds") {
                continue;
            }
            for person in &people {
                let token = Tokens::default().issue(&cluster, &person.session);
                let text = harness.read(&state, &at, &token).await;
                let sees_all = template == "/v1/status" && person.name == "cluster admin";
                let text = if sees_all { for_administrators_left_out(&text) } else { text };
                let found: Vec<&String> = traces.iter().filter(|trace| text.contains(trace.as_str())).collect();
                if person.role.is_none() {
                    assert!(found.is_empty(), "{at} shows {found:?} to the {}: {text}", person.name);
                } else if !found.is_empty() {
                    shown_to_owner.insert(template);
                }
                asked += 1;
            }
        }
    }
    assert!(asked > 60, "the walk found the routes: {asked}");
    // Where there is something to be seen, those whose it is see it: else nothing above would say anything.
    for template in ["/v1/orgs", "/v1/apps", "/v1/deployments", "/v1/builds"] {
        assert!(shown_to_owner.contains(template), "{template} shows its owners nothing: {shown_to_owner:?}");
    }
    // Nor do counts tell how much of it there is.
    let token = token_of_the_stranger(&state, &people);
    let (_, stats) = harness.ask(&state, "get", "/v1/dashboard/stats", Some(&token), &Value::Null).await;
    for count in ["active_deployments", "total_apps", "total_services", "running_builds"] {
        assert_eq!(stats[count], 0, "{stats:#}");
    }
    assert_eq!(stats["deployments_by_status"], json!({}));
}

/// As somebody who measures would find out: whether an app of others is looked up in another time than one that is not
/// there. In turn, so that whatever else the machine does meets both.
#[tokio::test]
async fn what_belongs_to_others_takes_as_long_as_what_does_not_exist() {
    const PAIRS: usize = 400;
    let harness = Harness::new().await;
    let people = people();
    let state = state(&people);
    let token = token_of_the_stranger(&state, &people);
    let router = harness.router(state);
    for template in ["/v1/apps/{app}", "/v1/deployments/{deployment}", "/v1/builds/{build}", "/v1/apps/{app}/logs"] {
        let mut times = [Vec::new(), Vec::new()];
        for pair in 0..2 * PAIRS {
            let exists = pair % 2 == 0;
            let request =
                Request::builder().uri(path(template, exists)).header("authorization", format!("Bearer {token}"));
            let request = request.body(Body::empty()).expect("a request");
            let begun = std::time::Instant::now();
            let response = router.clone().oneshot(request).await.expect("infallible");
            let took = begun.elapsed();
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            times[usize::from(exists)].push(took);
        }
        let [missing, foreign] = times.map(|mut times| {
            times.sort();
            times[PAIRS / 2].as_secs_f64()
        });
        let ratio = foreign / missing;
        println!("{template}: {:.0} us when it is of others, {ratio:.2} times that of nothing", foreign * 1e6);
        assert!((0.8..1.25).contains(&ratio), "{template}: {foreign} s against {missing} s");
    }
}

#[tokio::test]
async fn a_log_line_of_another_app_is_out_of_reach_even_by_its_deployment() {
    let harness = Harness::new().await;
    let people = people();
    let state = state(&people);
    let token = token_of_the_stranger(&state, &people);
    let router = harness.router(state);
    let request = |method: &str, path: String, body: Value| {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        request.header("content-type", "application/json").body(Body::from(body.to_string())).expect("a request")
    };
    let made = router.clone().oneshot(request("POST", "/v1/apps".to_owned(), json!({"name": "mine"}))).await;
    assert_eq!(made.expect("infallible").status(), 201);
    let foreign = Uuid::from_u128(9);
    for path in ["logs", "logs/stream"] {
        let path = format!("/v1/apps/mine/{path}?deployment_id={foreign}");
        let got = router.clone().oneshot(request("GET", path, Value::Null)).await.expect("infallible");
        assert_eq!(got.status(), 404);
    }
}
