//! Bodies: right ones of every operation.

use fastrand::Rng;
use serde_json::{Value, json};

use super::values::{once_in, one};

/// A right body of the operation at `path`; none where it takes none. `response` and `conversation` are ids.
pub fn of(path: &str, rng: &mut Rng, response: String, conversation: String) -> Option<Value> {
    Some(match path {
        "/v1/responses" => create(rng, response, conversation),
        "/v1/responses/compact" | "/v1/responses/input_tokens" => {
            let mut body = json!({"model": "echo", "input": input(rng)});
            if once_in(rng, 3) {
                body["previous_response_id"] = response.into();
            }
            body
        }
        "/v1/conversations" => json!({"metadata": {"a": "b"}, "items": items(rng)}),
        "/v1/conversations/{id}" => json!({"metadata": {"a": "c"}}),
        "/v1/conversations/{id}/items" => json!({"items": items(rng)}),
        _ => return None,
    })
}

fn create(rng: &mut Rng, response: String, conversation: String) -> Value {
    let model = one(rng, &["echo", "echo", "echo", "echo/x", "chat", "nobody"]);
    let mut body = json!({"model": model, "input": input(rng)});
    if rng.bool() {
        body["metadata"] = json!({"delay_ms": one(rng, &["0", "1", "20", "300", "10000"])});
    }
    match rng.u8(..6) {
        0 => body["previous_response_id"] = response.into(),
        1 => body["conversation"] = conversation.into(),
        2 => body["conversation"] = json!({"id": conversation}),
        _ => {}
    }
    for (name, value) in [
        ("stream", json!(true)),
        ("store", json!(false)),
        ("background", json!(true)),
        ("instructions", json!("Be brief.")),
        ("temperature", json!(0.5)),
        ("top_p", json!(1)),
        ("max_output_tokens", json!(100)),
        ("parallel_tool_calls", json!(false)),
        ("tool_choice", json!("auto")),
        ("tools", json!([{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true}])),
        (
            "tools",
            json!([{"type": "custom", "name": "c"}, {"type": "web_search"}, {"type": "namespace", "name": "n", "tools": []}]),
        ),
        ("tool_choice", json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "c"}]})),
        ("text", json!({"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}})),
        ("reasoning", json!({"effort": "low", "summary": "auto"})),
        ("include", json!(["reasoning.encrypted_content"])),
        ("truncation", json!("disabled")),
        ("user", json!("u")),
        ("service_tier", json!("auto")),
    ] {
        if once_in(rng, if ["stream", "store"].contains(&name) { 3 } else { 10 }) {
            body[name] = value;
        }
    }
    body
}

fn input(rng: &mut Rng) -> Value {
    if rng.bool() {
        return one(rng, &["a", "a b", "", "one two three four five six"]).into();
    }
    let mut items = items(rng);
    if once_in(rng, 4) {
        items.push(json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}));
        items.push(json!({"type": "function_call_output", "call_id": "c", "output": "1"}));
    }
    items.into()
}

fn items(rng: &mut Rng) -> Vec<Value> {
    let all = [
        json!({"role": "user", "content": "a"}),
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]}),
        json!({"role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}]}),
        json!({"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}),
        json!({"role": "user", "content": [{"type": "input_file", "file_data": "data:text/plain;base64,eA==", "filename": "f"}]}),
        json!({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}]}),
        json!({"type": "web_search_call", "id": "ws_1", "status": "completed"}),
        json!({"type": "custom_tool_call", "call_id": "d", "name": "c", "input": "x"}),
        json!({"type": "additional_tools", "tools": [{"type": "custom", "name": "d"}]}),
        json!({"type": "item_reference", "id": "msg_1"}),
        json!({"type": "compaction", "encrypted_content": "AAAA"}),
    ];
    let usual = if once_in(rng, 3) { all.len() } else { 4 };
    (0..rng.usize(1..4)).map(|_| all[rng.usize(..usual)].clone()).collect()
}
