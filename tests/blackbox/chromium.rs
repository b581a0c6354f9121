//! What a page can do in a real browser.

use serde_json::{Value, json};

use crate::harness::{
    database::Database,
    keys,
    page::Page,
    server::{Options, Server},
};

/// Functions for scripts. `answered` gives what a page sees of an answer, or that it sees none.
const TOOLS: &str = r#"
const answered = async (method, path, options = {}) => {
  try {
    const answer = await fetch(server + path, {method, ...options});
    const text = await answer.text();
    return {type: answer.type, status: answer.status, text, request: answer.headers.get('x-request-id')};
  } catch (error) { return 'nothing'; }
};
const json = (body, headers = {}) => ({body: JSON.stringify(body), headers: {'content-type': 'application/json', ...headers}});
const opened = (make, message) => new Promise(done => {
  const source = make();
  source[message] = () => done('opened');
  source.onerror = () => done('nothing');
});
"#;

/// Everything that a page of another origin may try, with and without a question of the browser before it.
const TRIES: &str = r#"
const begin = {model: 'echo', input: 'from a page'};
seen.begin = await answered('POST', '/v1/responses', json(begin));
seen.begin_as_text = await answered('POST', '/v1/responses', {body: JSON.stringify(begin), mode: 'no-cors'});
seen.begin_unread = await answered('POST', '/v1/responses', {...json(begin), mode: 'no-cors'});
seen.delete = await answered('DELETE', `/v1/responses/${id}`);
seen.cancel = await answered('POST', `/v1/responses/${id}/cancel`);
seen.cancel_unread = await answered('POST', `/v1/responses/${id}/cancel`, {mode: 'no-cors'});
seen.cancel_as_admin = await answered('POST', `/admin/runs/${id}/cancel`, {mode: 'no-cors'});
navigator.sendBeacon(`${server}/v1/responses/${id}/cancel`);
const form = document.createElement('form');
const frame = document.createElement('iframe');
frame.name = form.target = 'frame';
Object.assign(form, {method: 'POST', action: `${server}/v1/responses/${id}/cancel`});
document.body.append(frame, form);
await new Promise(done => { frame.onload = done; form.submit(); });
seen.read = await answered('GET', `/v1/responses/${id}`);
seen.read_all = await answered('GET', '/admin/runs');
seen.read_unseen = await answered('GET', `/v1/responses/${id}`, {mode: 'no-cors'});
seen.stream = await opened(() => new EventSource(`${server}/v1/responses/${id}?stream=true`), 'onopen');
seen.socket = await opened(() => new WebSocket(`${server.replace('http', 'ws')}/v1/responses`), 'onopen');
seen.script = await new Promise(done => {
  const script = document.createElement('script');
  script.src = `${server}/v1/responses/${id}`;
  script.onload = () => done('run');
  script.onerror = () => done('nothing');
  document.body.append(script);
});
"#;

fn script(server: &Server, id: &str, body: &str) -> String {
    format!("const server = {}, id = {};\n{TOOLS}\n{body}", json!(server.url()), json!(id))
}

/// A run that goes on for longer than the test.
async fn begun(server: &Server, client: &crate::harness::client::Client) -> String {
    let slow = json!({"model": "echo", "input": "a b c", "metadata": {"delay_ms": "10000"}, "background": true});
    let id = client.post(slow).await.response()["id"].as_str().unwrap().to_owned();
    assert_eq!(server.response_ids().await, std::slice::from_ref(&id));
    id
}

/// What a page sees of what the browser does not let it see.
fn hidden(seen: &Value) -> bool {
    seen == "nothing" || (seen["type"] == "opaque" && seen["status"] == 0 && seen["text"] == "")
}

#[tokio::test]
async fn a_foreign_page_begins_reads_and_ends_nothing() {
    let page = Page::start().await;
    // Without keys; and with keys, for a page that has none.
    for server in [Server::start(Database::Sqlite), crate::auth::with_keys(Database::Sqlite)] {
        let client = keys::client(&server, "ann");
        let id = begun(&server, &client).await;
        let Some(seen) = page.opened("evil.example", &script(&server, &id, TRIES)).await else { return };
        let all = seen.as_object().unwrap();
        assert_eq!(all.len(), 13, "{seen}");
        for (what, seen) in all {
            assert!(hidden(seen), "{what}: {seen}");
        }
        assert_eq!(client.response(&id).await["status"], "in_progress");
        assert_eq!(server.response_ids().await, [id]);
    }
}

#[tokio::test]
async fn a_page_whose_name_is_made_to_lead_to_the_server_is_not_answered() {
    let page = Page::start().await;
    let server = Server::start(Database::Sqlite);
    let id = begun(&server, &server.client()).await;
    page.lead_to(server.address());
    // The page and the server are of one origin now.
    let tries = format!(
        "const server = '', id = {};\n{TOOLS}\n\
         seen.begin = await answered('POST', '/v1/responses', json({{model: 'echo', input: 'from a page'}}));\n\
         seen.read = await answered('GET', `/v1/responses/${{id}}`);\n\
         seen.read_all = await answered('GET', '/admin/runs');\n\
         seen.cancel = await answered('POST', `/v1/responses/${{id}}/cancel`);",
        json!(id)
    );
    let Some(seen) = page.opened("evil.example", &tries).await else { return };
    for what in ["begin", "read", "read_all", "cancel"] {
        assert_eq!(seen[what]["status"], 421, "{what}: {seen}");
        assert!(!seen[what]["text"].as_str().unwrap().contains(&*id));
    }
    assert_eq!(server.client().response(&id).await["status"], "in_progress");
    assert_eq!(server.response_ids().await, std::slice::from_ref(&id));
}

#[tokio::test]
async fn a_page_that_the_operator_names_does_all_with_a_key_and_another_nothing() {
    let page = Page::start().await;
    let named = page.origin("app.example");
    let config = format!("cors_origins = [\"{named}\"]\n{}", keys::entry("ann"));
    let server = Server::start(Options::new(Database::Sqlite).config(&config));
    let ann = keys::client(&server, "ann");
    let uses = r#"
const key = {authorization: 'Bearer key-ann'};
seen.begin = await answered('POST', '/v1/responses', json({model: 'echo', input: 'from a page'}, key));
const begun = seen.begin === 'nothing' ? id : JSON.parse(seen.begin.text).id;
seen.stream = await answered('GET', `/v1/responses/${begun}?stream=true`, {headers: key});
seen.cancel = await answered('POST', `/v1/responses/${id}/cancel`, {headers: key});
seen.delete = await answered('DELETE', `/v1/responses/${begun}`, {headers: key});
seen.gone = await answered('GET', `/v1/responses/${begun}`, {headers: key});
seen.keyless = await answered('GET', '/v1/models');
"#;
    let id = begun(&server, &ann).await;
    let Some(seen) = page.opened("evil.example", &script(&server, &id, uses)).await else { return };
    for (what, seen) in seen.as_object().unwrap() {
        assert!(hidden(seen), "{what}: {seen}");
    }
    assert_eq!(ann.response(&id).await["status"], "in_progress");
    assert_eq!(server.response_ids().await, std::slice::from_ref(&id));

    let seen = page.opened("app.example", &script(&server, &id, uses)).await.unwrap();
    for (what, status) in
        [("begin", 200), ("stream", 200), ("cancel", 200), ("delete", 200), ("gone", 404), ("keyless", 401)]
    {
        let seen = &seen[what];
        assert_eq!((&seen["type"], &seen["status"]), (&json!("cors"), &json!(status)), "{what}: {seen}");
        assert!(seen["request"].is_string(), "{what}: {seen}");
    }
    assert!(seen["begin"]["text"].as_str().unwrap().contains("from a page"));
    assert!(seen["stream"]["text"].as_str().unwrap().ends_with("data: [DONE]\n\n"));
    assert_eq!(ann.response(&id).await["status"], "cancelled");
}
