//! A registry that is after something: credentials, and the memory of whoever fetches from it.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::stream;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{cli, scratch};

const SECRET: &str = "ann:kept-secret";

/// What a registry was asked: the paths, and what was shown with them.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A registry that sends for a token to another host, and says that it has nothing to whoever has it.
#[derive(Clone)]
struct Registry {
    realm: String,
    asked: Asked,
}

async fn listening(app: Router) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}

fn shown(headers: &HeaderMap) -> Option<String> {
    headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned())
}

async fn answer(State(registry): State<Registry>, uri: Uri, headers: HeaderMap) -> Response {
    let authorization = shown(&headers);
    registry.asked.lock().unwrap().push((uri.path().to_owned(), authorization.clone()));
    match authorization {
        Some(token) if token == "Bearer a-token" => StatusCode::NOT_FOUND.into_response(),
        _ => {
            let challenge = format!("Bearer realm=\"{}\",service=\"tests\"", registry.realm);
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
        }
    }
}

/// Gives everybody a token.
async fn token(State(asked): State<Asked>, uri: Uri, headers: HeaderMap) -> String {
    asked.lock().unwrap().push((uri.to_string(), shown(&headers)));
    json!({"token": "a-token"}).to_string()
}

/// Fetches from a registry whose credentials are known, with this configuration, and fails.
async fn add(port: u16, config: &str) -> String {
    let (docker, folder) = (scratch::dir("docker-"), scratch::dir("plugins-"));
    let login = json!({"auths": {format!("127.0.0.1:{port}"): {"auth": STANDARD.encode(SECRET)}}});
    fs::write(docker.path().join("config.json"), login.to_string()).unwrap();
    let path = folder.path().join("outlast.toml");
    fs::write(&path, format!("plugins = \"{}\"\n{config}", folder.path().display())).unwrap();
    tokio::task::spawn_blocking(move || added(port, &docker, &folder)).await.unwrap()
}

fn added(port: u16, docker: &TempDir, folder: &TempDir) -> String {
    let reference = format!("oci://127.0.0.1:{port}/team/hostile:1");
    let config = folder.path().join("outlast.toml");
    let mut command = cli::command(["plugin", "add", &reference, "--config", config.to_str().unwrap()]);
    let ended = command.env("DOCKER_CONFIG", docker.path()).output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_no_realm_that_is_not_the_registrys_own_or_named() {
    let (asked, tokens) = (Asked::default(), Asked::default());
    let elsewhere = listening(Router::new().route("/token", get(token)).with_state(tokens.clone())).await;
    // Another name, as far as anybody knows.
    let registry = Registry { realm: format!("http://localhost:{elsewhere}/token"), asked: asked.clone() };
    let port = listening(Router::new().fallback(answer).with_state(registry)).await;
    let why = add(port, "").await;
    assert!(why.contains("registry_realms = [\"localhost\"]") && why.contains("own host only"), "{why}");
    assert!(tokens.lock().unwrap().is_empty(), "{tokens:?}");
    assert!(!why.contains("kept-secret"));

    let why = add(port, "registry_realms = [\"localhost\"]").await;
    assert!(why.contains("does not have it"), "{why}");
    let basic = format!("Basic {}", STANDARD.encode(SECRET));
    let query = "/token?scope=repository%3Ateam%2Fhostile%3Apull&service=tests".to_owned();
    assert_eq!(*tokens.lock().unwrap(), [(query, Some(basic))]);
    let path = "/v2/team/hostile/manifests/1".to_owned();
    let expected = [(path.clone(), None), (path.clone(), None), (path, Some("Bearer a-token".to_owned()))];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_bounded_while_it_comes() {
    const PART: usize = 64 << 10;
    let sent = Arc::new(AtomicUsize::new(0));
    let endless = |State(sent): State<Arc<AtomicUsize>>| async move {
        let parts = stream::repeat_with(move || {
            sent.fetch_add(PART, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b' '; PART]))
        });
        Body::from_stream(parts)
    };
    let port = listening(Router::new().fallback(endless).with_state(sent.clone())).await;
    let why = add(port, "[limits]\nplugin_fetch_timeout = \"20s\"").await;
    assert!(why.contains("its manifest is larger than 4194304 bytes"), "{why}");
    // What was on its way is in buffers of the system.
    assert!(sent.load(Ordering::Relaxed) < 64 << 20, "{sent:?}");
}
