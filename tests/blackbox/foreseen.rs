//! What a run draws and how its requests are called: the same ones again after a stop, and foreseen by nobody.

use serde_json::json;

use super::http::{hostile, key, only, request, seen};
use crate::harness::{
    database::{Database, both_databases},
    events::{self, text},
    web::{Web, post},
};

both_databases!(a_run_from_before_the_secret_goes_on_with_the_keys_of_its_id);

async fn a_run_from_before_the_secret_goes_on_with_the_keys_of_its_id(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = hostile(database, &only(&web));
    let mut wanted = post(web.url("/stall"));
    wanted["options"] = json!({"idempotent": true});
    let mut stream = server.client().stream(request("http", wanted)).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    seen(&web, "/stall", 1).await;
    server.kill9();
    // The server that accepted it had no secret for runs.
    let forgotten = sqlx::query("DELETE FROM secrets WHERE name LIKE 'runs%'");
    assert_eq!(forgotten.execute(&mut server.database().await).await.unwrap().rows_affected(), 2);
    web.release();
    server.restart();
    let events = server.client().get_stream(&id, None).await.rest().await;
    assert!(text(&events).contains("released"), "{}", text(&events));
    let requests = web.requests();
    assert_eq!(requests.len(), 2);
    assert!(key(&requests[1]).starts_with(&format!("{id}-")), "{}", key(&requests[1]));

    // And a run that comes after it has keys that nobody foresees.
    let after = server.client().stream(request("http", post(web.url("/orders")))).await.rest().await;
    let id = events::response_id(&after);
    let requests = web.requests();
    let last = requests.last().unwrap();
    assert!(last.path == "/orders" && !key(last).contains(&id), "{}", key(last));
}
