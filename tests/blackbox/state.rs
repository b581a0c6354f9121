//! What agents keep beyond their runs.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events, keys, plugins,
    server::{Options, Server},
    wait,
};

both_databases!(
    what_is_kept_is_there_for_later_runs_and_after_a_kill,
    a_replay_writes_nothing_twice,
    nobody_else_sees_it,
    runs_that_count_at_once_lose_nothing,
    a_conversation_takes_its_state_along,
    beyond_the_grant_nothing_is_kept,
    a_run_of_which_nothing_is_kept_keeps_nothing,
    many_keys_come_in_order,
);

const GRANT: &str = "[agents.keeper]\nstate = \"64KiB\"";

/// A server with the component `keeper`, and this configuration.
fn keeper(database: Database, config: &str) -> Server {
    let folder = plugins::folder("keeper");
    std::fs::copy(plugins::hostile(), folder.path().join("hostile.wasm")).unwrap();
    // It stays for the next start.
    let folder = folder.keep();
    Server::start(Options::new(database).plugins(&folder).config(config))
}

fn request(steps: &str) -> Value {
    json!({"model": "keeper", "input": steps})
}

/// What the agent says to these steps, without the last line feed.
async fn said(client: &Client, request: Value) -> String {
    let response = client.post(request).await.response();
    assert_eq!(response["status"], "completed", "{response}");
    response["output"][0]["content"][0]["text"].as_str().unwrap_or_default().trim_end().to_owned()
}

async fn steps(client: &Client, steps: &str) -> String {
    said(client, request(steps)).await
}

async fn what_is_kept_is_there_for_later_runs_and_after_a_kill(database: Database) {
    let mut server = keeper(database, GRANT);
    let client = server.client();
    // A run sees what it has written at once.
    assert_eq!(steps(&client, "set principal name Ada; get principal name; keys principal").await, "Ada\nname");
    assert_eq!(steps(&client, "get principal name; set principal name Bob; set principal age 7").await, "Ada");
    assert_eq!(steps(&client, "set run here 1; get run here; delete run here; get run here; keys run").await, "1\n-");
    server.kill9();
    server.restart();
    let client = server.client();
    assert_eq!(steps(&client, "get principal name; keys principal; get run here").await, "Bob\nage name\n-");
    let replaced = "replace principal name Eve X; replace principal name Bob -; replace principal name - New";
    assert_eq!(steps(&client, &format!("{replaced}; get principal name")).await, "false\ntrue\ntrue\nNew");
    assert_eq!(steps(&client, "delete principal name; delete principal none; get principal name").await, "-");
    assert_eq!(steps(&client, "keys principal").await, "age");
}

async fn a_replay_writes_nothing_twice(database: Database) {
    let mut server = keeper(database, GRANT);
    let first = "count principal n; count run r; get principal n; set principal mine 1; say ready";
    let input = format!("{first}; wait 1500; count run r; count principal n; get principal mine");
    let mut stream = server.client().stream(request(&input)).await;
    let mut seen = stream.until(|event| event.delta() == Some("ready\n")).await;
    wait::eventually("the timer is in the journal", async || {
        let id = events::response_id(&seen);
        server.entries(&id).await.contains(&"tasks.sleep".to_owned()).then_some(())
    })
    .await;
    server.kill9();
    seen.extend(stream.rest_or_cut().await);
    server.restart();
    // Another run changes it before the first one gets there again, or after: what that one read and did stands.
    let other = steps(&server.client(), "count principal n; set principal mine 2").await;
    let id = events::response_id(&seen);
    let response = server.client().ended(&id).await;
    assert_eq!(response["status"], "completed", "{response}");
    let text = response["output"][0]["content"][0]["text"].as_str().unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..5], ["1", "1", "1", "ready", "2"]);
    // Three were counted in all, none of them twice.
    let mut counts = [lines[5], &other];
    counts.sort_unstable();
    assert_eq!(counts, ["2", "3"]);
    assert_eq!(lines[6], if lines[5] == "3" { "2" } else { "1" });
    assert_eq!(steps(&server.client(), "get principal n; get principal mine").await, "3\n2");
}

async fn nobody_else_sees_it(database: Database) {
    let config =
        [keys::entry("ann"), keys::entry("bob"), GRANT.to_owned(), "[agents.hostile]\nstate = true".to_owned()];
    let server = keeper(database, &config.join("\n"));
    let (ann, bob) = (keys::client(&server, "ann"), keys::client(&server, "bob"));
    assert_eq!(steps(&ann, "set principal secret ann's; get principal secret").await, "ann's");
    assert_eq!(steps(&bob, "get principal secret; keys principal").await, "-");
    assert_eq!(steps(&bob, "set principal secret bob's; delete principal other").await, "");
    assert_eq!(steps(&ann, "get principal secret").await, "ann's");
    assert_eq!(said(&ann, json!({"model": "hostile", "input": "recall secret"})).await, "-");
    // Nor do conversations of one name.
    let talk = |text: &str| json!({"model": "keeper", "input": text, "conversation": "c"});
    assert_eq!(said(&ann, talk("set conversation k a; get conversation k; get principal k")).await, "a\n-");
    assert_eq!(said(&bob, talk("get conversation k")).await, "-");
}

async fn runs_that_count_at_once_lose_nothing(database: Database) {
    const RUNS: u64 = 20;
    let server = keeper(database, GRANT);
    let client = server.client();
    let counts = join_all((0..RUNS).map(|_| steps(&client, "count principal n; count principal n"))).await;
    let mut all: Vec<u64> = counts.iter().flat_map(|lines| lines.lines()).map(|line| line.parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (1..=2 * RUNS).collect::<Vec<_>>());
    // The last writer wins, and it is one of them.
    join_all((0..RUNS).map(|n| {
        let client = client.clone();
        async move { steps(&client, &format!("set principal last {n}; set principal last {n}!")).await }
    }))
    .await;
    assert!(steps(&client, "get principal last").await.ends_with('!'));
}

async fn a_conversation_takes_its_state_along(database: Database) {
    let server = keeper(database, GRANT);
    let client = server.client();
    let talk = |text: &str| json!({"model": "keeper", "input": text, "conversation": "talk"});
    assert_eq!(said(&client, talk("set conversation topic tea; set principal topic all")).await, "");
    assert_eq!(said(&client, talk("get conversation topic; get principal topic")).await, "tea\nall");
    let other = json!({"model": "keeper", "input": "get conversation topic", "conversation": "other"});
    assert_eq!(said(&client, other).await, "-");
    let none = steps(&client, "get conversation topic; set conversation topic x").await;
    let expected = "not-found no_conversation: This response does not belong to a conversation.";
    assert_eq!(none.lines().collect::<Vec<_>>(), [expected, expected]);
    // One that goes on while its conversation is deleted keeps nothing for a later one of the same name.
    let mut stream = client.stream(talk("say on; wait 300; set conversation topic late; get principal topic")).await;
    let seen = stream.until_delta(1).await;
    client.send(client.request(Method::DELETE, "/v1/conversations/talk")).await.ok();
    stream.rest().await;
    client.ended(&events::response_id(&seen)).await;
    assert_eq!(said(&client, talk("get conversation topic; get principal topic")).await, "-\nall");
    let count = sqlx::query("SELECT COUNT(*) FROM state WHERE conversation_id <> ''");
    let row = count.fetch_one(&mut server.database().await).await.unwrap();
    assert_eq!(row.get::<i64, _>(0), 0);
}

async fn beyond_the_grant_nothing_is_kept(database: Database) {
    let limits = "[limits]\nstate_value_bytes = \"3KiB\"\nstate_key_bytes = 20";
    let mut server = keeper(database, &format!("[agents.keeper]\nstate = \"8KiB\"\n{limits}"));
    let client = server.client();
    let failure = |said: &str, kind: &str, name: &str| {
        let lines: Vec<_> = said.lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with(kind) && lines[0].contains(name), "{said}");
    };
    failure(&steps(&client, "fill principal a 3073").await, "limit value_too_large", "limits.state_value_bytes");
    failure(
        &steps(&client, "set principal 123456789012345678901 x").await,
        "invalid invalid_key",
        "limits.state_key_bytes",
    );
    failure(&steps(&client, "set principal  x").await, "invalid invalid_key", "limits.state_key_bytes");
    // Each counts as its key, its value and 100 bytes: 8192 bytes are 3072 + 101, 3072 + 101, and 1745 + 101.
    assert_eq!(steps(&client, "fill principal a 3072; fill principal b 3072").await, "");
    failure(
        &steps(&client, "fill principal c 1746; get principal d").await.replace("\n-", ""),
        "limit state_full",
        "8192",
    );
    assert_eq!(steps(&client, "fill principal c 1745; set principal c less; delete principal d").await, "");
    // As many at once as come: together no more than is granted.
    let refused = join_all((0..8).map(|n| {
        let client = client.clone();
        async move { steps(&client, &format!("fill principal k{n} 500")).await }
    }))
    .await;
    assert_eq!(refused.iter().filter(|said| said.is_empty()).count(), 2, "{refused:?}");
    // A grant that was lowered leaves what there is.
    server.restart_with(options_of(&server, "[agents.keeper]\nstate = \"1KiB\""));
    let client = server.client();
    failure(&steps(&client, "fill principal new 10").await, "limit state_full", "1024");
    assert_eq!(steps(&client, "fill principal a 100; fill principal b 100; delete principal c").await, "");
    // And one that is taken away denies, with the line that would allow it, to the operator too.
    server.restart_with(options_of(&server, "[agents.keeper]\nstate = false"));
    let denied = steps(&server.client(), "get principal a").await;
    failure(&denied, "denied state_not_granted", "`state = \"1MiB\"` in the section `[agents.keeper]`");
    server.logged(&["state = \"1MiB\"", "[agents.keeper]"]);
    for step in ["set principal a 1", "delete principal a", "replace principal a - 1", "keys principal", "set run a 1"]
    {
        failure(&steps(&server.client(), step).await, "denied state_not_granted", "[agents.keeper]");
    }
}

/// The options of this server, with this configuration instead.
fn options_of(server: &Server, config: &str) -> Options {
    server.options().clone().reconfigured(config)
}

async fn a_run_of_which_nothing_is_kept_keeps_nothing(database: Database) {
    let server = keeper(database, GRANT);
    let client = server.client();
    assert_eq!(steps(&client, "set principal a 1; set principal b 2").await, "");
    let mut ephemeral = request(
        "get principal a; set principal a 9; delete principal b; set principal c 3; get principal a; keys principal; count principal n; count principal n",
    );
    ephemeral["store"] = false.into();
    assert_eq!(said(&client, ephemeral.clone()).await, "1\n9\na c\n1\n2");
    assert_eq!(said(&client, ephemeral).await, "1\n9\na c\n1\n2");
    assert_eq!(steps(&client, "get principal a; keys principal").await, "1\na b");
    let mut large = request("fill principal x 60000; fill principal y 6000");
    large["store"] = false.into();
    assert!(said(&client, large).await.starts_with("limit state_full"), "the grant is the same");
}

async fn many_keys_come_in_order(database: Database) {
    let server = keeper(database, "[agents.keeper]\nstate = true");
    let client = server.client();
    assert_eq!(
        steps(&client, "set principal a 1; many principal 2100; set principal z 1; set principal ü 1").await,
        ""
    );
    let all = steps(&client, "keys principal").await;
    let keys: Vec<_> = all.split(' ').collect();
    assert_eq!((keys.len(), keys[0], keys[1], keys[2_101], keys[2_102]), (2_103, "a", "many-0000", "z", "ü"));
    assert_eq!(steps(&client, "keys principal many-209").await.split(' ').count(), 10);
    // What is not committed yet stands among what is.
    let mixed = "delete principal many-0000; set principal many-00005 1; delete principal z; keys principal";
    let mixed = steps(&client, mixed).await;
    let keys: Vec<_> = mixed.split(' ').collect();
    assert_eq!((keys.len(), keys[1], keys[2_100], keys[2_101]), (2_102, "many-00005", "many-2099", "ü"));
}
