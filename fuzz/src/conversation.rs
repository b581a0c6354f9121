//! The items of a conversation, as a client sends them, on their way to a model.

use bytes::Bytes;
use outlast_model::Call;
use outlast_protocol::CreateRequest;
use serde_json::Value;

use crate::{request::LIMITS, upstream::UPSTREAM};

const ANSWER: &[u8] =
    b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ok\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

pub(crate) fn target(bytes: &[u8]) {
    let Ok(request) = CreateRequest::parse(bytes, &LIMITS) else { return };
    let instructions = request.fields.get("instructions").and_then(Value::as_str).map(str::to_owned);
    let call = Call { input: request.input, options: request.fields, instructions, ..Call::default() };
    let Some(sent) = UPSTREAM.call(call, Bytes::from_static(ANSWER)) else { return };
    let messages = sent["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(!messages.is_empty(), "nothing is said: {sent}");
    let mut called: Vec<&str> = Vec::new();
    for message in messages {
        let role = message["role"].as_str().unwrap_or_default();
        assert!(ROLES.contains(&role), "{message}");
        if role == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            assert!(called.contains(&id), "an output stands apart from its call: {sent}");
            continue;
        }
        let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
        called = calls.iter().filter_map(|call| call["id"].as_str()).collect();
    }
}
