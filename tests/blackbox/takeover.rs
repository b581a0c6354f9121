//! Two servers and one database: never do both write.

use serde_json::json;

use crate::harness::{
    database::Database,
    events,
    postgres::Postgres,
    server::{Begun, Options, Server},
    wait,
};

#[tokio::test]
async fn a_second_server_refuses_to_start_beside_a_living_one() {
    let Some(database) = Database::postgres().await else { return };
    let options = Options::new(database).config("lease = \"2s\"");
    let server = Server::start(options.clone());
    let (status, error) = Server::refused(options);
    assert!(!status.success());
    assert!(error.contains("another outlast server is using"), "{error}");
    server.client().post(json!({"model": "echo", "input": "still here"})).await.response();
}

/// A server that is stopped for longer than its lease, and one that starts meanwhile.
async fn replaced() -> Option<(Server, Server, String)> {
    let database = Database::postgres().await?;
    let options = Options::new(database).config("lease = \"1s\"");
    let stopped = Server::start(options.clone());
    let client = stopped.client();
    let body = json!({
        "model": "echo", "input": "a b c d e f g h i j k l m n", "metadata": {"delay_ms": "300"}, "background": true,
    });
    let mut stream = client.stream(body).await;
    let seen = stream.until_delta(2).await;
    stopped.stop();
    let server = Server::start(options);
    Some((stopped, server, events::response_id(&seen)))
}

#[tokio::test]
async fn a_server_that_was_silent_for_too_long_writes_nothing_more_and_ends() {
    let Some((mut stopped, server, id)) = replaced().await else { return };
    let before = server.client().ended(&id).await;
    stopped.cont();
    assert!(!stopped.ended().await.success());
    stopped.logged(&["another outlast server has taken over"]);
    assert_eq!(server.client().response(&id).await, before);
    let log = server.client().get_stream(&id, None).await.rest().await;
    assert!(log.last().unwrap().terminal());
    server.client().post(json!({"model": "echo", "input": "x"})).await.response();
}

#[tokio::test]
async fn a_server_that_was_silent_and_not_replaced_goes_on() {
    let Some(database) = Database::postgres().await else { return };
    let server = Server::start(Options::new(database.clone()).config("lease = \"1s\""));
    let body = json!({"model": "echo", "input": "a b c d e f", "metadata": {"delay_ms": "300"}});
    let mut stream = server.client().stream(body).await;
    stream.until_delta(1).await;
    server.stop();
    database.lease_is_over().await;
    server.cont();
    assert!(stream.rest().await.last().unwrap().terminal());
}

#[tokio::test]
async fn a_second_server_refuses_to_start_on_the_same_file_by_another_name() {
    let server = Server::start(Database::Sqlite);
    let file = server.dir().join("outlast.db");
    let (link, hard) = (server.dir().join("link.db"), server.dir().join("hard.db"));
    std::os::unix::fs::symlink(&file, &link).unwrap();
    std::fs::hard_link(&file, &hard).unwrap();
    for name in [file, link, hard] {
        let (status, error) = Server::refused(Options::named(&name.display().to_string()));
        assert!(!status.success());
        assert!(error.contains("another outlast server is using"), "{error}");
    }
    server.client().post(json!({"model": "echo", "input": "still here"})).await.response();
}

/// PostgreSQL shows a commit that is cut off in this wait, and loses it when the standby takes over.
#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_not_cut_off() {
    let Some(postgres) = Postgres::private() else { return };
    let database = Database::Postgres(postgres.database().await);
    let options = Options::new(database.clone()).config("lease = \"1s\"");
    let mut server = Server::start(options.clone());
    let mut other = database.connect(server.dir()).await;
    let mut waiting = async || {
        let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        sqlx::Row::get::<i64, _>(&sqlx::query(sql).fetch_one(&mut other).await.unwrap(), 0)
    };
    postgres.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    postgres.execute("SELECT pg_reload_conf()").await;
    wait::eventually("a commit waits", async || (waiting().await > 0).then_some(())).await;
    server.kill9();
    database.lease_is_over().await;
    server.launch_with(options);
    server.logged(&["waiting until its last transaction is over or on the standby"]);
    assert_eq!(waiting().await, 1);
    assert!(matches!(server.begun(), Begun::NotYet));
    postgres.execute("ALTER SYSTEM RESET synchronous_standby_names").await;
    postgres.execute("SELECT pg_reload_conf()").await;
    wait::eventually("the server listens", async || matches!(server.begun(), Begun::Listening).then_some(())).await;
}
