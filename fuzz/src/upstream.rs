//! What an upstream answers, over a real connection: whatever it is, the call ends, and its answer is what was said.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use outlast_metrics::Metrics;
use outlast_model::{Call, Delta, Models, ModelsConfig, ProviderConfig, Secret};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// A call takes no longer: everything is on this machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// An upstream that answers with what it is told, and the client for it.
pub(crate) struct Upstream {
    runtime: Runtime,
    models: Models,
    says: Arc<Mutex<Bytes>>,
    /// The body of the last request.
    asked: Arc<Mutex<Vec<u8>>>,
}

pub(crate) static UPSTREAM: LazyLock<Upstream> =
    LazyLock::new(|| Upstream::start().unwrap_or_else(|error| panic!("{error}")));

pub(crate) fn target(bytes: &[u8]) {
    let mut call = Call { input: vec![json!({"role": "user", "content": "hi"})], ..Call::default() };
    call.options.insert("top_logprobs".to_owned(), json!(1));
    UPSTREAM.call(call, Bytes::copy_from_slice(bytes));
}

impl Upstream {
    fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let provider = ProviderConfig {
            base_url: Some(format!("http://{}/v1", listener.local_addr()?)),
            api_key: Some(Secret::new("sk-test")),
            max_retries: 0,
            ..ProviderConfig::default()
        };
        let config =
            ModelsConfig { default_model: Some("up/m".to_owned()), providers: [("up".to_owned(), provider)].into() };
        let models = Models::new(&config, &Metrics::new(1, 1).models).unwrap_or_else(|error| panic!("{error}"));
        let (says, asked) = (Arc::<Mutex<Bytes>>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let (said, heard) = (says.clone(), asked.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, said.clone(), heard.clone()));
            }
        });
        Ok(Self { runtime, models, says, asked })
    }

    /// Makes a call, which is answered with `says`. What was sent, if it was.
    pub(crate) fn call(&self, call: Call, says: Bytes) -> Option<Value> {
        *self.says.lock() = says;
        self.asked.lock().clear();
        let done = async { tokio::time::timeout(PATIENCE, self.ask(call)).await };
        self.runtime.block_on(done).unwrap_or_else(|_| panic!("a call does not end"));
        serde_json::from_slice(&self.asked.lock()).ok()
    }

    async fn ask(&self, call: Call) {
        let Ok(mut generation) = self.models.start(call).await else { return };
        let mut text = String::new();
        loop {
            match generation.next().await {
                Ok(Some(Delta::Text(delta))) => text.push_str(&delta),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    let again = generation.next().await.err().map(|error| error.code);
                    assert_eq!(again, Some(error.code), "it fails the same way again");
                    return;
                }
            }
        }
        let completion = generation.completion().unwrap_or_else(|error| panic!("{error:?}"));
        let whole = completion.items.iter().find(|item| item["type"] == "message");
        let parts = whole.and_then(|item| item["content"].as_array());
        let said = parts.and_then(|parts| parts.iter().find(|part| part["type"] == "output_text"));
        assert_eq!(said.map_or("", |part| part["text"].as_str().unwrap_or_default()), text);
        for call in completion.items.iter().filter(|item| item["type"] == "function_call") {
            assert!(call["call_id"].as_str().is_some_and(|id| !id.is_empty()), "{call}");
        }
    }
}

/// Reads requests, and answers each with what is to be said.
async fn answer(mut stream: TcpStream, says: Arc<Mutex<Bytes>>, asked: Arc<Mutex<Vec<u8>>>) -> Option<()> {
    let mut read = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            more(&mut stream, &mut read).await?;
        };
        let text = String::from_utf8_lossy(&read[..head]).to_lowercase();
        let length = text.split("content-length:").nth(1)?.lines().next()?.trim().parse::<usize>().ok()?;
        while read.len() < head + length {
            more(&mut stream, &mut read).await?;
        }
        *asked.lock() = read[head..head + length].to_vec();
        read.drain(..head + length);
        let body = says.lock().clone();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).await.ok()?;
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<()> {
    (stream.read_buf(read).await.ok()? > 0).then_some(())
}
