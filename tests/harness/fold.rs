//! From the events of a run to the response that they make, as a strict client does it.
//!
//! Panics where an SDK helper would throw: an item that is added twice or never done, a delta for an item that is
//! not open, a final text that is not its deltas, a terminal response that is not what was streamed.

use serde_json::{Value, json};

use super::events::Event;

/// Folds all events from the first on; the stream may stop anywhere.
#[track_caller]
pub fn fold(events: &[Event]) -> Value {
    let mut fold = Fold { response: Value::Null, open: Vec::new(), error: None };
    for event in events {
        fold.apply(event);
    }
    fold.response
}

struct Fold {
    response: Value,
    /// Which items are not done yet, by output index.
    open: Vec<bool>,
    /// What the event before the end says of a failure.
    error: Option<Value>,
}

impl Fold {
    #[track_caller]
    fn apply(&mut self, event: &Event) {
        let data = &event.data;
        assert!(self.error.is_none() || event.kind == "response.failed", "an error is followed by the end: {data}");
        if event.kind == "error" {
            for field in ["code", "message", "param"] {
                assert_eq!(data[field], data["error"][field], "SDKs read the one or the other: {data}");
            }
            self.error = Some(data["error"].clone());
            return;
        }
        let name = event.kind.strip_prefix("response.").expect("all types begin with `response.`");
        match name {
            "created" => {
                assert!(self.response.is_null(), "created twice");
                self.response = data["response"].clone();
                assert_eq!(self.response["output"], json!([]));
            }
            "queued" | "in_progress" => {
                assert_eq!(data["response"]["id"], self.response["id"]);
                assert_eq!(data["response"]["output"], json!([]));
                self.response["status"] = data["response"]["status"].clone();
            }
            "completed" | "failed" | "incomplete" => self.end(name, &data["response"]),
            "output_item.added" => {
                assert_eq!(index(data, "output_index"), self.open.len(), "items are added one after the other: {data}");
                self.output().push(data["item"].clone());
                self.open.push(true);
            }
            "output_item.done" => {
                let at = index(data, "output_index");
                self.item(data);
                assert!(std::mem::replace(&mut self.open[at], false), "done twice: {data}");
                let (mut streamed, done) = (self.output()[at].clone(), data["item"].clone());
                if let Some(status) = done.get("status") {
                    streamed["status"] = status.clone();
                }
                // What is sealed is sealed whole, at the end.
                if let Some(sealed) = done.get("encrypted_content") {
                    streamed["encrypted_content"] = sealed.clone();
                }
                // What a built-in tool is to do is not streamed.
                for field in
                    ["action", "operation"].into_iter().chain((done["execution"] == "client").then_some("arguments"))
                {
                    if let Some(said) = done.get(field) {
                        streamed[field] = said.clone();
                    }
                }
                assert_eq!(streamed, done, "the item is what was streamed");
                self.output()[at] = done;
            }
            "content_part.added" => self.add_part(data, "content", "content_index"),
            "content_part.done" => self.finish_part(data, "content", "content_index"),
            "output_text.delta" => {
                let likely = data["logprobs"].as_array().unwrap().clone();
                self.append(data, "content", "content_index", "text");
                self.part(data, "content", "content_index")["logprobs"].as_array_mut().unwrap().extend(likely);
            }
            "output_text.done" => self.finish(data, "content", "content_index", "text"),
            "refusal.delta" => self.append(data, "content", "content_index", "refusal"),
            "refusal.done" => self.finish(data, "content", "content_index", "refusal"),
            "reasoning_summary_part.added" => self.add_part(data, "summary", "summary_index"),
            "reasoning_summary_part.done" => self.finish_part(data, "summary", "summary_index"),
            "reasoning_summary_text.delta" => self.append(data, "summary", "summary_index", "text"),
            "reasoning_summary_text.done" => self.finish(data, "summary", "summary_index", "text"),
            "function_call_arguments.delta" => {
                let item = self.item(data);
                item["arguments"] = join(&item["arguments"], &data["delta"]);
            }
            "function_call_arguments.done" => assert_eq!(self.item(data)["arguments"], data["arguments"]),
            "custom_tool_call_input.delta" => {
                let item = self.item(data);
                item["input"] = join(&item["input"], &data["delta"]);
            }
            "custom_tool_call_input.done" => assert_eq!(self.item(data)["input"], data["input"]),
            other => panic!("an event that no client knows: {other}"),
        }
    }

    #[track_caller]
    fn end(&mut self, name: &str, response: &Value) {
        assert!(!self.open.contains(&true), "items are not done at the end: {response}");
        assert_eq!(self.response["id"], response["id"]);
        assert_eq!(self.response["output"], response["output"], "the output is what was streamed");
        let status = response["status"].as_str().unwrap();
        match name {
            "failed" if status == "cancelled" => assert!(self.error.is_none(), "{response}"),
            "failed" => {
                for field in ["code", "message"] {
                    let said = self.error.as_ref().map(|error| &error[field]);
                    assert!(said.is_none_or(|said| *said == response["error"][field]), "{response}");
                }
            }
            other => assert_eq!(status, other),
        }
        self.response = response.clone();
    }

    #[track_caller]
    fn output(&mut self) -> &mut Vec<Value> {
        self.response["output"].as_array_mut().expect("the response was created")
    }

    /// The item that an event speaks of, which must be open.
    #[track_caller]
    fn item(&mut self, data: &Value) -> &mut Value {
        let at = index(data, "output_index");
        assert_eq!(self.open.get(at), Some(&true), "not an open item: {data}");
        let item = &mut self.output()[at];
        if let Some(id) = data.get("item_id").or(data["item"].get("id")) {
            assert_eq!(&item["id"], id, "ids do not change: {data}");
        }
        item
    }

    #[track_caller]
    fn add_part(&mut self, data: &Value, list: &str, key: &str) {
        let parts = self.item(data)[list].as_array_mut().unwrap();
        assert_eq!(index(data, key), parts.len(), "parts are added one after the other: {data}");
        parts.push(data["part"].clone());
    }

    #[track_caller]
    fn part(&mut self, data: &Value, list: &str, key: &str) -> &mut Value {
        let parts = self.item(data)[list].as_array_mut().unwrap();
        assert_eq!(index(data, key) + 1, parts.len(), "only the last part is open: {data}");
        parts.last_mut().unwrap()
    }

    #[track_caller]
    fn finish_part(&mut self, data: &Value, list: &str, key: &str) {
        assert_eq!(*self.part(data, list, key), data["part"], "the part is what was streamed");
    }

    #[track_caller]
    fn append(&mut self, data: &Value, list: &str, key: &str, field: &str) {
        assert_ne!(data["delta"], "", "a delta says something: {data}");
        let part = self.part(data, list, key);
        part[field] = join(&part[field], &data["delta"]);
    }

    #[track_caller]
    fn finish(&mut self, data: &Value, list: &str, key: &str, field: &str) {
        assert_eq!(self.part(data, list, key)[field], data[field], "the text is its deltas");
    }
}

#[track_caller]
fn index(data: &Value, key: &str) -> usize {
    let number = data[key].as_u64().unwrap_or_else(|| panic!("no {key}: {data}"));
    usize::try_from(number).unwrap()
}

fn join(text: &Value, delta: &Value) -> Value {
    format!("{}{}", text.as_str().unwrap(), delta.as_str().unwrap()).into()
}
