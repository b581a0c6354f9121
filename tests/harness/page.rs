//! A page of some origin, in a real Chromium.
//!
//! Where `chromium` is not installed, the tests say so and end; in continuous integration that is a failure.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::{Html, IntoResponse as _, Response},
    routing::{get, post},
};
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{
    client, notice,
    process::{self, Signal},
    scratch, wait,
};

/// A server of one page, which the page reports to.
#[derive(Clone, Debug)]
pub struct Page {
    port: u16,
    shown: Arc<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    script: Mutex<String>,
    report: Mutex<Option<Value>>,
    /// The server that the name of the page leads to for all else: its address.
    behind: Mutex<Option<String>>,
}

impl Page {
    /// A server without a page.
    pub async fn start() -> Self {
        let shown = Arc::<Shown>::default();
        let app =
            Router::new().route("/", get(page)).route("/report", post(report)).fallback(pass).with_state(shown.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, shown }
    }

    /// From now on, the name of the page leads to the server at this address: for a browser, both are one.
    pub fn lead_to(&self, address: &str) {
        *self.shown.behind.lock() = Some(address.to_owned());
    }

    /// The origin of the page, when the server is called by this name.
    pub fn origin(&self, name: &str) -> String {
        format!("http://{name}:{}", self.port)
    }

    /// Opens a page of the origin with this name in a browser, and gives what it reports. `script` is the inside of an
    /// asynchronous function that adds to `seen`.
    ///
    /// None where Chromium is not installed.
    pub async fn opened(&self, name: &str, script: &str) -> Option<Value> {
        *self.shown.script.lock() = script.to_owned();
        *self.shown.report.lock() = None;
        let _browser = Browser::open(&self.origin(name))?;
        let report = wait::eventually("the page reports", async || self.shown.report.lock().take()).await;
        assert_eq!(report["thrown"], Value::Null, "{report}");
        Some(report)
    }
}

async fn page(State(shown): State<Arc<Shown>>) -> Html<String> {
    let script = shown.script.lock();
    Html(format!(
        "<!doctype html><body><script>(async () => {{\nconst seen = {{}};\ntry {{\n{script}\n}} catch (error) {{ seen.thrown = \
         String(error); }}\nfetch('/report', {{method: 'POST', body: JSON.stringify(seen)}});\n}})();</script></body>"
    ))
}

/// Passes a request on as it is, its `Host` included.
async fn pass(State(shown): State<Arc<Shown>>, request: Request) -> Response {
    let Some(address) = shown.behind.lock().clone() else { return StatusCode::NOT_FOUND.into_response() };
    let (head, body) = request.into_parts();
    let url = format!("http://{address}{}", head.uri);
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let sent = client::http().request(head.method, url).headers(head.headers).body(body).send().await.unwrap();
    (sent.status(), sent.bytes().await.unwrap()).into_response()
}

async fn report(State(shown): State<Arc<Shown>>, body: String) {
    *shown.report.lock() = Some(serde_json::from_str(&body).unwrap());
}

/// A browser. Ends when it is dropped.
#[derive(Debug)]
struct Browser {
    process: Child,
    _profile: TempDir,
}

impl Browser {
    fn open(url: &str) -> Option<Self> {
        let profile = scratch::dir("chromium-");
        let mut command =
            Command::new(notice::installed("chromium", "Chromium", "what pages can do in a browser was not tested")?);
        command.args([
            "--headless",
            // Tests may be root's, and containers have no place for its sandbox.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--remote-debugging-port=0",
            // Every name is this machine, as after DNS rebinding; and what is tried is not what the browser keeps from
            // pages of the network.
            "--host-resolver-rules=MAP * 127.0.0.1",
            "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = process::spawn(command, Signal::KILL).unwrap();
        Some(Self { process, _profile: profile })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        process::signal(&self.process, Signal::TERM);
        let _ = self.process.wait();
    }
}
