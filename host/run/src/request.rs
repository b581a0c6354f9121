//! A request as it is stored: what its run needs to be executed again, and what later runs go on from.

use std::borrow::Cow;

use outlast_protocol::{ConversationId, CreateRequest, ResponseId};
use outlast_store::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The columns `previous_response_id` and `conversation_id` of its row say what it goes on from; all else is here.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct StoredRequest<'a> {
    /// The request without its input.
    fields: Cow<'a, Map<String, Value>>,
    /// The items before the input that are in no other row.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub earlier: Cow<'a, [Value]>,
    /// The input.
    pub input: Cow<'a, [Value]>,
}

impl StoredRequest<'_> {
    /// The text to store.
    pub fn write(request: &CreateRequest) -> String {
        super::to_json(&StoredRequest {
            fields: Cow::Borrowed(&request.fields),
            earlier: Cow::Borrowed(&request.earlier),
            input: Cow::Borrowed(&request.input),
        })
    }

    /// Reads what was stored.
    pub fn read(text: &str) -> Result<Self, StoreError> {
        serde_json::from_str(text).map_err(|error| StoreError::Damaged(format!("a stored request: {error}")))
    }

    /// The request as it was accepted, as far as its run has to know it.
    pub fn into_request(self, previous: Option<ResponseId>, conversation: Option<ConversationId>) -> CreateRequest {
        let fields = self.fields.into_owned();
        CreateRequest {
            model: fields.get("model").and_then(Value::as_str).unwrap_or_default().to_owned(),
            input: self.input.into_owned(),
            store: true,
            stream: false,
            background: fields.get("background") == Some(&Value::Bool(true)),
            previous,
            conversation,
            earlier: self.earlier.into_owned(),
            fields,
        }
    }
}

fn is_empty(items: &[Value]) -> bool {
    items.is_empty()
}
