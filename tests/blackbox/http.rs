//! HTTP requests of agents: to where the operator allows and nowhere else, and once, also when the server is killed.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    database::{Database, both_databases},
    events::{self, Event, text},
    fold::fold,
    metrics::{eventually, metrics},
    plugins, process,
    server::{Options, Server},
    wait,
    web::{Recorded, Web, endless_header, get, post},
};

both_databases!(
    an_answer_is_not_asked_for_twice,
    a_request_that_only_asks_is_sent_again,
    a_request_of_unknown_effect_is_interrupted,
    a_request_that_is_marked_idempotent_is_sent_again_with_its_key,
    what_came_first_comes_first_again,
    nothing_with_an_effect_is_sent_before_it_is_in_the_journal,
    a_run_with_an_open_request_stays_in_memory_until_it_is_answered,
    a_drain_leaves_a_request_to_the_next_start,
    a_cancel_ends_a_request,
);

/// A server with the component `hostile`, which may reach what `grant` says.
pub(super) fn hostile(database: Database, grant: &str) -> (Server, TempDir) {
    with(Options::new(database), grant)
}

fn with(options: Options, grant: &str) -> (Server, TempDir) {
    let folder = plugins::hostile_folder();
    (Server::start(options.plugins(folder.path()).config(&format!("[agents.hostile.http]\n{grant}"))), folder)
}

/// May reach this server, and nothing else.
pub(super) fn only(web: &Web) -> String {
    format!("hosts = [\"{}\"]\nprivate = true", web.address())
}

pub(super) fn request(behaviour: &str, arguments: impl std::fmt::Display) -> Value {
    json!({"model": "hostile", "input": format!("{behaviour} {arguments}")})
}

/// What comes of a request that a component sends.
pub(super) async fn outcome(server: &Server, wanted: &Value) -> Value {
    let events = server.client().stream(request("http", wanted)).await.rest().await;
    assert_eq!(fold(&events)["status"], "completed", "{:?}", fold(&events));
    serde_json::from_str(&text(&events)).unwrap()
}

/// The failure that comes of it: its kind, code and message.
pub(super) async fn failure(server: &Server, wanted: &Value) -> (String, String, String) {
    let outcome = outcome(server, wanted).await;
    let word = |key: &str| outcome[key].as_str().unwrap_or_else(|| panic!("{outcome}")).to_owned();
    (word("kind"), word("code"), word("message"))
}

pub(super) async fn seen(web: &Web, path: &str, times: usize) {
    wait::eventually(format!("{times} requests for {path}"), async || (web.count(path) == times).then_some(())).await;
}

/// Begins a run, and kills and restarts the server once the web server has seen a request for `path`. Gives the events to
/// the end of the run.
async fn killed_at(server: &mut Server, web: &Web, path: &str, run: Value) -> Vec<Event> {
    let mut stream = server.client().stream(run).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    seen(web, path, 1).await;
    server.kill9();
    web.release();
    server.restart();
    server.client().get_stream(&id, None).await.rest().await
}

pub(super) fn key(request: &Recorded) -> &str {
    &request.headers["idempotency-key"]
}

/// Whoever is told a key learns nothing of the run by it.
fn assert_opaque(key: &str, id: &str) {
    let random = id.trim_start_matches("resp_");
    assert!(
        key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) && !key.contains(random),
        "{key} of {id}"
    );
}

async fn an_answer_is_not_asked_for_twice(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = hostile(database, &only(&web));
    let hold = request("http-hold", format!("1500 {}", post(web.url("/orders"))));
    let mut stream = server.client().stream(hold).await;
    let before = stream.until(|event| event.kind == "response.output_item.done").await;
    let id = events::response_id(&before);
    for _ in 0..2 {
        server.restart();
    }
    let all = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(all[..before.len()], before);
    let answer: Value = serde_json::from_str(text(&all).strip_suffix("done").unwrap()).unwrap();
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!("hello")));
    let requests = web.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!((&*requests[0].method, &*requests[0].path, &*requests[0].body), ("POST", "/orders", "order"));
    assert_opaque(key(&requests[0]), &id);
}

async fn a_request_that_only_asks_is_sent_again(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = hostile(database, &only(&web));
    let events = killed_at(&mut server, &web, "/stall", request("http", get(web.url("/stall")))).await;
    assert_eq!(serde_json::from_str::<Value>(&text(&events)).unwrap()["body"], "released");
    assert_eq!(web.count("/stall"), 2);
    assert!(web.requests().iter().all(|request| !request.headers.contains_key("idempotency-key")));
}

async fn a_request_of_unknown_effect_is_interrupted(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = hostile(database, &only(&web));
    let events = killed_at(&mut server, &web, "/stall", request("http", post(web.url("/stall")))).await;
    let failure: Value = serde_json::from_str(&text(&events)).unwrap();
    assert_eq!((&failure["kind"], &failure["code"]), (&json!("interrupted"), &json!("interrupted")));
    assert_eq!(fold(&events)["status"], "completed", "the component decides");
    assert_eq!(web.requests().len(), 1);
    let ended = "outlast_agent_requests_ended_total{agent=\"hostile\",outcome=\"interrupted\"}";
    assert_eq!(metrics(&server.client()).await.value(ended), 1.0);
}

async fn a_request_that_is_marked_idempotent_is_sent_again_with_its_key(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = hostile(database, &only(&web));
    let mut wanted = post(web.url("/stall"));
    wanted["options"] = json!({"idempotent": true});
    // The other one, which is answered, has another key.
    let both = json!([post(web.url("/first")), wanted]);
    let events = killed_at(&mut server, &web, "/stall", request("http-race", format!("0 {both}"))).await;
    assert!(text(&events).contains("released"), "{}", text(&events));
    let requests = web.requests();
    let [first, one, two] = &requests[..] else { panic!("{requests:?}") };
    let (first, one, two) = if first.path == "/first" { (first, one, two) } else { (one, first, two) };
    assert_eq!(one, two);
    assert_ne!(key(one), key(first));
    let id = events::response_id(&events);
    assert_opaque(key(one), &id);
    assert_opaque(key(first), &id);
}

async fn what_came_first_comes_first_again(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = hostile(database, &only(&web));
    let all = json!([get(web.url("/stall")), get(web.url("/quick")), get("http://127.0.0.1:1/")]);
    // The third is refused, and ends the run: it is not allowed.
    let refused = fold(&server.client().stream(request("http-race", format!("0 {all}"))).await.rest().await);
    assert_eq!(refused["status"], "failed");
    assert!(refused["error"]["message"].as_str().unwrap().contains("hosts = [\"127.0.0.1:1\"]"), "{refused}");

    let (quick, stall) = (web.count("/quick"), web.count("/stall"));
    let both = json!([get(web.url("/stall")), get(web.url("/quick"))]);
    let mut stream = server.client().stream(request("http-race", format!("0 {both}"))).await;
    let mut before = stream.until_delta(1).await;
    let id = events::response_id(&before);
    seen(&web, "/stall", stall + 1).await;
    server.kill9();
    before.extend(stream.rest_or_cut().await);
    web.release();
    // Now nothing is slow any more.
    server.restart();
    let events = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(events[..before.len()], before);
    let places: Vec<_> = text(&events).lines().map(|line| line[..1].to_owned()).collect();
    assert_eq!(places, ["1", "0"]);
    assert_eq!((web.count("/quick"), web.count("/stall")), (quick + 1, stall + 2));
}

async fn nothing_with_an_effect_is_sent_before_it_is_in_the_journal(database: Database) {
    let web = Web::start().await;
    let (server, _folder) = hostile(database, &only(&web));
    let mut stream = server.client().stream(request("http", post(web.url("/stall")))).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    seen(&web, "/stall", 1).await;
    assert_eq!(server.entries(&id).await, ["http.send"]);
    web.release();
    stream.rest().await;
}

#[tokio::test]
async fn what_only_asks_does_not_wait_for_the_database() {
    let web = Web::start().await;
    let (server, _folder) = with(Options::new(Database::Sqlite).survives_full_disk(), &only(&web));
    let both = json!([post(web.url("/effect")), get(web.url("/asked"))]);
    let mut stream = server.client().stream(request("http-race", format!("3000 {both}"))).await;
    let mut events = stream.until(|event| event.number == 1).await;
    let id = events::response_id(&events);
    wait::eventually("the sleep is committed", async || (!server.entries(&id).await.is_empty()).then_some(())).await;
    server.forbid_writes(true);
    seen(&web, "/asked", 1).await;
    assert_eq!(web.count("/effect"), 0);
    server.forbid_writes(false);
    seen(&web, "/effect", 1).await;
    events.extend(stream.rest().await);
    assert_eq!(fold(&events)["status"], "completed");
}

async fn a_run_with_an_open_request_stays_in_memory_until_it_is_answered(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = {
        let folder = plugins::hostile_folder();
        let grant = format!("[agents.hostile.http]\n{}\n[limits]\nidle_after = \"100ms\"", only(&web));
        (Server::start(Options::new(database).plugins(folder.path()).config(&grant)), folder)
    };
    let run = request("http-beside", format!("4000 {}", post(web.url("/stall"))));
    let mut stream = server.client().stream(run).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    seen(&web, "/stall", 1).await;
    let sleeping = "outlast_runs_live{agent=\"hostile\",state=\"sleeping\"}";
    assert_eq!(metrics(&server.client()).await.value(sleeping), 0.0);
    web.release();
    eventually(&server.client(), sleeping, |runs| runs == 1.0).await;
    let entries = ["http.start", "tasks.sleep", "task.answer"];
    wait::eventually("the answer is committed", async || (server.entries(&id).await == entries).then_some(())).await;
    // It comes back from there in this server, and in the next one.
    server.kill9();
    server.restart();
    let all = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(serde_json::from_str::<Value>(&text(&all)).unwrap()["body"], "released");
    assert_eq!(web.requests().len(), 1);
}

async fn a_drain_leaves_a_request_to_the_next_start(database: Database) {
    let web = Web::start().await;
    let options = Options::new(database).config("drain_timeout = \"50ms\"");
    let (mut server, _folder) = with(options, &only(&web));
    let mut stream = server.client().stream(request("http", get(web.url("/stall")))).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    seen(&web, "/stall", 1).await;
    server.terminate();
    assert!(server.ended().await.success());
    web.release();
    server.restart();
    let all = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(serde_json::from_str::<Value>(&text(&all)).unwrap()["body"], "released");
    assert_eq!(web.count("/stall"), 2);
}

async fn a_cancel_ends_a_request(database: Database) {
    let web = Web::start().await;
    let (server, _folder) = hostile(database, &only(&web));
    let mut stream = server.client().stream(request("http", get(web.url("/stall")))).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    seen(&web, "/stall", 1).await;
    assert_eq!(server.client().cancel(&id).await.response()["status"], "cancelled");
    let cancelled = "outlast_agent_requests_ended_total{agent=\"hostile\",outcome=\"cancelled\"}";
    eventually(&server.client(), cancelled, |requests| requests == 1.0).await;
    let live = "outlast_agent_requests_live{agent=\"hostile\"}";
    assert_eq!(metrics(&server.client()).await.value(live), 0.0);
}

#[tokio::test]
async fn nothing_is_reached_without_a_grant() {
    let web = Web::start().await;
    let folder = plugins::hostile_folder();
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    let (kind, code, message) = failure(&server, &get(web.url("/"))).await;
    assert_eq!((&*kind, &*code), ("denied", "host_not_granted"));
    let line = format!("`hosts = [\"{}\"]` in the section `[agents.hostile.http]`", web.address());
    assert!(message.contains(&line), "{message}");
    server.logged(&["hostile", &line]);
    assert_eq!(web.requests(), []);
}

#[tokio::test]
async fn the_line_that_a_denial_names_allows_it() {
    let web = Web::start().await;
    let (mut server, folder) = hostile(Database::Sqlite, "methods = [\"GET\"]");
    let mut lines = vec!["methods = [\"GET\"]".to_owned()];
    for (code, line) in [
        ("host_not_granted", format!("hosts = [\"{}\"]", web.address())),
        ("method_not_granted", "methods = [\"POST\"]".to_owned()),
        ("address_not_granted", "private = true".to_owned()),
    ] {
        let (kind, denied, message) = failure(&server, &post(web.url("/"))).await;
        assert_eq!((&*kind, &*denied), ("denied", code), "{message}");
        assert!(message.contains(&format!("`{line}`")), "{message}");
        lines.retain(|other| other.split(' ').next() != line.split(' ').next());
        lines.push(line);
        let grant = format!("[agents.hostile.http]\n{}", lines.join("\n"));
        server.restart_with(Options::new(Database::Sqlite).plugins(folder.path()).config(&grant));
    }
    assert_eq!(outcome(&server, &post(web.url("/"))).await["body"], "hello");
    assert_eq!(web.requests().len(), 1);
}

#[tokio::test]
async fn addresses_that_are_near_are_refused_however_they_are_named() {
    let web = Web::start().await;
    let (server, _folder) = hostile(Database::Sqlite, &format!("hosts = [\"*:{}\", \"*\"]", web.port()));
    let port = web.port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://LOCALHOST:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://[::ffff:7f00:1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "http://100.64.0.1/".to_owned(),
        "http://[fd00:ec2::254]/".to_owned(),
        "http://[fe80::1]/".to_owned(),
    ] {
        let (kind, code, message) = failure(&server, &get(&url)).await;
        assert_eq!((&*kind, &*code), ("denied", "address_not_granted"), "{url}: {message}");
        assert!(message.contains("private = true"), "{message}");
    }
    assert_eq!(web.requests(), []);
}

#[tokio::test]
async fn a_name_that_leads_to_a_granted_network_is_reached() {
    let web = Web::start().await;
    let grant = format!("hosts = [\"localhost:{}\"]\nprivate = [\"127.0.0.0/8\"]", web.port());
    let (server, _folder) = hostile(Database::Sqlite, &grant);
    let answer = outcome(&server, &get(format!("http://localhost:{}/a#b", web.port()))).await;
    assert_eq!(
        (&answer["body"], &answer["url"]),
        (&json!("hello"), &json!(format!("http://localhost:{}/a", web.port())))
    );
    let (_, code, _) = failure(&server, &get(web.url("/"))).await;
    assert_eq!(code, "host_not_granted");
}

#[tokio::test]
async fn every_hop_of_a_redirect_is_checked() {
    let (web, other, near) = (Web::start().await, Web::start().await, Web::start_at("127.0.0.2").await);
    let grant = format!(
        "hosts = [\"{}\", \"{}\"]\nmethods = [\"GET\", \"POST\"]\nprivate = [\"127.0.0.1\"]",
        web.address(),
        near.address()
    );
    let (server, _folder) = hostile(Database::Sqlite, &grant);
    let redirect = |status: u16, to: &str| get(web.url(&format!("/redirect/{status}?to={to}")));
    let (_, code, message) = failure(&server, &redirect(302, &other.url("/"))).await;
    assert_eq!(code, "host_not_granted");
    assert!(message.contains(other.address()), "{message}");
    let (_, code, _) = failure(&server, &redirect(302, &near.url("/"))).await;
    assert_eq!(code, "address_not_granted");
    for nowhere in ["file:///etc/passwd", "gopher://127.0.0.1/", "http://"] {
        assert_eq!(failure(&server, &redirect(301, nowhere)).await.1, "invalid_redirect", "{nowhere}");
    }
    assert_eq!((other.requests(), near.requests()), (vec![], vec![]));

    let answer = outcome(&server, &redirect(302, "/end")).await;
    assert_eq!((&answer["body"], &answer["url"]), (&json!("hello"), &json!(web.url("/end"))));
    let mut plain = redirect(302, "/end");
    plain["options"] = json!({"redirects": 0});
    assert_eq!(outcome(&server, &plain).await["status"], 302);
    let around = web.url("/redirect/302?to=");
    let circle = format!("{around}/redirect/302?to=/redirect/302?to=/end");
    let mut twice = get(&circle);
    twice["options"] = json!({"redirects": 1});
    assert_eq!(failure(&server, &twice).await.1, "too_many_redirects");
}

#[tokio::test]
async fn what_is_sent_again_behind_a_redirect_is_what_the_status_says() {
    let (web, other) = (Web::start().await, Web::start().await);
    let grant = format!("hosts = [\"{}\", \"{}\"]\nprivate = true", web.address(), other.address());
    let (server, _folder) = hostile(Database::Sqlite, &grant);
    for (status, method, body) in [(302, "GET", ""), (303, "GET", ""), (307, "POST", "order"), (308, "POST", "order")] {
        for (to, credentials) in [(web.url("/end"), true), (other.url("/end"), false)] {
            let mut wanted = post(web.url(&format!("/redirect/{status}?to={to}")));
            wanted["headers"] =
                json!([["authorization", "mine"], ["cookie", "a=b"], ["x-other", "c"], ["accept", "text/plain"]]);
            assert_eq!(outcome(&server, &wanted).await["status"], 200);
            let requests = if credentials { web.requests() } else { other.requests() };
            let last = requests.last().unwrap();
            assert_eq!((&*last.method, &*last.body), (method, body), "{status}");
            assert_eq!(last.headers.contains_key("authorization"), credentials, "{status} {to}");
            assert_eq!(last.headers.contains_key("cookie"), credentials, "{status} {to}");
            assert_eq!(last.headers.contains_key("x-other"), credentials, "it may be a key: {status} {to}");
            assert_eq!(last.headers["accept"], "text/plain");
        }
    }
}

#[tokio::test]
async fn secrets_are_the_operators() {
    let (web, other) = (Web::start().await, Web::start().await);
    let grant = format!(
        "hosts = [\"{0}\", \"{1}\"]\nprivate = true\n[agents.hostile.http.secrets.\"http://{0}\"]\nauthorization = \
         \"Bearer ${{TOKEN}}\"\nx-key = \"literally\"",
        web.address(),
        other.address()
    );
    let token = "t0p-s3cret-t0ken";
    let folder = plugins::hostile_folder();
    let options = Options::new(Database::Sqlite)
        .plugins(folder.path())
        .env("TOKEN", token)
        .config(&format!("log = \"info,outlast=trace,plugin=trace,hyper=trace,hyper_util=trace,reqwest=trace\"\n[agents.hostile.http]\n{grant}"));
    let server = Server::start(options);
    let mut wanted = get(web.url("/echo"));
    wanted["headers"] = json!([["Authorization", "mine"], ["X-Key", "mine"], ["x-mine", "mine"]]);
    let answer = outcome(&server, &wanted).await;
    // It is sent in place of the component's, and taken out of what the other side tells.
    let sent = web.requests().pop().unwrap().headers;
    assert_eq!(
        (&*sent["authorization"], &*sent["x-key"], &*sent["x-mine"]),
        ("Bearer t0p-s3cret-t0ken", "literally", "mine")
    );
    assert!(answer["headers"].as_array().unwrap().contains(&json!(["x-echo", "Bearer [secret]"])), "{answer}");
    let told: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    assert_eq!((&told["authorization"], &told["x-key"]), (&json!("Bearer [secret]"), &json!("[secret]")));
    // Another host gets the component's, and behind a redirect neither.
    wanted["url"] = json!(other.url("/echo"));
    outcome(&server, &wanted).await;
    assert_eq!(other.requests().pop().unwrap().headers["authorization"], "mine");
    wanted["url"] = json!(web.url(&format!("/redirect/307?to={}", other.url("/echo"))));
    outcome(&server, &wanted).await;
    let behind = other.requests().pop().unwrap().headers;
    assert_eq!((behind.get("authorization"), behind.get("x-key")), (None, None));
    // To a place that is not allowed, and to one that is not there.
    wanted["url"] = json!(web.url(&format!("/redirect/307?to=http://127.0.0.1:1/{token}")));
    let (_, _, message) = failure(&server, &wanted).await;
    assert!(!message.contains(token), "{message}");
    assert!(!server.log().contains(token));
}

#[tokio::test]
async fn a_grant_that_is_wrong_is_refused_at_the_start() {
    for (grant, expected) in [
        ("hosts = [\"https://a.test/path\"]", "is not a host"),
        ("hosts = [\"a.test\"]\nmethods = [\"get\"]", "agents.hostile.http.methods: `get` is not a method"),
        ("private = [\"10.0.0.0/99\"]", "is not a network"),
        ("private = \"yes\"", "true, false, or a list of networks"),
        ("secrets.\"a.test\".authorization = \"${NOT_SET_ANYWHERE}\"", "NOT_SET_ANYWHERE, which is not set"),
        ("secrets.\"a.test\".\"a b\" = \"x\"", "not valid for a header"),
        ("allow = true", "allow"),
    ] {
        let options = Options::new(Database::Sqlite).config(&format!("[agents.hostile.http]\n{grant}"));
        let (status, error) = Server::refused(options);
        assert!(!status.success());
        assert!(error.contains(expected), "{grant}: {error}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let web = Web::start().await;
    let (server, _folder) = hostile(Database::Sqlite, &only(&web));
    let header = |name: &str, value: &str| json!({"url": web.url("/"), "headers": [[name, value]]});
    for (wanted, code) in [
        (get("ftp://127.0.0.1/"), "invalid_url"),
        (get("/relative"), "invalid_url"),
        (get(format!("http://user:pass@{}/", web.address())), "invalid_url"),
        (json!({"url": web.url("/"), "method": "GET / HTTP/1.1\r\nx: y\r\n\r\nGET"}), "invalid_method"),
        (json!({"url": web.url("/"), "method": "CONNECT"}), "invalid_method"),
        (header("Host", "other.test"), "forbidden_header"),
        (header("Content-Length", "0"), "forbidden_header"),
        (header("Transfer-Encoding", "chunked"), "forbidden_header"),
        (header("x", "y\r\nhost: other.test"), "invalid_header"),
        (header("x\r\nhost", "other.test"), "invalid_header"),
        (json!({"url": web.url("/"), "options": {"timeout_ms": 0}}), "invalid_options"),
    ] {
        let (kind, found, message) = failure(&server, &wanted).await;
        assert_eq!((&*kind, &*found), ("invalid", code), "{wanted}: {message}");
    }
    assert_eq!(web.requests(), []);
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_name() {
    let web = Web::start().await;
    let folder = plugins::hostile_folder();
    let config = format!(
        "[agents.hostile.http]\n{}\n[limits]\nhttp_request_bytes = 2000\nhttp_response_bytes = 2000\n\
         http_header_bytes = 1000\nhttp_headers = 20",
        only(&web)
    );
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()).config(&config));
    let large = request("http-large", format!("3000 {}", post(web.url("/"))));
    let said = text(&server.client().stream(large).await.rest().await);
    let (header, body) = said.split_once('\n').unwrap();
    assert!(header.contains("limits.http_header_bytes"), "{header}");
    assert!(body.contains("limits.http_request_bytes"), "{body}");
    assert_eq!(web.requests(), []);
    assert_eq!(outcome(&server, &get(web.url("/bytes/2000"))).await["status"], 200);
    assert_eq!(outcome(&server, &get(web.url("/chunks/1024"))).await["status"], 200);
    for (path, limit) in [
        ("/bytes/2001", "limits.http_response_bytes"),
        ("/chunks/1000000000", "limits.http_response_bytes"),
        ("/headers/50", "limits.http_header_bytes"),
    ] {
        let (kind, _, message) = failure(&server, &get(web.url(path))).await;
        assert_eq!(kind, "limit", "{path}: {message}");
        assert!(message.contains(limit), "{path}: {message}");
    }
}

#[tokio::test]
async fn a_header_of_a_gigabyte_is_not_read() {
    let (address, taken) = endless_header().await;
    let grant = format!("hosts = [\"{address}\"]\nprivate = true");
    let (server, _folder) = hostile(Database::Sqlite, &grant);
    let before = process::rss(server.id());
    let (kind, _, message) = failure(&server, &get(format!("http://{address}/"))).await;
    assert_eq!(kind, "limit", "{message}");
    assert!(message.contains("limits.http_header_bytes"), "{message}");
    assert!(*taken.lock() < 64 << 20, "{}", taken.lock());
    assert!(process::rss(server.id()) < before + (64 << 10));
}

#[tokio::test]
async fn a_slow_server_is_not_waited_for() {
    let web = Web::start().await;
    let (server, _folder) = hostile(Database::Sqlite, &only(&web));
    let mut wanted = get(web.url("/stall"));
    wanted["options"] = json!({"timeout_ms": 200});
    let (kind, code, message) = failure(&server, &wanted).await;
    assert_eq!((&*kind, &*code), ("timeout", "timeout"));
    assert!(message.contains("200 ms"), "{message}");
    // A component may wait less than that, too.
    let mut stream = server.client().stream(request("http-at-most", format!("100 {}", get(web.url("/stall"))))).await;
    assert_eq!(text(&stream.rest().await), "[1]");
    // An answer is one, whatever its status.
    assert_eq!(outcome(&server, &get(web.url("/status/503"))).await["status"], 503);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let (server, _folder) = hostile(Database::Sqlite, "hosts = [\"127.0.0.1:1\", \"nowhere.invalid\"]\nprivate = true");
    for url in ["http://127.0.0.1:1/", "http://nowhere.invalid/"] {
        let (kind, code, message) = failure(&server, &get(url)).await;
        assert_eq!((&*kind, &*code), ("unavailable", "unreachable"), "{message}");
    }
}

#[tokio::test]
async fn so_many_requests_are_open_at_once_and_no_more() {
    let web = Web::start().await;
    let (server, _folder) = hostile(Database::Sqlite, &only(&web));
    let flood = request("http-flood", format!("100 {}", get(web.url("/stall"))));
    let said = text(
        &wait::within(Duration::from_secs(30), "the flood", async { server.client().stream(flood).await.rest().await })
            .await,
    );
    assert!(said.starts_with("16 ") && said.contains("too_many_requests"), "{said}");
    assert!(said.contains("limits.http_requests"), "{said}");
    // They were given up with the run.
    let live = "outlast_agent_requests_live{agent=\"hostile\"}";
    eventually(&server.client(), live, |requests| requests == 0.0).await;
}

#[tokio::test]
async fn more_requests_than_may_be_open_are_sent_in_turn() {
    let web = Web::start().await;
    let (server, _folder) = hostile(Database::Sqlite, &only(&web));
    let all = request("http-all", format!("50 {}", web.url("/say")));
    let said = text(&server.client().stream(all).await.rest().await);
    let expected: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), expected);
    assert_eq!(web.requests().len(), 50);
}

#[tokio::test]
async fn an_answer_is_taken_once() {
    let web = Web::start().await;
    let (server, _folder) = hostile(Database::Sqlite, &only(&web));
    let said = text(&server.client().stream(request("http-misuse", get(web.url("/")))).await.rest().await);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("already_taken"), "{said}");
    assert_eq!(lines[1], "[0] [0]");
    assert!(lines[2].contains("no_tasks"), "{said}");
}

#[tokio::test]
async fn a_run_that_is_not_kept_sends_requests_too() {
    let web = Web::start().await;
    let (server, _folder) = hostile(Database::Sqlite, &only(&web));
    let mut run = request("http", post(web.url("/orders")));
    run["store"] = json!(false);
    let events = server.client().stream(run).await.rest().await;
    assert_eq!(serde_json::from_str::<Value>(&text(&events)).unwrap()["body"], "hello");
    assert_opaque(key(&web.requests()[0]), &events::response_id(&events));
}
