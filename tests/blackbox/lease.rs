//! What leaves a server for its runs leaves as long as it owns them.
//!
//! These tests have two threads: the servers that they are themselves go on while a line of the log is waited for.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    client::Client,
    database::Database,
    events::{self, text as said},
    mcp::{Mcp, TOKEN},
    plugins,
    postgres::Postgres,
    server::{Options, Server},
    upstream::{Upstream, call, end, stall, text},
    wait,
    way::Way,
    web::{Web, post},
};

/// All that runs can send something to, each over a way of its own.
struct World {
    database: Database,
    web: Web,
    upstream: Upstream,
    mcp: Mcp,
    letters: Way,
    redirects: Way,
    models: Way,
    tools: Way,
    plugins: TempDir,
}

impl World {
    async fn new(database: Database) -> Self {
        let (web, mcp) = (Web::start().await, Mcp::http_closing());
        let upstream =
            Upstream::start([vec![text("Hello."), end("stop")], vec![text("Once more."), end("stop")]]).await;
        let plugins = plugins::hostile_folder();
        plugins::add(plugins.path(), "courier");
        let (letters, redirects) = (Way::to(web.address()).await, Way::to(web.address()).await);
        let (models, tools) = (Way::to(upstream.address()).await, Way::to(&mcp.address()).await);
        Self { database, web, upstream, mcp, letters, redirects, models, tools, plugins }
    }

    fn ways(&self) -> [&Way; 4] {
        [&self.letters, &self.redirects, &self.models, &self.tools]
    }

    fn options(&self) -> Options {
        let (web, letters, redirects) = (self.web.address(), self.letters.address(), self.redirects.address());
        let config = format!(
            "lease = \"1s\"\n[agents.hostile]\ntools = [\"*\"]\n\
             [agents.hostile.http]\nhosts = [\"{web}\", \"{redirects}\"]\nprivate = true\n\
             [agents.courier.http]\nhosts = [\"{letters}\"]\nprivate = true\n\
             [providers.up]\nbase_url = \"http://{}/v1\"\n{}",
            self.models.address(),
            self.mcp.url("hub").replace(&self.mcp.address(), &self.tools.address()),
        );
        Options::new(self.database.clone()).plugins(self.plugins.path()).config(&config).env("MCP_TOKEN", TOKEN)
    }

    /// A server that was stopped when each of its runs had set out, and is at the other end of its way meanwhile; and
    /// the runs.
    async fn stopped_on_the_way(&self) -> (Server, Vec<String>) {
        let server = Server::start(self.options());
        server.logged(&["hub", "connected"]);
        for way in self.ways() {
            way.close().await;
        }
        let mut redirected = post(self.web.url(&format!("/redirect/307?to=http://{}/end", self.redirects.address())));
        redirected["options"] = json!({"idempotent": true});
        let mut ids = Vec::new();
        for (way, model, input) in [
            (&self.letters, "courier", format!("letters http://{} 1 idempotent", self.letters.address())),
            (&self.redirects, "hostile", format!("http {redirected}")),
            (&self.models, "chat/up/up-1", "hello".to_owned()),
            (&self.tools, "hostile", r#"tool hub__echo {"text": "hello"}"#.to_owned()),
        ] {
            let body = json!({"model": model, "input": input, "background": true});
            let mut stream = server.client().stream(body).await;
            ids.push(events::response_id(&stream.until(|event| event.number == 1).await));
            way.is_wanted().await;
        }
        server.stop();
        for way in self.ways() {
            way.open();
            way.is_reached().await;
        }
        (server, ids)
    }

    /// How often each of them has arrived.
    fn arrived(&self) -> [usize; 4] {
        let tools = self.mcp.calls().iter().filter(|call| call.starts_with("echo ")).count();
        [self.web.count("/letters/0"), self.web.count("/end"), self.upstream.requests().len(), tools]
    }
}

/// Each of the runs says that it has reached the other side.
async fn all_arrive(client: &Client, ids: &[String]) {
    for (id, part) in ids.iter().zip(["0:200", r#""status":200"#, "Hello.", "hello"]) {
        assert_eq!(client.ended(id).await["status"], "completed");
        let events = client.get_stream(id, None).await.rest().await;
        assert!(said(&events).contains(part), "{part}: {}", said(&events));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_replaced_on_the_way_sends_nothing_more() {
    let Some(database) = Database::postgres().await else { return };
    let world = World::new(database).await;
    let (mut old, ids) = world.stopped_on_the_way().await;
    let of_the_old: Vec<_> = world.ways().iter().map(|way| way.passing()).collect();
    let new = Server::start(world.options());
    all_arrive(&new.client(), &ids).await;
    assert_eq!(world.arrived(), [1; 4]);
    old.cont();
    assert!(!old.ended().await.success());
    for (connections, what) in of_the_old.iter().zip(["a letter", "a redirect", "a call of a model"]) {
        for connection in connections {
            assert_eq!(connection.sent().await, 0, "{what}");
        }
    }
    assert_eq!(world.arrived(), [1; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_not_replaced_sends_what_was_on_the_way() {
    let Some(database) = Database::postgres().await else { return };
    let world = World::new(database.clone()).await;
    let (server, ids) = world.stopped_on_the_way().await;
    database.lease_is_over().await;
    assert_eq!(world.arrived(), [0; 4]);
    server.cont();
    all_arrive(&server.client(), &ids).await;
    assert_eq!(world.arrived(), [1; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_database_sends_nothing_until_it_has_it_again() {
    let Some(postgres) = Postgres::private() else { return };
    let calculate = |id| -> Value { call(0, Some(id), Some("calculate"), r#"{"expression": "1 + 1"}"#) };
    let answers = [vec![calculate("call_1"), stall(), end("tool_calls")], vec![text("It is 2."), end("stop")]];
    let upstream = Upstream::start(answers).await;
    let plugins = plugins::folder("assistant");
    let options = Options::new(Database::Postgres(postgres.database().await)).plugins(plugins.path());
    let server = Server::start(upstream.options(options));
    let client = server.client();
    let mut stream = client.stream(json!({"model": "assistant/up-1", "input": "1 + 1?"})).await;
    stream.until(|event| event.number == 1).await;
    wait::eventually("the model is asked", async || (upstream.requests().len() == 1).then_some(())).await;
    // It notices that it has lost its database because it has something to write.
    let talk = json!({"model": "echo", "input": "a b c d e f", "metadata": {"delay_ms": "200"}});
    let mut talk = client.stream(talk).await;
    talk.until_delta(1).await;
    postgres.stop();
    server.logged(&["cannot write"]);
    upstream.release();
    server.logged(&["calls of models, tools and other servers wait"]);
    assert_eq!(upstream.requests().len(), 1);
    postgres.start();
    let events = stream.rest().await;
    assert_eq!(said(&events), "It is 2.");
    assert_eq!(upstream.requests().len(), 2);
    server.logged(&["calls of models, tools and other servers continue"]);
    talk.rest().await;
}
