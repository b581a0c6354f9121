//! Bodies that a client has compressed.

use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::harness::{
    client::{Answer, Client},
    database::Database,
    server::{Options, Server},
};

const ENCODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

async fn compressed(encoding: &str, plain: &[u8]) -> Vec<u8> {
    async fn all<W: AsyncWrite + Unpin>(mut encoder: W, plain: &[u8]) -> W {
        encoder.write_all(plain).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder
    }
    match encoding {
        "gzip" => all(GzipEncoder::new(Vec::new()), plain).await.into_inner(),
        "deflate" => all(ZlibEncoder::new(Vec::new()), plain).await.into_inner(),
        "br" => all(BrotliEncoder::new(Vec::new()), plain).await.into_inner(),
        "zstd" => all(ZstdEncoder::new(Vec::new()), plain).await.into_inner(),
        other => panic!("{other}"),
    }
}

async fn post(client: &Client, encoding: &str, body: Vec<u8>) -> Answer {
    let request = client.request(Method::POST, "/v1/responses").header("content-type", "application/json");
    client.send(request.header("content-encoding", encoding).body(body)).await
}

#[tokio::test]
async fn a_compressed_body_is_the_same_request() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let said = "word ".repeat(20_000);
    let plain = json!({"model": "echo", "input": said, "store": false}).to_string();
    for encoding in ENCODINGS {
        let body = compressed(encoding, plain.as_bytes()).await;
        assert!(body.len() * 10 < plain.len(), "{encoding}");
        let response = post(&client, encoding, body).await.response();
        assert_eq!(response["output"][0]["content"][0]["text"].as_str().unwrap().len(), said.len(), "{encoding}");
    }
    post(&client, "identity", plain.clone().into_bytes()).await.response();
}

#[tokio::test]
async fn the_limit_of_a_body_counts_its_plain_form() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nbody_bytes = \"1MiB\""));
    let client = server.client();
    let bomb = vec![b' '; 64 << 20];
    for encoding in ENCODINGS {
        let body = compressed(encoding, &bomb).await;
        assert!(body.len() < 1 << 20, "{encoding}");
        post(&client, encoding, body).await.refused(413, "request_too_large");
    }
    assert_eq!(server.response_ids().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_encoded_as_it_says_is_refused() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let plain = json!({"model": "echo", "input": "hi"}).to_string();
    for encoding in ENCODINGS {
        post(&client, encoding, plain.clone().into_bytes()).await.refused(415, "invalid_content_encoding");
        let mut cut = compressed(encoding, plain.as_bytes()).await;
        cut.truncate(cut.len() / 2);
        post(&client, encoding, cut).await.refused(415, "invalid_content_encoding");
    }
    for encoding in ["compress", "gzip, br", "utf-8"] {
        let answer = post(&client, encoding, plain.clone().into_bytes()).await;
        answer.refused(415, "unsupported_content_encoding");
        assert!(answer.message().contains("zstd"), "{}", answer.body);
    }
}
