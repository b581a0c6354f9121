//! What cannot be written or read of one run ends that run, and no other.

use serde_json::{Value, json};
use sqlx::{AnyConnection, Executor as _};

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events::{self, text},
    fold::fold,
    plugins,
    server::{Options, Server},
    wait,
};

both_databases!(
    a_run_whose_words_the_database_refuses_ends_as_failed,
    a_run_of_which_nothing_can_be_written_ends_as_failed,
    a_request_that_cannot_be_read_any_more_ends_its_run_alone,
    events_that_cannot_be_read_any_more_end_their_run_alone,
    bytes_in_the_place_of_events_end_their_run_alone,
);

/// Lets the database refuse rows of a table for which this holds, in the language of both databases.
async fn poison(connection: &mut AnyConnection, database: &Database, table: &str, condition: &str) {
    let statements = match database {
        Database::Sqlite => vec![format!(
            "CREATE TRIGGER poison_{table} BEFORE INSERT ON {table} WHEN {condition} \
             BEGIN SELECT RAISE(ABORT, 'poisoned'); END"
        )],
        // An error of a class that the server does not know.
        Database::Postgres(_) => vec![
            "CREATE OR REPLACE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'poisoned'; END $$"
                .to_owned(),
            format!(
                "CREATE TRIGGER poison BEFORE INSERT ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION poison()"
            ),
        ],
    };
    for statement in statements {
        connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }
}

/// That a new row's bytes have this text in them.
fn holds(database: &Database, column: &str, text: &str) -> String {
    match database {
        Database::Sqlite => format!("instr(NEW.{column}, CAST('{text}' AS BLOB)) > 0"),
        Database::Postgres(_) => format!("position('{text}'::bytea IN NEW.{column}) > 0"),
    }
}

/// Some words, slowly.
fn slow(words: &str) -> Value {
    json!({"model": "echo", "input": words, "metadata": {"delay_ms": "50"}})
}

fn numbers() -> String {
    (0..100).map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}

/// New runs begin and complete.
async fn serves(client: &Client) {
    wait::eventually("runs complete", async || {
        let answer = client.post(json!({"model": "echo", "input": "as ever"})).await;
        assert!(matches!(answer.status, 200 | 500 | 503), "{}", answer.body);
        (answer.status == 200).then(|| assert_eq!(answer.response()["status"], "completed"))
    })
    .await;
    wait::eventually("the server is ready", async || (client.get_path("/readyz").await.status == 200).then_some(()))
        .await;
}

async fn a_run_whose_words_the_database_refuses_ends_as_failed(database: Database) {
    let server = Server::start(database.clone());
    let client = server.client();
    for (table, column) in [("commit_log", "records"), ("events", "frames")] {
        poison(&mut server.database().await, &database, table, &holds(&database, column, "arsenic")).await;
    }
    let mut neighbours = Vec::new();
    for _ in 0..20 {
        neighbours.push(client.stream(slow(&numbers())).await);
    }
    let mut stream = client.stream(slow(&format!("{} arsenic and more", &numbers()[..50]))).await;
    let events = stream.rest().await;
    let response = client.ended(&events::response_id(&events)).await;
    assert_eq!((fold(&events), response["status"].as_str()), (response.clone(), Some("failed")));
    assert!(response["error"]["message"].as_str().unwrap().contains("refused"), "{response}");
    assert!(numbers().starts_with(text(&events).trim_end()), "what was shown stays: {response}");
    serves(&client).await;
    for mut stream in neighbours {
        assert_eq!(text(&stream.rest().await), numbers());
    }
}

async fn a_run_of_which_nothing_can_be_written_ends_as_failed(database: Database) {
    let mut server = Server::start(database.clone());
    let client = server.client();
    let mut stream = client.stream(slow(&numbers())).await;
    let id = events::response_id(&stream.until_delta(2).await);
    let mut neighbour = client.stream(slow(&numbers())).await;
    let mut connection = server.database().await;
    poison(&mut connection, &database, "events", &format!("NEW.response_id = '{id}'")).await;
    poison(&mut connection, &database, "commit_log", &holds(&database, "records", &id)).await;
    let response = client.ended(&id).await;
    assert_eq!(response["status"], "failed");
    assert!(numbers().starts_with(response["output"][0]["content"][0]["text"].as_str().unwrap().trim_end()));
    serves(&client).await;
    assert_eq!(text(&neighbour.rest().await), numbers());
    // Nobody executes it again.
    server.kill9();
    server.restart();
    assert_eq!(server.client().response(&id).await, response);
}

/// A run that has said `a` and sleeps, and one that can be told apart from it.
async fn two_asleep(server: &Server) -> [String; 2] {
    let client = server.client();
    let mut ids = Vec::new();
    for input in ["used 3; say a; wait 2500; say b", "used 3; say a; wait 2501; say b"] {
        let mut stream = client.stream(json!({"model": "keeper", "input": input, "conversation": input})).await;
        ids.push(events::response_id(&stream.until_delta(1).await));
    }
    [ids.remove(0), ids.remove(0)]
}

/// Does something to the row of one of two runs while the server is down. That one fails, the other completes.
async fn damaged(database: Database, sql: &str, says: &str, tokens: u64) {
    let folder = plugins::folder("keeper");
    let options = Options::new(database).plugins(folder.path()).config("[limits]\nidle_after = \"100ms\"");
    let mut server = Server::start(options);
    let [damaged, whole] = two_asleep(&server).await;
    server.kill9();
    let mut connection = server.database().await;
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&damaged).execute(&mut connection).await.unwrap();
    server.restart();
    let client = server.client();
    // Until it wakes, what it has said so far may not be readable.
    let response = wait::eventually("the run fails", async || {
        let answer = client.get(&damaged).await;
        assert!(matches!(answer.status, 200 | 500), "{}", answer.body);
        (answer.status == 200).then(|| answer.response()).filter(|response| response["status"] == "failed")
    })
    .await;
    assert!(response["error"]["message"].as_str().unwrap().contains(says), "{response}");
    assert_eq!(response["usage"]["input_tokens"], tokens, "{response}");
    let response = client.ended(&whole).await;
    assert_eq!(
        (response["status"].as_str(), &response["output"][0]["content"][0]["text"]),
        (Some("completed"), &json!("a\nb\n"))
    );
    serves(&client).await;
    // Its conversation is free.
    let again = json!({"model": "keeper", "input": "say c", "conversation": "used 3; say a; wait 2500; say b"});
    assert_eq!(client.post(again).await.response()["status"], "completed");
}

async fn a_request_that_cannot_be_read_any_more_ends_its_run_alone(database: Database) {
    damaged(database, "UPDATE responses SET request = '{\"input\":[' WHERE id = $1", "damaged", 3).await;
}

async fn events_that_cannot_be_read_any_more_end_their_run_alone(database: Database) {
    let sql = "UPDATE events SET last_sequence = last_sequence + 5 WHERE response_id = $1 AND first_sequence = 0";
    damaged(database, sql, "cannot be read", 3).await;
}

async fn bytes_in_the_place_of_events_end_their_run_alone(database: Database) {
    let bytes = if matches!(database, Database::Sqlite) { "X'ff00ff'" } else { "'\\xff00ff'" };
    let sql = format!("UPDATE events SET frames = {bytes} WHERE response_id = $1 AND first_sequence = 0");
    damaged(database, &sql, "cannot be read", 3).await;
}

#[tokio::test]
async fn a_row_that_cannot_be_taken_over_ends_its_run_alone() {
    // SQLite takes a text where a number belongs.
    damaged(Database::Sqlite, "UPDATE responses SET created_at = 'then' WHERE id = $1", "damaged", 0).await;
}
