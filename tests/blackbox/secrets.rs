//! Headers that the operator puts in do not come back to the component in another form, nor go where they do not belong.

use serde_json::json;

use super::http::{failure, hostile, outcome};
use crate::harness::{
    database::Database,
    web::{Web, get, post},
};

/// May reach this server, which gets a secret.
fn secretly(web: &Web) -> String {
    let address = web.address();
    format!(
        "hosts = [\"{address}\"]\nprivate = true\n\
         [agents.hostile.http.secrets.\"http://{address}\"]\nauthorization = \"Bearer t0p-s3cret\""
    )
}

#[tokio::test]
async fn an_answer_to_a_secret_is_whole_and_plain() {
    let web = Web::start().await;
    let (server, _folder) = hostile(Database::Sqlite, &secretly(&web));
    let mut wanted = get(web.url("/echo"));
    wanted["headers"] =
        json!([["Accept-Encoding", "gzip"], ["Range", "bytes=8-"], ["If-Range", "\"x\""], ["accept", "text/plain"]]);
    outcome(&server, &wanted).await;
    let sent = web.requests().pop().unwrap().headers;
    assert_eq!((sent["authorization"].as_str(), sent["accept"].as_str()), ("Bearer t0p-s3cret", "text/plain"));
    assert!(["accept-encoding", "range", "if-range"].iter().all(|name| !sent.contains_key(*name)), "{sent:?}");
    let (kind, code, message) = failure(&server, &get(web.url("/encoded"))).await;
    assert_eq!((&*kind, &*code), ("unavailable", "encoded_answer"), "{message}");
}

#[tokio::test]
async fn without_a_secret_a_component_asks_as_it_likes() {
    let web = Web::start().await;
    let (server, _folder) = hostile(Database::Sqlite, &format!("hosts = [\"{}\"]\nprivate = true", web.address()));
    let mut wanted = get(web.url("/encoded"));
    wanted["headers"] = json!([["accept-encoding", "gzip"], ["range", "bytes=8-"]]);
    assert_eq!(outcome(&server, &wanted).await["status"], 200);
    let sent = web.requests().pop().unwrap().headers;
    assert_eq!((sent["accept-encoding"].as_str(), sent["range"].as_str()), ("gzip", "bytes=8-"));
}

#[tokio::test]
async fn a_method_is_granted_at_the_host_that_it_is_said_of() {
    let (one, other) = (Web::start().await, Web::start().await);
    let grant = format!(
        "hosts = [\"{}\", {{ host = \"{}\", methods = [\"POST\"] }}]\nmethods = [\"GET\"]\nprivate = true",
        one.address(),
        other.address()
    );
    let (server, _folder) = hostile(Database::Sqlite, &grant);
    for (wanted, granted) in [
        (get(one.url("/")), true),
        (post(one.url("/")), false),
        (get(other.url("/")), false),
        (post(other.url("/")), true),
    ] {
        match granted {
            true => assert_eq!(outcome(&server, &wanted).await["status"], 200),
            false => {
                let (kind, code, message) = failure(&server, &wanted).await;
                assert_eq!((&*kind, &*code), ("denied", "method_not_granted"), "{message}");
            }
        }
    }
    // Nor does a header make another method of it.
    for name in ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override"] {
        let mut wanted = get(one.url("/"));
        wanted["headers"] = json!([[name, "DELETE"]]);
        let (kind, _, message) = failure(&server, &wanted).await;
        assert!(kind == "denied" && message.contains(&name.to_lowercase()), "{message}");
    }
    assert_eq!((one.requests().len(), other.requests().len()), (1, 1));
}
