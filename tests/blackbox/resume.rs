//! What a run is given that goes on after `kill -9`: its past, its component, the answers that it had, and the model
//! call that it was in the middle of.

use serde_json::{Value, json};
use sqlx::Row as _;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events::{self, Event, kinds, text},
    fold::fold,
    journal::set_journal,
    plugins,
    server::{Options, Server},
    upstream::{self, Upstream, end, stall, usage},
    wait,
    websocket::Socket,
};

both_databases!(
    a_model_goes_on_from_what_it_had_said,
    a_model_is_asked_again,
    a_call_that_may_not_be_repeated_fails,
    a_call_that_may_not_be_repeated_is_not_made_before_it_is_in_the_journal,
    a_call_that_was_answered_is_not_repeated,
    a_generation_goes_on_where_its_component_was,
    a_turn_of_a_socket_is_given_its_earlier_turns_again,
    a_compacted_conversation_is_opened_again,
    a_component_that_was_removed_or_replaced_is_kept_for_its_runs,
    a_run_without_its_component_fails,
    a_run_that_diverges_says_where,
    a_damaged_journal_fails_its_run_alone,
    a_run_that_was_being_cancelled_is_cancelled,
    a_run_that_does_not_get_on_is_given_up,
);

fn say(pieces: &[&str]) -> Vec<Value> {
    pieces.iter().map(|piece| upstream::text(piece)).collect()
}

/// An answer that says this much and stalls.
fn half(pieces: &[&str]) -> Vec<Value> {
    let mut answer = say(pieces);
    answer.push(stall());
    answer
}

/// An answer that says this and ends.
fn whole(pieces: &[&str]) -> Vec<Value> {
    let mut answer = say(pieces);
    answer.extend([end("stop"), usage(7, 3)]);
    answer
}

/// A server whose model gives these answers, with this policy for calls that are interrupted.
async fn with(
    database: Database,
    policy: &str,
    answers: impl IntoIterator<Item = Vec<Value>>,
) -> (Server, Upstream, tempfile::TempDir) {
    let upstream = Upstream::start(answers).await;
    let folder = plugins::hostile_folder();
    let options = upstream.options(Options::new(database)).config(&format!("on_interrupt = \"{policy}\""));
    (Server::start(options.plugins(folder.path())), upstream, folder)
}

/// Begins a run, kills the server behind the text delta of this number, starts it again, and gives all events so far.
async fn interrupt(server: &mut Server, request: Value, deltas: usize) -> Vec<Event> {
    let mut stream = server.client().stream(request).await;
    let mut seen = stream.until_delta(deltas).await;
    server.kill9();
    seen.extend(stream.rest_or_cut().await);
    server.restart();
    seen
}

/// The events that `seen` is the beginning of, to their end.
async fn rest(client: &Client, mut seen: Vec<Event>) -> Vec<Event> {
    let last = seen.last().unwrap().number;
    let id = events::response_id(&seen);
    seen.extend(client.get_stream(&id, Some(last)).await.rest().await);
    assert_eq!(fold(&seen), client.response(&id).await);
    assert_eq!(client.get_stream(&id, None).await.rest().await, seen);
    seen
}

/// The status and text of each message.
fn messages(events: &[Event]) -> Vec<(String, String)> {
    let response = fold(events);
    let items = response["output"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    items.map(|item| (text(&item["status"]), text(&item["content"][0]["text"]))).collect()
}

/// What the model was given as the last message.
fn last_message(request: &Value) -> &Value {
    request["messages"].as_array().unwrap().last().unwrap()
}

fn failure(events: &[Event]) -> String {
    let response = fold(events);
    assert_eq!(response["status"], "failed");
    response["error"]["message"].as_str().unwrap().to_owned()
}

async fn a_model_goes_on_from_what_it_had_said(database: Database) {
    let answers = [half(&["Größer ", "als"]), half(&[" ein", " Baum"]), whole(&[",", " sagt sie."])];
    let (mut server, upstream, _folder) = with(database, "continue", answers).await;
    let mut seen = interrupt(&mut server, json!({"model": "chat/up-1", "input": "hi"}), 2).await;
    let id = events::response_id(&seen);
    let last = seen.last().unwrap().number;
    let mut stream = server.client().get_stream(&id, Some(last)).await;
    seen.extend(stream.until_delta(2).await);
    server.kill9();
    seen.extend(stream.rest_or_cut().await);
    server.restart();
    let seen = rest(&server.client(), seen).await;
    assert_eq!(text(&seen), "Größer als ein Baum, sagt sie.");
    assert_eq!(messages(&seen), [("completed".to_owned(), "Größer als ein Baum, sagt sie.".to_owned())]);
    assert_eq!(kinds(&seen).iter().filter(|kind| **kind == "response.output_item.added").count(), 1);
    assert_eq!(fold(&seen)["usage"]["output_tokens"], 3);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(last_message(&requests[1]), &json!({"role": "assistant", "content": "Größer als"}));
    assert_eq!(last_message(&requests[2]), &json!({"role": "assistant", "content": "Größer als ein Baum"}));
}

async fn a_model_is_asked_again(database: Database) {
    let answers = [half(&["Hello ", "wor"]), whole(&["Hi, ", "you."])];
    let (mut server, upstream, _folder) = with(database, "restart", answers).await;
    let seen = interrupt(&mut server, json!({"model": "chat/up-1", "input": "hi"}), 2).await;
    let seen = rest(&server.client(), seen).await;
    let expected = [("incomplete", "Hello wor"), ("completed", "Hi, you.")];
    assert_eq!(messages(&seen), expected.map(|(status, text)| (status.to_owned(), text.to_owned())));
    assert_eq!(fold(&seen)["status"], "completed");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0]["messages"], requests[1]["messages"]);
}

async fn a_call_that_may_not_be_repeated_fails(database: Database) {
    let (mut server, upstream, _folder) = with(database, "fail", [half(&["Hello ", "wor"])]).await;
    let seen = interrupt(&mut server, json!({"model": "chat/up-1", "input": "hi"}), 2).await;
    let seen = rest(&server.client(), seen).await;
    assert_eq!(messages(&seen), [("incomplete".to_owned(), "Hello wor".to_owned())]);
    assert!(failure(&seen).contains("stopped while the model was answering"));
    assert_eq!(upstream.requests().len(), 1);
}

async fn a_call_that_may_not_be_repeated_is_not_made_before_it_is_in_the_journal(database: Database) {
    let (server, upstream, _folder) = with(database, "fail", vec![vec![stall()]; 2]).await;
    let client = server.client();
    for (number, input, import) in [(1, "forward up-1 0", "model.forward"), (2, "generate up-1", "model.generate")] {
        let mut stream = client.stream(json!({"model": "hostile", "input": input})).await;
        let id = events::response_id(&stream.until(|event| event.number == 1).await);
        wait::eventually("the model is asked", async || (upstream.requests().len() == number).then_some(())).await;
        assert_eq!(server.entries(&id).await[0], import);
    }
    upstream.release();
}

async fn a_call_that_was_answered_is_not_repeated(database: Database) {
    let (mut server, upstream, _folder) = with(database, "restart", [whole(&["once ", "only "])]).await;
    let request = json!({"model": "hostile", "input": "forward up-1 1500"});
    let mut stream = server.client().stream(request).await;
    let mut seen = stream.until(|event| event.kind == "response.output_item.done").await;
    server.kill9();
    seen.extend(stream.rest_or_cut().await);
    // Every life of the server begins in the middle of the sleep, or behind it.
    for _ in 0..2 {
        server.restart();
    }
    let seen = rest(&server.client(), seen).await;
    assert_eq!(text(&seen), "once only done");
    assert_eq!(fold(&seen)["status"], "completed");
    assert_eq!(fold(&seen)["usage"]["output_tokens"], 3);
    assert_eq!(upstream.requests().len(), 1);
}

async fn a_generation_goes_on_where_its_component_was(database: Database) {
    let answers =
        [half(&["one ", "two "]), whole(&["three"]), half(&["one ", "two "]), half(&[]), whole(&["all anew"])];
    let (mut server, upstream, folder) = with(database.clone(), "continue", answers).await;
    let request = json!({"model": "hostile", "input": "generate up-1"});
    let seen = interrupt(&mut server, request.clone(), 2).await;
    assert_eq!(text(&rest(&server.client(), seen).await), "one two three | one two three");
    assert_eq!(last_message(&upstream.requests()[1]), &json!({"role": "assistant", "content": "one two "}));

    // What the component has been given cannot be taken back.
    let options = upstream.options(Options::new(database)).plugins(folder.path());
    server.restart_with(options);
    let seen = interrupt(&mut server, request.clone(), 2).await;
    assert_eq!(text(&rest(&server.client(), seen).await), "one two  | interrupted interrupted");
    // Nothing was given yet: nobody notices.
    let begun = server.client().stream(request).await.until(|event| event.number == 1).await;
    wait::eventually("the call", async || (upstream.requests().len() == 4).then_some(())).await;
    server.restart();
    assert_eq!(text(&rest(&server.client(), begun).await), "all anew | all anew");
    assert_eq!(upstream.requests().len(), 5);
}

async fn a_turn_of_a_socket_is_given_its_earlier_turns_again(database: Database) {
    let answers = [whole(&["Hello Ada."]), half(&["You "]), whole(&["Ada."])];
    let (mut server, upstream, _folder) = with(database, "restart", answers).await;
    let mut socket = Socket::open(server.address()).await;
    let first = socket.turn(json!({"model": "chat/up-1", "input": "I am Ada.", "store": false})).await;
    let on = json!({"model": "chat/up-1", "input": "Who am I?", "previous_response_id": events::response_id(&first)});
    socket.create(on).await;
    let seen = socket.until(0, |event| event.delta().is_some()).await;
    server.restart();
    let seen = rest(&server.client(), seen).await;
    assert_eq!(fold(&seen)["status"], "completed");
    let requests = upstream.requests();
    assert_eq!(requests[1]["messages"].as_array().unwrap().len(), 3);
    assert_eq!(requests[2]["messages"], requests[1]["messages"]);
}

async fn a_compacted_conversation_is_opened_again(database: Database) {
    let answers = [whole(&["Ada likes cats."]), half(&["T"]), whole(&["Tom"]), half(&["M"]), whole(&["Mia"])];
    let (mut server, upstream, _folder) = with(database, "restart", answers).await;
    let input = json!([{"role": "user", "content": "I am Ada."}, {"role": "assistant", "content": "Hello."}]);
    let client = server.client();
    let compact = client.request(reqwest::Method::POST, "/v1/responses/compact");
    let compaction = client.send(compact.json(&json!({"model": "chat/up-1", "input": input}))).await.ok();
    let mut input = compaction["output"].as_array().unwrap().clone();
    input.push(json!({"role": "user", "content": "A cat's name?"}));
    let mut request = json!({"model": "chat/up-1", "input": input});
    // Once it is the input of the run, once its past.
    for asked in [1, 3] {
        let seen = interrupt(&mut server, request, 1).await;
        let seen = rest(&server.client(), seen).await;
        assert_eq!(fold(&seen)["status"], "completed");
        let requests = upstream.requests();
        assert!(requests[asked].to_string().contains("Ada likes cats."));
        assert_eq!(requests[asked]["messages"], requests[asked + 1]["messages"]);
        let id = events::response_id(&seen);
        request = json!({"model": "chat/up-1", "input": "Another?", "previous_response_id": id});
    }
}

async fn a_component_that_was_removed_or_replaced_is_kept_for_its_runs(database: Database) {
    let folder = plugins::hostile_folder();
    let options = Options::new(database.clone()).plugins(folder.path());
    let mut server = Server::start(options.clone());
    let request = json!({"model": "hostile", "input": "wait 1500"});
    let first = server.client().stream(request.clone()).await.until(|event| event.number == 1).await;
    // The same agent, and another component: with a section of its own.
    let path = folder.path().join("hostile.wasm");
    let mut wasm = std::fs::read(&path).unwrap();
    wasm.extend(b"\x00\x05\x04new!");
    std::fs::write(&path, wasm).unwrap();
    server.restart();
    let second = server.client().stream(request.clone()).await.until(|event| event.number == 1).await;
    server.restart_with(Options::new(database));
    server.client().post(request).await.refused(404, "model_not_found");
    for seen in [first, second] {
        assert_eq!(text(&rest(&server.client(), seen).await), "done");
    }
    // The next start keeps what is needed, which is neither of the two.
    server.restart();
    let mut database = server.database().await;
    let kept = sqlx::query("SELECT COUNT(*) FROM components").fetch_one(&mut database).await.unwrap();
    assert_eq!(kept.get::<i64, _>(0), 2, "echo and chat");
}

async fn a_run_without_its_component_fails(database: Database) {
    let folder = plugins::hostile_folder();
    let mut server = Server::start(Options::new(database.clone()).plugins(folder.path()));
    let request = json!({"model": "hostile", "input": "wait 60000"});
    let seen = server.client().stream(request).await.until(|event| event.number == 1).await;
    server.kill9();
    sqlx::query("DELETE FROM components").execute(&mut server.database().await).await.unwrap();
    server.restart_with(Options::new(database));
    assert!(failure(&rest(&server.client(), seen).await).contains("its component is gone"));
}

/// Begins two runs that wait, and kills the server. Gives what was seen of each.
async fn two_that_wait(server: &mut Server) -> [Vec<Event>; 2] {
    let request = json!({"model": "echo", "input": "before after", "metadata": {"delay_ms": "1500"}});
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut stream = server.client().stream(request.clone()).await;
        seen.push(stream.until_delta(1).await);
    }
    // Its timer is in the journal a moment after its word is seen.
    for seen in &seen {
        let id = events::response_id(seen);
        server.journal(&id).await;
    }
    server.kill9();
    seen.try_into().unwrap()
}

async fn a_run_that_diverges_says_where(database: Database) {
    let mut server = Server::start(database);
    let [other, sleeping] = two_that_wait(&mut server).await;
    for (seen, was, is) in [(&other, "tasks.sleep", "model.models"), (&sleeping, "\"digest\":\"", "\"digest\":\"0000")]
    {
        let id = events::response_id(seen);
        let entries = server.journal(&id).await;
        set_journal(&mut server.database().await, &id, &entries.replace(was, is)).await;
    }
    server.restart();
    for (seen, expected) in [
        (other, "diverged at entry 0: expected `model.models` "),
        (sleeping, "diverged at entry 0: expected `tasks.sleep` 0000"),
    ] {
        let message = failure(&rest(&server.client(), seen).await);
        assert!(message.contains(expected) && message.contains(", got `tasks.sleep` "), "{message}");
    }
}

async fn a_damaged_journal_fails_its_run_alone(database: Database) {
    let mut server = Server::start(database);
    let [damaged, sound] = two_that_wait(&mut server).await;
    set_journal(&mut server.database().await, &events::response_id(&damaged), "{\"name\":").await;
    server.restart();
    assert!(failure(&rest(&server.client(), damaged).await).contains("its journal is damaged"));
    assert_eq!(text(&rest(&server.client(), sound).await), "before after");
}

async fn a_run_that_was_being_cancelled_is_cancelled(database: Database) {
    let mut server = Server::start(database);
    let [cancelled, sound] = two_that_wait(&mut server).await;
    let id = events::response_id(&cancelled);
    set_journal(&mut server.database().await, &id, "{\"name\":\"run.cancelled\",\"time\":0,\"answer\":null}\n").await;
    server.restart();
    let seen = rest(&server.client(), cancelled).await;
    assert_eq!((&fold(&seen)["status"], &*text(&seen)), (&json!("cancelled"), "before "));
    assert_eq!(text(&rest(&server.client(), sound).await), "before after");
}

async fn a_run_that_does_not_get_on_is_given_up(database: Database) {
    let folder = plugins::hostile_folder();
    let options = Options::new(database).plugins(folder.path()).config("[limits]\nidle_after = \"1h\"");
    let mut server = Server::start(options);
    let request = json!({"model": "hostile", "input": "wait 600000"});
    let id = events::response_id(&server.client().stream(request).await.until(|event| event.number == 1).await);
    server.journal(&id).await;
    let mut database = server.database().await;
    let mut lives = 0;
    // A life that lasts long enough is forgiven.
    while lives < 26 {
        server.kill9();
        server.restart();
        if server.client().response(&id).await["status"] == "failed" {
            break;
        }
        wait::eventually("it is executed, or given up", async || {
            let query = sqlx::query("SELECT 1 FROM lives WHERE response_id = $1 AND (executing = 1 OR attempts > 5)");
            query.bind(&id).fetch_optional(&mut database).await.unwrap().map(drop)
        })
        .await;
        lives += 1;
    }
    assert!(lives >= 5, "{lives}");
    let events = server.client().get_stream(&id, None).await.rest().await;
    assert!(failure(&events).contains("without making progress"));
    assert_eq!(fold(&events), server.client().response(&id).await);
}
