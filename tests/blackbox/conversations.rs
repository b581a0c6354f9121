//! Conversations: names and ids, the checkpoint and the write guard, items.

use std::collections::HashSet;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    client::{Answer, Client},
    database::{Database, both_databases},
    events, keys, plugins,
    server::{Options, Server},
};

both_databases!(
    a_conversation_remembers_every_turn_once,
    only_a_completed_response_moves_the_checkpoint,
    while_a_response_is_active_everything_else_is_refused,
    of_many_first_requests_one_begins,
    a_repeated_request_is_answered_while_its_run_holds_the_conversation,
    a_conversation_stays_busy_over_kill_9_until_its_run_ends,
    what_is_not_stored_reads_and_leaves_no_trace,
    a_deleted_checkpoint_is_cleared,
    a_conversation_that_is_deleted_stays_deleted,
    a_conversation_is_made_read_changed_and_deleted,
    items_are_added_listed_and_deleted,
    a_conversation_is_its_principals_own,
    a_stored_item_is_referred_to,
    a_long_history_is_refused_by_its_limit,
    a_large_history_is_refused_before_it_is_read,
);

/// A server with the agent `hostile`, which can say what it is told of earlier turns.
fn server(database: Database) -> (Server, tempfile::TempDir) {
    let folder = plugins::hostile_folder();
    (Server::start(Options::new(database).plugins(folder.path())), folder)
}

async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Answer {
    client.send(client.request(method, path).json(body)).await
}

async fn create(client: &Client, body: Value) -> Value {
    send(client, Method::POST, "/v1/conversations", &body).await.ok()
}

fn turn(conversation: &str, input: &str) -> Value {
    json!({"model": "echo", "input": input, "conversation": conversation})
}

fn slow(conversation: &str) -> Value {
    json!({"model": "echo", "input": "a b", "conversation": conversation, "metadata": {"delay_ms": "10000"}})
}

/// What an agent is told of the turns before.
async fn history(client: &Client, conversation: &str) -> String {
    let body = json!({"model": "hostile", "input": "history", "conversation": conversation, "store": false});
    client.post(body).await.response()["output"][0]["content"][0]["text"].as_str().unwrap().to_owned()
}

async fn pointers(client: &Client, conversation: &str) -> (Value, Value) {
    let body = client.get_path(&format!("/v1/conversations/{conversation}")).await.ok();
    (body["latest_completed_response_id"].clone(), body["active_response_id"].clone())
}

async fn a_conversation_remembers_every_turn_once(database: Database) {
    let (mut server, _folder) = server(database);
    let client = server.client();
    let made = create(&client, json!({})).await["id"].as_str().unwrap().to_owned();
    for id in ["a name", &made] {
        let first = client.post(turn(id, "first")).await.response();
        assert_eq!(first["conversation"], json!({"id": id}));
        let object = json!({"model": "echo", "input": "second", "conversation": {"id": id}});
        let events = client.stream(object).await.rest().await;
        assert_eq!(events.last().unwrap().data["response"]["conversation"], json!({"id": id}));
        let expected = "user: first\nassistant: first\nuser: second\nassistant: second";
        assert_eq!(history(&client, id).await, expected);
        assert_eq!(pointers(&client, id).await, (events::response_id(&events).into(), Value::Null));
    }
    server.restart();
    let client = server.client();
    client.post(turn(&made, "third")).await.response();
    let long = history(&client, &made).await;
    assert_eq!(long.lines().count(), 6, "{long}");
    assert!(long.ends_with("user: third\nassistant: third"), "{long}");
}

async fn only_a_completed_response_moves_the_checkpoint(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let first = client.post(turn("c", "first")).await.response();
    let failed = json!({"model": "hostile", "input": "fail", "conversation": "c"});
    assert_eq!(client.run(failed).await["status"], "failed");
    let id = events::response_id(&client.stream(slow("c")).await.until_delta(1).await);
    assert_eq!(pointers(&client, "c").await, (first["id"].clone(), json!(id)));
    client.cancel(&id).await.response();
    assert_eq!(pointers(&client, "c").await, (first["id"].clone(), Value::Null));
    assert_eq!(history(&client, "c").await, "user: first\nassistant: first");
}

async fn while_a_response_is_active_everything_else_is_refused(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let mut stream = client.stream(slow("c")).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let with = |field: &str, value: bool| {
        let mut body = turn("c", "other");
        body[field] = value.into();
        body
    };
    let item = json!({"items": [{"role": "user", "content": "between"}]});
    let mut refused = vec![send(&client, Method::POST, "/v1/conversations/c/items", &item).await];
    for body in [turn("c", "x"), with("stream", true), with("store", false), with("background", true)] {
        refused.push(client.post(body).await);
    }
    for answer in refused {
        assert_eq!(answer.refused(409, "conversation_response_not_completed"), Some("conversation"));
        assert_eq!(answer.body["error"]["response_id"], id);
        assert_eq!(answer.headers["x-should-retry"], "false");
    }
    assert_eq!(server.response_ids().await, std::slice::from_ref(&id));
    client.cancel(&id).await.response();
    client.post(turn("c", "x")).await.response();
}

async fn of_many_first_requests_one_begins(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let mut body = slow("c");
    body["background"] = true.into();
    let answers = join_all((0..20).map(|_| client.post(body.clone()))).await;
    let (begun, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!(begun.len(), 1);
    for answer in refused {
        answer.refused(409, "conversation_response_not_completed");
        assert_eq!(answer.body["error"]["response_id"], begun[0].body["id"]);
    }
    assert_eq!(server.response_ids().await.len(), 1);
    client.cancel(begun[0].body["id"].as_str().unwrap()).await.response();
}

async fn a_repeated_request_is_answered_while_its_run_holds_the_conversation(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let body = json!({"model": "echo", "input": "a b c", "conversation": "c", "metadata": {"delay_ms": "50"}});
    let request = || client.request(Method::POST, "/v1/responses").header("idempotency-key", "k").json(&body);
    let answers = join_all((0..20).map(|_| client.send(request()))).await;
    let ids: HashSet<String> = answers.into_iter().map(|answer| answer.response()["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(history(&client, "c").await, "user: a b c\nassistant: a b c");
}

async fn a_conversation_stays_busy_over_kill_9_until_its_run_ends(database: Database) {
    let (mut server, _folder) = server(database);
    let first = server.client().post(turn("c", "first")).await.response();
    let mut stream = server.client().stream(slow("c")).await;
    let active = events::response_id(&stream.until_delta(1).await);
    server.restart();
    let client = server.client();
    assert_eq!(pointers(&client, "c").await, (first["id"].clone(), json!(active)));
    client.post(turn("c", "too early")).await.refused(409, "conversation_response_not_completed");
    client.cancel(&active).await.response();
    assert_eq!(pointers(&client, "c").await, (first["id"].clone(), Value::Null));
    client.post(turn("c", "second")).await.response();
    assert_eq!(history(&client, "c").await, "user: first\nassistant: first\nuser: second\nassistant: second");
}

async fn what_is_not_stored_reads_and_leaves_no_trace(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let mut fleeting = turn("c", "fleeting");
    fleeting["store"] = false.into();
    client.post(fleeting.clone()).await.response();
    client.get_path("/v1/conversations/c").await.refused(404, "conversation_not_found");
    let first = client.post(turn("c", "first")).await.response();
    client.post(fleeting).await.response();
    assert_eq!(history(&client, "c").await, "user: first\nassistant: first");
    assert_eq!(pointers(&client, "c").await, (first["id"].clone(), Value::Null));
}

async fn a_deleted_checkpoint_is_cleared(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let first = client.post(turn("c", "first")).await.response();
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    client.send(client.request(Method::DELETE, &path)).await.ok();
    assert_eq!(pointers(&client, "c").await, (Value::Null, Value::Null));
    // What was said stays said.
    assert_eq!(history(&client, "c").await, "user: first\nassistant: first");
    let active = events::response_id(&client.stream(slow("c")).await.until_delta(1).await);
    client.send(client.request(Method::DELETE, &format!("/v1/responses/{active}"))).await.ok();
    client.post(turn("c", "second")).await.response();
}

async fn a_conversation_that_is_deleted_stays_deleted(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let made = create(&client, json!({})).await["id"].as_str().unwrap().to_owned();
    for id in ["c", &made] {
        let active = events::response_id(&client.stream(slow(id)).await.until_delta(1).await);
        let path = format!("/v1/conversations/{id}");
        let deleted = client.send(client.request(Method::DELETE, &path)).await.ok();
        assert_eq!(deleted, json!({"id": id, "object": "conversation.deleted", "deleted": true}));
        assert_eq!(client.response(&active).await["status"], "in_progress");
        client.cancel(&active).await.response();
        client.get_path(&path).await.refused(404, "conversation_not_found");
        client.get_path(&format!("{path}/items")).await.refused(404, "conversation_not_found");
        client.send(client.request(Method::DELETE, &path)).await.refused(404, "conversation_not_found");
    }
    let answer = client.post(turn(&made, "x")).await;
    assert_eq!(answer.refused(404, "conversation_not_found"), Some("conversation"));
    client.post(turn("c", "anew")).await.response();
    assert_eq!(history(&client, "c").await, "user: anew\nassistant: anew");
}

async fn a_conversation_is_made_read_changed_and_deleted(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let items = json!([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]);
    let made = create(&client, json!({"metadata": {"topic": "x"}, "items": items})).await;
    let id = made["id"].as_str().unwrap();
    assert!(id.starts_with("conv_"));
    assert_eq!((&made["object"], &made["metadata"]), (&json!("conversation"), &json!({"topic": "x"})));
    let path = format!("/v1/conversations/{id}");
    assert_eq!(client.get_path(&path).await.ok(), made);
    assert_eq!(history(&client, id).await, "user: hello\nassistant: hi");
    let changed = send(&client, Method::POST, &path, &json!({"metadata": {"topic": "y"}})).await.ok();
    assert_eq!(changed["metadata"], json!({"topic": "y"}));
    for (body, param) in
        [(json!({}), "metadata"), (json!({"metadata": "x"}), "metadata"), (json!({"metadata": {"a": 1}}), "metadata.a")]
    {
        let refused = send(&client, Method::POST, &path, &body).await;
        assert_eq!((refused.status, refused.body["error"]["param"].as_str()), (400, Some(param)));
    }
    let many = vec![json!({"role": "user", "content": "x"}); 21];
    let refused = send(&client, Method::POST, "/v1/conversations", &json!({"items": many})).await;
    assert_eq!(refused.refused(400, "array_above_max_length"), Some("items"));
    for nobody in ["conv_00000000000000000000000000000000", "nobody", "..%2F..", "a%00b", &"x".repeat(300)] {
        client.get_path(&format!("/v1/conversations/{nobody}")).await.refused(404, "conversation_not_found");
    }
}

async fn items_are_added_listed_and_deleted(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let id = create(&client, json!({})).await["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/conversations/{id}/items");
    let items: Vec<Value> = (1..=5).map(|n| json!({"role": "user", "content": format!("m{n}")})).collect();
    let added = send(&client, Method::POST, &path, &json!({"items": items})).await.ok();
    assert_eq!(added["data"].as_array().unwrap().len(), 5);
    let text = |item: &Value| item["content"][0]["text"].as_str().unwrap().to_owned();
    let texts = |page: &Value| page["data"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join(" ");
    for (query, expected, more) in [
        ("", "m5 m4 m3 m2 m1", false),
        ("?limit=2", "m5 m4", true),
        ("?limit=2&order=asc", "m1 m2", true),
        ("?limit=2&order=asc&after=ID2", "m3 m4", true),
        ("?limit=3&order=asc&after=ID2", "m3 m4 m5", false),
        ("?limit=2&after=ID2", "m1", false),
        ("?limit=2&order=asc&before=ID4", "m2 m3", true),
        ("?order=asc&after=ID1&before=ID4", "m2 m3", false),
    ] {
        let mut query = query.to_owned();
        for n in 1..=5 {
            query = query.replace(&format!("ID{n}"), added["data"][n - 1]["id"].as_str().unwrap());
        }
        let page = client.get_path(&format!("{path}{query}")).await.ok();
        assert_eq!((texts(&page).as_str(), page["has_more"].as_bool()), (expected, Some(more)), "{query}");
        assert_eq!(page["first_id"], page["data"][0]["id"]);
    }
    for query in ["?limit=0", "?limit=101", "?order=up", "?after=nobody", "?before=nobody", "?after=%00"] {
        client.get_path(&format!("{path}{query}")).await.refused(400, "invalid_value");
    }
    let third = added["data"][2]["id"].as_str().unwrap();
    assert_eq!(client.get_path(&format!("{path}/{third}")).await.ok(), added["data"][2]);
    let left = client.send(client.request(Method::DELETE, &format!("{path}/{third}"))).await.ok();
    assert_eq!((left["id"].as_str(), left["object"].as_str()), (Some(id.as_str()), Some("conversation")));
    for nobody in [third, "nobody", "%00"] {
        let path = format!("{path}/{nobody}");
        client.get_path(&path).await.refused(404, "item_not_found");
        client.send(client.request(Method::DELETE, &path)).await.refused(404, "item_not_found");
    }
    client.post(turn(&id, "m6")).await.response();
    let page = client.get_path(&format!("{path}?order=asc")).await.ok();
    assert_eq!(texts(&page), "m1 m2 m4 m5 m6 m6");
    for (body, param) in [
        (json!({}), "items"),
        (json!({"items": []}), "items"),
        (json!({"items": [{"role": "nobody", "content": "x"}]}), "items[0].role"),
    ] {
        let refused = send(&client, Method::POST, &path, &body).await;
        assert_eq!((refused.status, refused.body["error"]["param"].as_str()), (400, Some(param)));
    }
    let item = json!({"items": [{"role": "user", "content": "x"}]});
    send(&client, Method::POST, "/v1/conversations/nobody/items", &item).await.refused(404, "conversation_not_found");
}

async fn a_conversation_is_its_principals_own(database: Database) {
    let options =
        ["ann", "bob"].iter().fold(Options::new(database), |options, name| options.config(&keys::entry(name)));
    let server = Server::start(options);
    let (ann, bob) = (keys::client(&server, "ann"), keys::client(&server, "bob"));
    let made = create(&ann, json!({"items": [{"role": "user", "content": "secret"}]})).await;
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/conversations/{id}");
    let item = ann.get_path(&format!("{path}/items")).await.ok()["first_id"].as_str().unwrap().to_owned();
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::POST, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::GET, format!("{path}/items")),
        (Method::POST, format!("{path}/items")),
        (Method::DELETE, format!("{path}/items/{item}")),
    ] {
        let body = json!({"metadata": {}, "items": [{"role": "user", "content": "x"}]});
        send(&bob, method, &path, &body).await.refused(404, "conversation_not_found");
    }
    bob.get_path(&format!("{path}/items/{item}")).await.refused(404, "item_not_found");
    bob.post(turn(id, "x")).await.refused(404, "conversation_not_found");
    // The same name is another conversation.
    let anns = ann.post(turn("c", "x")).await.response();
    let mine = bob.stream(slow("c")).await.until_delta(1).await;
    ann.post(turn("c", "y")).await.response();
    assert_ne!(pointers(&ann, "c").await.0, anns["id"]);
    assert_eq!(pointers(&bob, "c").await, (Value::Null, events::response_id(&mine).into()));
    let output = anns["output"][0]["id"].clone();
    let reference = json!({"model": "echo", "input": [{"type": "item_reference", "id": output}]});
    bob.post(reference).await.refused(404, "item_not_found");
}

async fn a_stored_item_is_referred_to(database: Database) {
    let (server, _folder) = server(database);
    let client = server.client();
    let first = client.post(json!({"model": "echo", "input": "first"})).await.response();
    let path = format!("/v1/responses/{}/input_items", first["id"].as_str().unwrap());
    let said = client.get_path(&path).await.ok()["data"][0].clone();
    let input = json!([{"id": said["id"]}, {"type": "item_reference", "id": first["output"][0]["id"]}, {"role": "user", "content": "second"}]);
    let second = client.post(json!({"model": "echo", "input": input, "conversation": "c"})).await.response();
    assert_eq!(history(&client, "c").await, "user: first\nassistant: first\nuser: second\nassistant: second");
    let path = format!("/v1/responses/{}/input_items?order=asc", second["id"].as_str().unwrap());
    assert_eq!(client.get_path(&path).await.ok()["data"][0], said);
    for nobody in ["msg_000000000000000000000000000000000000", "mine", ""] {
        let answer = client.post(json!({"model": "echo", "input": [{"type": "item_reference", "id": nobody}]})).await;
        assert_eq!(answer.refused(404, "item_not_found"), Some("input[0].id"));
    }
}

async fn a_long_history_is_refused_by_its_limit(database: Database) {
    let server = Server::start(Options::new(database).config("[limits]\nhistory_items = 4"));
    let client = server.client();
    let first = client.post(turn("c", "1")).await.response();
    let second =
        client.post(json!({"model": "echo", "input": "2", "previous_response_id": first["id"]})).await.response();
    let third = json!({"model": "echo", "input": "3", "previous_response_id": second["id"]});
    let third = client.post(third).await.response();
    let fourth = json!({"model": "echo", "input": "4", "previous_response_id": third["id"]});
    assert_eq!(client.post(fourth).await.refused(400, "history_too_long"), Some("previous_response_id"));
    for _ in 0..2 {
        client.post(turn("c", "x")).await.response();
    }
    assert_eq!(client.post(turn("c", "x")).await.refused(400, "history_too_long"), Some("conversation"));
}

async fn a_large_history_is_refused_before_it_is_read(database: Database) {
    let server = Server::start(Options::new(database).config("[limits]\nhistory_bytes = \"64KiB\""));
    let client = server.client();
    // Each turn has this in what was said and in what was answered, in letters of two bytes.
    let large = "ä".repeat(10_000);
    let after = |previous: &Value| json!({"model": "echo", "input": large, "previous_response_id": previous["id"]});
    let first = client.post(turn("c", &large)).await.response();
    let second = client.post(after(&first)).await.response();
    let refused = client.post(after(&second)).await;
    assert_eq!(refused.refused(400, "history_too_long"), Some("previous_response_id"));
    assert!(refused.message().contains("limits.history_bytes"), "{}", refused.message());
    // It can be made shorter still.
    let shorter = json!({"model": "echo", "previous_response_id": second["id"]});
    send(&client, Method::POST, "/v1/responses/compact", &shorter).await.ok();

    client.post(turn("c", &large)).await.response();
    assert_eq!(client.post(turn("c", "x")).await.refused(400, "history_too_long"), Some("conversation"));
    // What the input refers to counts, too.
    let refer = |responses: &[&Value]| {
        let items =
            responses.iter().map(|response| json!({"type": "item_reference", "id": response["output"][0]["id"]}));
        let input: Vec<_> = items.chain([json!({"role": "user", "content": "x"})]).collect();
        json!({"model": "echo", "input": input})
    };
    client.post(refer(&[&first])).await.response();
    let refused = client.post(refer(&[&first, &second])).await;
    assert_eq!(refused.refused(400, "history_too_long"), Some("input[1].id"));
}
