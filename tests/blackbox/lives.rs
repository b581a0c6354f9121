//! Runs over many lives of the server: none is lost because there were many.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row as _;
use tempfile::TempDir;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events::text,
    fold::fold,
    plugins,
    server::{Options, Server},
    wait,
    web::{Web, get},
};

both_databases!(
    a_run_that_sleeps_outlives_ten_stops_and_ten_kills,
    a_run_that_ends_the_server_is_given_up_and_its_neighbours_complete,
    a_run_that_sleeps_is_left_asleep_by_a_start,
    a_run_that_is_cancelled_in_its_sleep_does_not_sleep_on,
    a_run_that_is_cancelled_after_a_kill_has_the_usage_that_was_reported,
    a_run_goes_on_from_responses_that_were_deleted_or_kept_long_enough,
    a_run_goes_on_from_a_conversation_that_was_deleted,
);

async fn a_run_that_sleeps_outlives_ten_stops_and_ten_kills(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = start(database, &web, "");
    let id = begin(&server.client(), json!({"model": "keeper", "input": "say a; wait 40000; say b"})).await;
    is_asleep(&server, &id).await;
    for life in 0..20 {
        if life % 2 == 0 {
            server.kill9();
        } else {
            server.terminate();
            assert!(server.ended().await.success());
        }
        server.restart();
        let response = server.client().response(&id).await;
        assert!(response["error"].is_null(), "life {life}: {response}");
    }
    let events = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!((fold(&events)["status"].as_str(), text(&events).as_str()), (Some("completed"), "a\nb\n"));
}

/// A server with the components `hostile` and `keeper`, of which the first may reach `web`.
fn start(database: Database, web: &Web, more: &str) -> (Server, TempDir) {
    let folder = plugins::hostile_folder();
    plugins::add(folder.path(), "keeper");
    let grant = format!("[agents.hostile.http]\nhosts = [\"{}\"]\nprivate = true", web.address());
    let limits = "[limits]\nhttp_connections = 1000\nidle_after = \"100ms\"";
    let options = Options::new(database).plugins(folder.path()).config(&format!("{more}\n{limits}\n{grant}"));
    (Server::start(options), folder)
}

async fn begin(client: &Client, request: Value) -> String {
    let mut request = request;
    request["background"] = true.into();
    client.post(request).await.response()["id"].as_str().unwrap().to_owned()
}

async fn a_run_that_ends_the_server_is_given_up_and_its_neighbours_complete(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = start(database, &web, "");
    let waits = |path: &str| json!({"model": "hostile", "input": format!("http {}", get(web.url(path)))});
    let client = server.client();
    let mut neighbours = Vec::new();
    for _ in 0..200 {
        neighbours.push(begin(&client, waits("/stall")).await);
    }
    let guilty = begin(&client, waits("/stall-and-kill")).await;
    // What is in the journal only after a kill would be a step on.
    server.journal(&guilty).await;
    let mut kills = 0;
    // The server dies of each of its requests.
    while kills < 20 {
        let client = server.client();
        let given_up = wait::eventually("the run is executed, or given up", async || {
            let response = client.response(&guilty).await;
            let over = response["status"] == "failed";
            (over || web.count("/stall-and-kill") > kills).then_some(over)
        });
        if given_up.await {
            break;
        }
        kills += 1;
        server.kill9();
        server.restart();
    }
    let client = server.client();
    let message = client.response(&guilty).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("resumed 5 times"), "{message}");
    assert_eq!(kills, 6, "the first life, and five that it was resumed in");
    web.release();
    for id in neighbours {
        let response = client.ended(&id).await;
        assert_eq!(response["status"], "completed", "{response}");
    }
}

/// Waits until a run has no instance.
async fn is_asleep(server: &Server, id: &str) {
    let mut database = server.database().await;
    wait::eventually("the run sleeps", async || {
        let query = sqlx::query("SELECT 1 FROM lives WHERE response_id = $1 AND wake_at IS NOT NULL");
        query.bind(id).fetch_optional(&mut database).await.unwrap().map(drop)
    })
    .await;
}

async fn a_run_that_sleeps_is_left_asleep_by_a_start(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = start(database, &web, "");
    let asleep = begin(&server.client(), json!({"model": "keeper", "input": "say a; wait 3600000; say b"})).await;
    is_asleep(&server, &asleep).await;
    // Whoever read what it needs would fail.
    let mut database = server.database().await;
    let query = sqlx::query("UPDATE responses SET request = 'nonsense' WHERE id = $1");
    query.bind(&asleep).execute(&mut database).await.unwrap();
    server.kill9();
    server.restart();
    let client = server.client();
    assert_eq!(client.post(json!({"model": "echo", "input": "x"})).await.response()["status"], "completed");
    assert_eq!(client.response(&asleep).await["status"], "in_progress");
    let response = client.cancel(&asleep).await.response();
    assert_eq!(
        (response["status"].as_str(), &response["output"][0]["content"][0]["text"]),
        (Some("cancelled"), &json!("a\n"))
    );
}

async fn a_run_that_is_cancelled_in_its_sleep_does_not_sleep_on(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = start(database, &web, "");
    let asleep = begin(&server.client(), json!({"model": "keeper", "input": "wait 3600000"})).await;
    is_asleep(&server, &asleep).await;
    server.kill9();
    // As a server leaves it that was killed between the cancel and the end.
    let mut database = server.database().await;
    let entry = b"{\"name\":\"run.cancelled\",\"time\":0,\"answer\":null}\n".to_vec();
    let row = sqlx::query("SELECT MAX(last_position) FROM journal WHERE response_id = $1");
    let last: i64 = row.bind(&asleep).fetch_one(&mut database).await.unwrap().get(0);
    let query = sqlx::query("INSERT INTO journal VALUES ($1, $2, $2, $3)");
    query.bind(&asleep).bind(last + 1).bind(entry).execute(&mut database).await.unwrap();
    let query = sqlx::query("UPDATE lives SET wake_at = NULL WHERE response_id = $1");
    query.bind(&asleep).execute(&mut database).await.unwrap();
    server.restart();
    assert_eq!(server.client().ended(&asleep).await["status"], "cancelled");
}

async fn a_run_that_is_cancelled_after_a_kill_has_the_usage_that_was_reported(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = start(database, &web, "");
    let asleep =
        begin(&server.client(), json!({"model": "keeper", "input": "used 5; used 2; say a; wait 3600000"})).await;
    is_asleep(&server, &asleep).await;
    server.kill9();
    server.restart();
    let usage = server.client().cancel(&asleep).await.response()["usage"].clone();
    assert_eq!((&usage["input_tokens"], &usage["total_tokens"]), (&json!(7), &json!(14)), "{usage}");
}

/// Says what was said before, sleeps until the server was killed, and says it again.
fn remembers() -> Value {
    json!({"model": "keeper", "input": "history; wait 4000; history"})
}

async fn a_run_goes_on_from_responses_that_were_deleted_or_kept_long_enough(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = start(database, &web, "retention = \"1s\"");
    let client = server.client();
    let first = client.post(json!({"model": "echo", "input": "one"})).await.response();
    let next = json!({"model": "echo", "input": "two", "previous_response_id": first["id"]});
    let second = client.post(next).await.response();
    let mut request = remembers();
    request["previous_response_id"] = second["id"].clone();
    let id = begin(&client, request).await;
    is_asleep(&server, &id).await;
    let gone = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    client.send(client.request(Method::DELETE, &gone)).await.ok();
    client.get_path(&gone).await.refused(404, "response_not_found");
    // A response that nobody needs goes when its time has come; the other one would have, too.
    let other = client.post(json!({"model": "echo", "input": "three"})).await.response();
    wait::eventually("the retention is over", async || {
        (client.get(other["id"].as_str().unwrap()).await.status == 404).then_some(())
    })
    .await;
    server.kill9();
    server.restart();
    let response = server.client().ended(&id).await;
    let said = "one | one | two | two\n";
    assert_eq!(response["output"][0]["content"][0]["text"], said.repeat(2), "{response}");
    wait::eventually("what nobody needs any more goes", async || {
        let ids = server.response_ids().await;
        [&first, &second].iter().all(|gone| !ids.contains(&gone["id"].as_str().unwrap().to_owned())).then_some(())
    })
    .await;
}

async fn a_run_goes_on_from_a_conversation_that_was_deleted(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = start(database, &web, "");
    let client = server.client();
    client.post(json!({"model": "echo", "input": "one", "conversation": "c"})).await.response();
    let mut request = remembers();
    request["conversation"] = "c".into();
    let id = begin(&client, request).await;
    is_asleep(&server, &id).await;
    client.send(client.request(Method::DELETE, "/v1/conversations/c")).await.ok();
    client.get_path("/v1/conversations/c").await.refused(404, "conversation_not_found");
    // Another one of this name has nothing to do with it.
    let other = client.post(json!({"model": "keeper", "input": "history", "conversation": "c"})).await.response();
    assert_eq!(other["status"], "completed");
    server.kill9();
    server.restart();
    let response = server.client().ended(&id).await;
    assert_eq!(response["output"][0]["content"][0]["text"], "one | one\n".repeat(2), "{response}");
    let items = server.client().get_path("/v1/conversations/c/items").await.ok();
    assert_eq!(items["data"].as_array().unwrap().len(), 2, "{items}");
}
