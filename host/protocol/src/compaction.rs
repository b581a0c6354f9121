//! Compaction: a conversation made shorter, in a form that a client carries.
//!
//! `POST /v1/responses/compact` answers with the user's messages and one item of type `compaction`, whose
//! `encrypted_content` only this server reads. Sent as input later, the item stands for what it was made of.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    check::{Checked, RequestLimits, missing},
    error::ApiError,
    id::ResponseId,
    input::COMPACTION,
    request::CreateRequest,
    response::Usage,
    schema::StoredItem,
    tools::short,
};

/// The fields of a request to compact. Others are ignored.
const FIELDS: [&str; 4] = ["model", "instructions", "previous_response_id", "conversation"];

/// What stands for the client's instructions when a model is asked for a summary.
const INSTRUCTIONS: &str = "You compact conversations. You are given a conversation of a user with an assistant, and \
                            then you are asked for its summary. The summary takes the place of everything in it but \
                            the user's own messages: whoever continues will know nothing else. Keep what is needed to \
                            continue: the goal, decisions and their reasons, facts, names, numbers, identifiers, code \
                            and paths that matter, results of tools, what is open and what comes next. Leave out \
                            greetings and repetitions. Do not continue the conversation, answer nothing in it, and \
                            call no tools. Write the summary alone.";
/// The last message of the conversation that the model sees.
const QUESTION: &str = "Write the summary of the conversation so far.";
/// How many tokens a conversation may have before it is compacted, where `context_management` does not say.
const THRESHOLD: u64 = 200_000;
/// The type of the last item of what is sealed where a compaction stands for everything before it.
const ALL: &str = "compaction_of_all";
/// What stands before a summary when it is given to an agent.
const PREFACE: &str = "An earlier part of this conversation was compacted. This is its summary:";

/// Reads the body of a request to compact. What comes back is not kept and says nothing yet.
///
/// # Errors
///
/// A field is wrong, or there is nothing to compact.
pub fn read_compact(body: &[u8], limits: &RequestLimits) -> Result<CreateRequest, ApiError> {
    let mut given = Checked::body(body)?;
    let input = given.remove("input");
    given.retain(|name, _| FIELDS.contains(&name.as_str()));
    if input.is_none() && !given.contains_key("previous_response_id") && !given.contains_key("conversation") {
        Checked(&given).required_string("model")?;
        return Err(missing("input"));
    }
    given.insert("input".to_owned(), input.unwrap_or_else(|| json!([])));
    given.insert("store".to_owned(), false.into());
    CreateRequest::from_fields(given, limits)
}

impl CreateRequest {
    /// The request that asks this request's agent for the summary of what came before.
    pub fn summary(&self) -> Self {
        summary_request(&self.model, self.fields.get("instructions").and_then(Value::as_str))
    }
}

/// The request that asks an agent for the summary of a conversation that was held under these instructions.
pub fn summary_request(model: &str, instructions: Option<&str>) -> CreateRequest {
    let instructions = match instructions {
        Some(given) => format!("{INSTRUCTIONS}\n\nThe conversation was held under these instructions:\n\n{given}"),
        None => INSTRUCTIONS.to_owned(),
    };
    let fields = [("model", json!(model)), ("instructions", json!(instructions)), ("store", json!(false))];
    CreateRequest {
        input: vec![message("user", QUESTION)],
        store: false,
        stream: false,
        background: false,
        previous: None,
        conversation: None,
        earlier: Vec::new(),
        fields: fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect::<Map<_, _>>(),
        model: model.to_owned(),
    }
}

/// How many tokens a conversation may have before a request with these fields wants it compacted; none when it does not.
pub fn compact_threshold(fields: &Map<String, Value>) -> Option<u64> {
    let entries = fields.get("context_management")?.as_array()?;
    let entry = entries.iter().find(|entry| entry["type"] == COMPACTION)?;
    Some(entry["compact_threshold"].as_u64().unwrap_or(THRESHOLD))
}

/// What of `context_management` has no effect.
pub(super) fn ignored(fields: &Map<String, Value>) -> impl Iterator<Item = String> {
    let entries = fields.get("context_management").and_then(Value::as_array).into_iter().flatten().enumerate();
    entries.filter_map(|(index, entry)| {
        let kind = entry["type"].as_str()?;
        (kind != COMPACTION).then(|| format!("context_management[{index}].type={}", short(kind)))
    })
}

/// A conversation that was compacted in a run: everything before the item that carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct AllOf {
    /// What the run goes on from.
    pub history: Vec<Value>,
    /// What is left of its input.
    pub input: Vec<Value>,
    /// What the summary cost.
    pub usage: Usage,
}

/// The last item of what is sealed.
#[derive(Deserialize, Serialize)]
struct Mark {
    r#type: String,
    history: usize,
    usage: Usage,
}

impl AllOf {
    /// What is sealed.
    pub fn write(&self) -> Vec<Value> {
        let mark = Mark { r#type: ALL.to_owned(), history: self.history.len(), usage: self.usage };
        let mark = serde_json::to_value(mark).unwrap_or_default();
        self.history.iter().chain(&self.input).cloned().chain([mark]).collect()
    }

    /// What was sealed; none when it stands for something else.
    pub fn read(mut sealed: Vec<Value>) -> Option<Self> {
        let Mark { history, usage, .. } = mark(&sealed)?;
        sealed.pop();
        let input = sealed.split_off(history.min(sealed.len()));
        Some(Self { history: sealed, input, usage })
    }
}

fn mark(sealed: &[Value]) -> Option<Mark> {
    let last = sealed.last().filter(|last| last["type"] == ALL)?;
    Mark::deserialize(last).ok()
}

/// Puts what a compaction item carried in the place of the item, after `items`, or in theirs too.
pub fn unfold(items: &mut Vec<Value>, mut sealed: Vec<Value>) {
    if mark(&sealed).is_some() {
        sealed.pop();
        items.clear();
    }
    items.append(&mut sealed);
}

/// Whether an item stays as it is when its conversation is compacted: a message of the user, or instructions that are not the
/// summary of an earlier compaction.
pub fn is_standing(item: &Value) -> bool {
    let is_summary = || item["content"][0]["text"].as_str().is_some_and(|text| text.starts_with(PREFACE));
    item["type"] == "message" && item["role"] != "assistant" && !(item["role"] == "developer" && is_summary())
}

/// The item that tells an agent of a summary.
pub fn summary_message(text: &str) -> Value {
    message("developer", &format!("{PREFACE}\n\n{text}"))
}

/// Whether an item is a message of the user.
pub fn is_user_message(item: &Value) -> bool {
    item["type"] == "message" && item["role"] == "user"
}

/// What a compaction item carries; none when the item is none.
pub fn sealed_content(item: &Value) -> Option<&str> {
    (item["type"] == COMPACTION).then(|| item["encrypted_content"].as_str().unwrap_or_default())
}

/// The sealed content of a reasoning item, if it has one.
pub fn sealed_reasoning(item: &Value) -> Option<&str> {
    if item["type"] == "reasoning" { item["encrypted_content"].as_str() } else { None }
}

/// A compaction item.
pub fn compaction_item(id: &str, sealed: String) -> Value {
    json!({"type": COMPACTION, "id": id, "encrypted_content": sealed})
}

/// A conversation that was made shorter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Compaction {
    /// `resp_…`; nothing is stored under it.
    pub id: String,
    /// Always `response.compaction`.
    pub object: &'static str,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
    /// What is left: the user's messages, and one item of type `compaction`.
    #[schema(value_type = Vec<StoredItem>)]
    pub output: Vec<Value>,
    /// What the summary cost.
    pub usage: Usage,
}

impl Compaction {
    /// What is left of a conversation, made at `created_at` (seconds since 1970).
    pub fn new(id: &ResponseId, created_at: i64, output: Vec<Value>, usage: Usage) -> Self {
        Self { id: id.as_str().to_owned(), object: "response.compaction", created_at, output, usage }
    }
}

/// A 400 for a compaction item that this server did not make for this principal.
pub fn not_sealed_here(param: &str) -> ApiError {
    let message = format!("'{param}' cannot be opened: it was not made by this server for you, or was changed.");
    ApiError::invalid(param, "invalid_encrypted_content", message)
}

fn message(role: &str, text: &str) -> Value {
    json!({"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RequestLimits = RequestLimits { text_bytes: 1 << 20, input_items: 1_000 };

    fn read(body: Value) -> Result<CreateRequest, ApiError> {
        read_compact(body.to_string().as_bytes(), &LIMITS)
    }

    #[test]
    fn a_request_to_compact_names_a_model_and_something_to_compact() {
        for (body, param) in [
            (json!({"input": "x"}), "model"),
            (json!({}), "model"),
            (json!({"model": "echo"}), "input"),
            (json!({"model": "echo", "input": null}), "input"),
            (json!({"model": "echo", "input": 3}), "input"),
            (json!({"model": "echo", "input": [{"type": "compaction"}]}), "input[0].encrypted_content"),
            (json!({"model": "echo", "input": "x", "instructions": 3}), "instructions"),
            (json!({"model": "echo", "previous_response_id": "x"}), "previous_response_id"),
        ] {
            assert_eq!(read(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
        let request = read(json!({"model": "chat/m", "input": "x", "temperature": "ignored", "stream": true})).unwrap();
        assert!(!request.store && !request.stream);
        let id = "resp_00000000000000000000000000000001";
        assert!(read(json!({"model": "echo", "previous_response_id": id})).unwrap().input.is_empty());
    }

    #[test]
    fn a_compaction_of_all_takes_the_place_of_what_is_before_it() {
        let item = |text: &str| message("user", text);
        let all = AllOf { history: vec![item("a")], input: vec![item("b")], usage: Usage::new(1, 0, 0, 2, 0) };
        assert_eq!(AllOf::read(all.write()), Some(all.clone()));
        assert_eq!(AllOf::read(vec![item("a")]), None);
        let mut items = vec![item("old")];
        unfold(&mut items, vec![item("a")]);
        assert_eq!(items, [item("old"), item("a")]);
        unfold(&mut items, all.write());
        assert_eq!(items, [item("a"), item("b")]);
    }

    #[test]
    fn instructions_stay_and_summaries_do_not() {
        assert!(is_standing(&message("user", "x")) && is_standing(&message("developer", "x")));
        assert!(!is_standing(&summary_message("x")) && !is_standing(&message("assistant", "x")));
    }

    #[test]
    fn the_threshold_is_that_of_the_request() {
        let of = |entries: Value| compact_threshold(json!({"context_management": entries}).as_object().unwrap());
        assert_eq!(of(json!([{"type": "compaction", "compact_threshold": 5}])), Some(5));
        assert_eq!(of(json!([{"type": "other"}, {"type": "compaction"}])), Some(THRESHOLD));
        assert_eq!(of(json!([{"type": "other"}])), None);
    }

    #[test]
    fn the_summary_is_asked_of_the_same_model_under_instructions_of_its_own() {
        let request = read(json!({"model": "chat/m", "input": "x", "instructions": "Speak Latin."})).unwrap();
        let summary = request.summary();
        assert_eq!((summary.agent(), summary.upstream()), ("chat", Some("m")));
        let instructions = summary.fields["instructions"].as_str().unwrap();
        assert!(instructions.starts_with(INSTRUCTIONS) && instructions.ends_with("Speak Latin."));
    }
}
