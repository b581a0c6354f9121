//! The database is locked, full, read-only or gone: nothing is shown that is not kept, and service resumes.

use serde_json::json;
use sqlx::{Connection as _, Executor as _, SqliteConnection};

use crate::harness::{
    client::Client,
    database::Database,
    events::{self, Events},
    fold::fold,
    postgres::Postgres,
    proxy::Proxy,
    server::{Options, Server},
    wait,
};

/// A stream of some seconds, and what has come of it so far.
async fn a_running_stream(client: &Client) -> (Events, Vec<events::Event>) {
    let input: Vec<_> = (0..60).map(|n| format!("w{n}")).collect();
    let request = json!({"model": "echo", "input": input.join(" "), "metadata": {"delay_ms": "100"}});
    let mut stream = client.stream(request).await;
    let seen = stream.until_delta(2).await;
    (stream, seen)
}

/// A request that cannot be kept is refused with 503 and a time to come back.
async fn is_refused(client: &Client) {
    for stream in [true, false] {
        let answer = client.post(json!({"model": "echo", "input": "x", "stream": stream})).await;
        answer.refused(503, "storage_unavailable");
        assert!(answer.retry_after().is_some(), "{:?}", answer.headers);
    }
    // Nothing is kept of this one, so it needs no database.
    let ephemeral = client.post(json!({"model": "echo", "input": "x", "store": false})).await.response();
    assert_eq!(ephemeral["status"], "completed");
}

/// Requests are taken again, without a restart.
async fn resumes(client: &Client) {
    wait::eventually("service resumes", async || {
        let answer = client.post(json!({"model": "echo", "input": "back again"})).await;
        assert!(answer.status == 200 || answer.status == 503, "{}", answer.body);
        (answer.status == 200).then_some(())
    })
    .await;
}

/// What was running ends, and what its stream showed is what is kept.
async fn ends_as_it_was_shown(client: &Client, mut stream: Events, mut seen: Vec<events::Event>) {
    seen.extend(stream.rest().await);
    let response = client.ended(&events::response_id(&seen)).await;
    assert_eq!(fold(&seen), response);
    let mut replay = client.get_stream(&events::response_id(&seen), None).await;
    replay.rest().await;
    assert!(replay.frames() == stream.frames());
}

/// Another program's transaction on the file of an SQLite server: it holds the lock for writing.
async fn lock(server: &Server) -> SqliteConnection {
    let path = server.dir().join("outlast.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    connection.execute("PRAGMA busy_timeout = 10000").await.unwrap();
    connection.execute("BEGIN IMMEDIATE").await.unwrap();
    connection
}

#[tokio::test]
async fn a_locked_file_refuses_and_then_serves() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let (stream, seen) = a_running_stream(&client).await;
    let mut other = lock(&server).await;
    is_refused(&client).await;
    assert_eq!(client.get_path("/readyz").await.status, 503);
    // What is there can be read.
    assert_eq!(client.response(&events::response_id(&seen)).await["status"], "in_progress");
    other.execute("ROLLBACK").await.unwrap();
    resumes(&client).await;
    ends_as_it_was_shown(&client, stream, seen).await;
}

#[tokio::test]
async fn what_was_shown_before_a_lock_survives_a_crash_in_it() {
    let mut server = Server::start(Database::Sqlite);
    let (mut stream, mut seen) = a_running_stream(&server.client()).await;
    let mut other = lock(&server).await;
    is_refused(&server.client()).await;
    server.kill9();
    seen.extend(stream.rest_or_cut().await);
    other.execute("ROLLBACK").await.unwrap();
    other.close().await.unwrap();
    server.restart();
    let mut replay = server.client().get_stream(&events::response_id(&seen), None).await;
    replay.rest().await;
    assert!(replay.frames().starts_with(stream.frames()), "something was shown that is not kept");
}

#[tokio::test]
async fn a_disk_that_takes_no_writes_refuses_and_then_serves() {
    let server = Server::start(Options::new(Database::Sqlite).survives_full_disk());
    let client = server.client();
    let (stream, seen) = a_running_stream(&client).await;
    server.forbid_writes(true);
    is_refused(&client).await;
    server.forbid_writes(false);
    resumes(&client).await;
    ends_as_it_was_shown(&client, stream, seen).await;
}

#[tokio::test]
async fn what_was_shown_on_a_full_disk_is_kept() {
    let mut server = Server::start(Options::new(Database::Sqlite).survives_full_disk());
    let (mut stream, mut seen) = a_running_stream(&server.client()).await;
    server.forbid_writes(true);
    is_refused(&server.client()).await;
    server.kill9();
    seen.extend(stream.rest_or_cut().await);
    server.restart();
    let mut replay = server.client().get_stream(&events::response_id(&seen), None).await;
    replay.rest().await;
    assert!(replay.frames().starts_with(stream.frames()), "something was shown that is not kept");
}

#[tokio::test]
async fn a_cluster_that_is_gone_refuses_and_then_serves() {
    let Some(postgres) = Postgres::private() else { return };
    let server = Server::start(Database::Postgres(postgres.database().await));
    let client = server.client();
    let (stream, seen) = a_running_stream(&client).await;
    postgres.stop();
    is_refused(&client).await;
    let answer = client.get(&events::response_id(&seen)).await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.retry_after().is_some());
    assert_eq!(client.get_path("/readyz").await.status, 503);
    assert_eq!(client.get_path("/healthz").await.status, 200);
    postgres.start();
    resumes(&client).await;
    wait::eventually("it is ready again", async || (client.get_path("/readyz").await.status == 200).then_some(()))
        .await;
    ends_as_it_was_shown(&client, stream, seen).await;
}

#[tokio::test]
async fn a_cluster_that_is_read_only_refuses_and_then_serves() {
    let Some(postgres) = Postgres::private() else { return };
    let server = Server::start(Database::Postgres(postgres.database().await));
    let client = server.client();
    let (stream, seen) = a_running_stream(&client).await;
    postgres.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
    postgres.execute("SELECT pg_reload_conf()").await;
    wait::eventually("writes are refused", async || {
        // Nobody waits for the end of one that begins at the last moment.
        let answer = client.post(json!({"model": "echo", "input": "x", "background": true})).await;
        (answer.status != 200).then_some(())
    })
    .await;
    is_refused(&client).await;
    // As with a failover: new sessions are made meanwhile.
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test%'").await;
    for _ in 0..8 {
        assert_eq!(client.get_path("/readyz").await.status, 503);
    }
    postgres.execute("ALTER SYSTEM RESET default_transaction_read_only").await;
    postgres.execute("SELECT pg_reload_conf()").await;
    wait::eventually("it is ready again", async || (client.get_path("/readyz").await.status == 200).then_some(()))
        .await;
    resumes(&client).await;
    ends_as_it_was_shown(&client, stream, seen).await;
}

#[tokio::test]
async fn connections_that_the_database_cuts_are_made_again() {
    let Some(postgres) = Postgres::private() else { return };
    let server = Server::start(Database::Postgres(postgres.database().await));
    let client = server.client();
    let (stream, seen) = a_running_stream(&client).await;
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test%'").await;
    resumes(&client).await;
    ends_as_it_was_shown(&client, stream, seen).await;
}

// The proxy forwards while the test waits for the server.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_dead_and_not_closed_are_made_again() {
    let Some((_postgres, proxy, server)) = behind_a_proxy().await else { return };
    let client = server.client();
    let (stream, seen) = a_running_stream(&client).await;
    proxy.let_die();
    assert_eq!(client.get_path("/readyz").await.status, 503);
    server.logged(&["the connection that writes to", "does not answer"]);
    server.logged(&["a new connection writes to"]);
    resumes(&client).await;
    wait::eventually("it is ready again", async || (client.get_path("/readyz").await.status == 200).then_some(()))
        .await;
    ends_as_it_was_shown(&client, stream, seen).await;
}

/// A server on a PostgreSQL that can be cut off.
async fn behind_a_proxy() -> Option<(Postgres, Proxy, Server)> {
    let postgres = Postgres::private()?;
    let proxy = Proxy::to(postgres.port()).await;
    let url = postgres.database().await.replace(&postgres.port().to_string(), &proxy.port().to_string());
    let server = Server::start(Options::new(Database::Postgres(url)).config("lease = \"3s\""));
    Some((postgres, proxy, server))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_admitted_when_the_answer_to_its_commit_is_lost() {
    let Some((_postgres, proxy, server)) = behind_a_proxy().await else { return };
    let client = server.client();
    for body in [
        json!({"model": "echo", "input": "once", "background": true}),
        json!({"model": "echo", "input": "once", "conversation": "hall"}),
    ] {
        let lost = proxy.lost();
        proxy.lose_an_answer_to_commit();
        let response = client.post(body).await.response();
        assert!(proxy.lost() > lost, "no answer was lost");
        let response = client.ended(response["id"].as_str().unwrap()).await;
        assert_eq!(response["status"], "completed");
    }
    let items = client.get_path("/v1/conversations/hall/items").await.ok();
    assert_eq!(items["data"].as_array().map(Vec::len), Some(2), "{items}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_not_refused_before_it_is_known_that_it_was_not_stored() {
    let Some((_postgres, proxy, mut server)) = behind_a_proxy().await else { return };
    let client = server.client();
    let request = |client: &Client| {
        let body = json!({"model": "echo", "input": "once", "background": true});
        client.request(reqwest::Method::POST, "/v1/responses").header("idempotency-key", "once").json(&body)
    };
    proxy.close();
    proxy.lose_an_answer_to_commit();
    let asked = tokio::spawn(request(&client).send());
    wait::eventually("the answer is lost", async || (proxy.lost() > 0).then_some(())).await;
    wait::eventually("the outage is seen", async || (client.get_path("/readyz").await.status == 503).then_some(()))
        .await;
    // Nothing has begun, and this one is not stored for sure.
    client.post(json!({"model": "echo", "input": "x"})).await.refused(503, "storage_unavailable");
    server.kill9();
    let answer = asked.await.unwrap();
    assert!(answer.is_err(), "{answer:?}");
    proxy.open();
    server.restart();
    let client = server.client();
    let answer = client.send(request(&client)).await;
    assert_eq!(answer.headers.get("idempotency-replayed").map(|value| value.as_bytes()), Some(&b"true"[..]));
    let response = client.ended(answer.response()["id"].as_str().unwrap()).await;
    assert_eq!(response["status"], "completed");
}

#[tokio::test]
async fn a_file_that_was_removed_refuses_and_serves_when_it_is_back() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let (stream, seen) = a_running_stream(&client).await;
    let (file, away) = (server.dir().join("outlast.db"), server.dir().join("away.db"));
    std::fs::rename(&file, &away).unwrap();
    is_refused(&client).await;
    assert_eq!(client.get_path("/readyz").await.status, 503);
    server.logged(&["was removed while the server runs"]);
    std::fs::rename(&away, &file).unwrap();
    resumes(&client).await;
    ends_as_it_was_shown(&client, stream, seen).await;
}
