//! Conversations: `/v1/conversations`, and the `conversation` of a request.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    check::{Checked, RequestLimits, wrong_type},
    error::{ApiError, ErrorKind, shown_id},
    input,
    schema::Metadata,
};

/// The longest name of a conversation, in characters.
const NAME: usize = 256;
/// The most items of one request to `/v1/conversations`, as OpenAI has it.
const ITEMS: usize = 20;
/// What the ids of conversations begin with that were made through the API.
const MADE: &str = "conv_";

/// What a conversation is called: `conv_…`, when it was made through `/v1/conversations`, or a name that a client
/// chose, which is private to its principal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConversationId(String);

impl ConversationId {
    /// The id for a conversation that is made through the API.
    pub fn new(uuid: Uuid) -> Self {
        Self(format!("{MADE}{}", uuid.simple()))
    }

    /// Reads an id or a name: 1 to 256 characters, none of them a control character.
    pub fn parse(text: &str) -> Option<Self> {
        let right = (1..=NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        right.then(|| Self(text.to_owned()))
    }

    /// Reads the `conversation` of a request: a string, or an object with an `id`.
    pub(super) fn read(value: &Value) -> Result<Self, ApiError> {
        let (param, text) = match value {
            Value::String(text) => ("conversation", text),
            Value::Object(fields) => match fields.get("id") {
                Some(Value::String(text)) => ("conversation.id", text),
                Some(other) => return Err(wrong_type("conversation.id", "a string", other)),
                None => {
                    let message = "Missing required parameter: 'conversation.id'.";
                    return Err(ApiError::invalid("conversation.id", "missing_required_parameter", message));
                }
            },
            other => return Err(wrong_type("conversation", "a string or an object with an id", other)),
        };
        Self::parse(text).ok_or_else(|| {
            let message = format!("'{param}' must have 1 to {NAME} characters, and no control characters.");
            ApiError::invalid(param, "invalid_value", message)
        })
    }

    /// Whether a client chose this name: such a conversation begins to exist when it is first used.
    pub fn is_name(&self) -> bool {
        !self.0.starts_with(MADE)
    }

    /// The id as it stands in JSON and SQL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The conversation object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// `conv_…`, or the name that a client chose.
    pub id: String,
    /// Always `conversation`.
    pub object: String,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
    /// At most 16 pairs of strings; `{}` by default.
    #[schema(value_type = Metadata)]
    pub metadata: Value,
    /// The checkpoint: the last response that completed in this conversation and is still stored.
    #[schema(required)]
    pub latest_completed_response_id: Option<String>,
    /// The response that is being made in this conversation. Until it has ended, nothing else can be added.
    #[schema(required)]
    pub active_response_id: Option<String>,
}

/// The body of `POST /v1/conversations`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateConversation {
    /// At most 16 pairs of strings.
    pub metadata: Value,
    /// What the conversation begins with: at most 20 items.
    pub items: Vec<Value>,
}

impl CreateConversation {
    /// Reads and checks the body. An empty one is right.
    pub fn parse(body: &[u8], limits: &RequestLimits) -> Result<Self, ApiError> {
        let mut fields = if body.is_empty() { Map::new() } else { Checked::body(body)? };
        let items = fields.remove("items").map(|items| read_items(items, limits)).transpose()?;
        Checked(&fields).metadata()?;
        Ok(Self { metadata: fields.remove("metadata").unwrap_or_else(|| json!({})), items: items.unwrap_or_default() })
    }
}

/// Reads the body of `POST /v1/conversations/{id}`: the new metadata.
pub fn parse_metadata(body: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Checked::body(body)?;
    Checked(&fields).metadata()?;
    fields.remove("metadata").ok_or_else(|| {
        ApiError::invalid("metadata", "missing_required_parameter", "Missing required parameter: 'metadata'.")
    })
}

/// Reads the body of `POST /v1/conversations/{id}/items`: 1 to 20 items.
pub fn parse_items(body: &[u8], limits: &RequestLimits) -> Result<Vec<Value>, ApiError> {
    let mut fields = Checked::body(body)?;
    let items = fields.remove("items").ok_or_else(|| {
        ApiError::invalid("items", "missing_required_parameter", "Missing required parameter: 'items'.")
    })?;
    let items = read_items(items, limits)?;
    if items.is_empty() {
        return Err(ApiError::invalid("items", "array_below_min_length", "'items' must have at least one item."));
    }
    Ok(items)
}

fn read_items(items: Value, limits: &RequestLimits) -> Result<Vec<Value>, ApiError> {
    let Value::Array(items) = items else { return Err(wrong_type("items", "an array of items", &items)) };
    let items = input::normalize_items("items", items, &RequestLimits { input_items: ITEMS, ..*limits })?;
    match items.iter().position(input::is_reference) {
        None => Ok(items),
        Some(index) => {
            let message = "A conversation keeps items, not references to items: send the item itself.";
            Err(ApiError::invalid(format!("items[{index}].type"), "unsupported_value", message))
        }
    }
}

/// A 404 for a conversation.
pub fn conversation_not_found(id: &str) -> ApiError {
    let shown = shown_id(id);
    let message = format!("Conversation with id '{shown}' not found.");
    ApiError::new(ErrorKind::NotFound, "conversation_not_found", message)
}

/// A 409 for a conversation in which the response `active` is being made.
pub fn conversation_busy(id: &ConversationId, active: &str) -> ApiError {
    let message = format!(
        "Conversation '{id}' is waiting for response '{active}' to end. Wait for it, cancel it, or use another \
         conversation."
    );
    ApiError::new(ErrorKind::Conflict, "conversation_response_not_completed", message)
        .with_param("conversation")
        .about(active)
        .never_retry()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RequestLimits = RequestLimits { text_bytes: 100, input_items: 1_000 };

    #[test]
    fn a_conversation_has_an_id_or_a_name() {
        for (value, name) in [(json!("conv_1"), false), (json!({"id": "conv_1"}), false), (json!("Ann's käse"), true)]
        {
            assert_eq!(ConversationId::read(&value).unwrap().is_name(), name, "{value}");
        }
        for (value, param) in [
            (json!(""), "conversation"),
            (json!("x".repeat(257)), "conversation"),
            (json!("a\u{0}"), "conversation"),
            (json!(7), "conversation"),
            (json!({}), "conversation.id"),
            (json!({"id": 7}), "conversation.id"),
            (json!({"id": ""}), "conversation.id"),
        ] {
            assert_eq!(ConversationId::read(&value).unwrap_err().param.as_deref(), Some(param), "{value}");
        }
    }

    #[test]
    fn the_body_of_a_conversation_is_checked() {
        let body = json!({"metadata": {"a": "b"}, "items": [{"role": "user", "content": "hi"}]}).to_string();
        let conversation = CreateConversation::parse(body.as_bytes(), &LIMITS).unwrap();
        assert_eq!(conversation.items[0]["type"], "message");
        assert_eq!(CreateConversation::parse(b"", &LIMITS).unwrap().metadata, json!({}));
        let many = vec![json!({"role": "user", "content": "x"}); 21];
        for (body, param) in [
            (json!({"metadata": []}), "metadata"),
            (json!({"items": {}}), "items"),
            (json!({"items": [{}]}), "items[0].type"),
            (json!({"items": many}), "items"),
            (json!({"items": [{"role": "user", "content": "x"}, {"id": "msg_1"}]}), "items[1].type"),
        ] {
            let error = CreateConversation::parse(body.to_string().as_bytes(), &LIMITS).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{body}");
        }
        assert_eq!(parse_items(br#"{"items":[]}"#, &LIMITS).unwrap_err().param.as_deref(), Some("items"));
        assert_eq!(parse_metadata(b"{}").unwrap_err().param.as_deref(), Some("metadata"));
    }
}
