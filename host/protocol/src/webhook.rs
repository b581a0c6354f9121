//! Webhooks: endpoints, and the events that they are sent.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    check::{Checked, missing, one_of, wrong_type},
    error::{ApiError, ErrorKind, shown_id},
    id::ResponseId,
    status::TerminalStatus,
};

/// The types of events that are sent.
pub const WEBHOOK_EVENT_TYPES: [&str; 4] =
    ["response.completed", "response.failed", "response.incomplete", "response.cancelled"];
/// The longest name of an endpoint, in characters.
const NAME: usize = 256;
/// The longest URL, in bytes.
const URL: usize = 2_048;
/// The most types of events of an endpoint, and the longest one, in characters.
const TYPES: (usize, usize) = (100, 64);
/// What `runs` may be.
const RUNS: [&str; 2] = ["background", "all"];

/// The id of the event that a response has ended. It is a function of the response's: whoever is sent the event twice knows
/// it.
pub fn event_id(response: &ResponseId) -> String {
    response.as_str().replacen("resp_", "evt_", 1)
}

/// What an endpoint is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEvent {
    /// `evt_…`
    pub id: String,
    /// What happened.
    pub kind: &'static str,
    /// JSON.
    pub body: String,
}

impl WebhookEvent {
    /// A response has ended, at this time in milliseconds since 1970.
    pub fn ended(response: &ResponseId, status: TerminalStatus, at: i64) -> Self {
        let kind = match status {
            TerminalStatus::Completed => "response.completed",
            TerminalStatus::Failed => "response.failed",
            TerminalStatus::Incomplete => "response.incomplete",
            TerminalStatus::Cancelled => "response.cancelled",
        };
        let id = event_id(response);
        let body = sample(&id, kind, response.as_str(), at);
        Self { id, kind, body }
    }
}

/// The body of an event about the thing `about`.
pub fn sample(id: &str, kind: &str, about: &str, at: i64) -> String {
    let created_at = at / 1_000;
    json!({"id": id, "object": "event", "created_at": created_at, "type": kind, "data": {"id": about}}).to_string()
}

/// The id of a new endpoint: `whe_` and 32 hexadecimal digits.
pub fn webhook_id(uuid: Uuid) -> String {
    format!("whe_{}", uuid.simple())
}

/// Whether a text has the form of an id: the prefix (`whe_`, `whd_`) and 32 lower-case hexadecimal digits.
pub fn is_id(text: &str, prefix: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix(prefix).is_some_and(|digits| digits.len() == 32 && digits.bytes().all(hex))
}

/// A webhook endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WebhookEndpoint {
    /// `whe_…`
    pub id: String,
    /// Always `webhook_endpoint`.
    pub object: &'static str,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
    /// When it was changed last, in seconds since 1970.
    pub updated_at: i64,
    /// What its owner calls it.
    pub name: String,
    /// Where events are sent.
    pub url: String,
    /// The types of events that it wants.
    pub event_types: Vec<String>,
    /// Of which responses it is told: those in the `background`, or `all` that are stored.
    pub runs: &'static str,
    /// Whether nothing is sent to it, because it has answered 410 or its owner wants it so.
    pub disabled: bool,
    /// The beginning and the end of its secret.
    pub signing_secret_hint: String,
    /// Its secret, `whsec_…`: only when it was made, and when the secret was replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<String>,
}

/// A new endpoint, checked. The URL is looked at where it can be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateWebhook {
    /// What its owner calls it.
    pub name: String,
    /// Where events are to be sent.
    pub url: String,
    /// The types of events that it wants.
    pub event_types: Vec<String>,
    /// Whether it is told of all stored responses.
    pub all_runs: bool,
}

impl CreateWebhook {
    /// Reads the body of `POST /v1/webhook_endpoints`.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let UpdateWebhook { name, url, event_types, all_runs, .. } = UpdateWebhook::parse(body)?;
        Ok(Self {
            event_types: event_types.ok_or_else(|| missing("event_types"))?,
            name: name.ok_or_else(|| missing("name"))?,
            url: url.ok_or_else(|| missing("url"))?,
            all_runs: all_runs.unwrap_or(false),
        })
    }
}

/// What is to be changed of an endpoint, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateWebhook {
    /// Another name.
    pub name: Option<String>,
    /// Another URL.
    pub url: Option<String>,
    /// Other types of events.
    pub event_types: Option<Vec<String>>,
    /// Whether it is told of all stored responses.
    pub all_runs: Option<bool>,
    /// Whether it is not told any more.
    pub disabled: Option<bool>,
}

impl UpdateWebhook {
    /// Reads the body of `POST /v1/webhook_endpoints/{id}`.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields = fields(body)?;
        let checked = Checked(&fields);
        let name = checked.string("name")?;
        if name.is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
            let message = format!("'name' must have 1 to {NAME} characters, and no control characters.");
            return Err(ApiError::invalid("name", "invalid_value", message));
        }
        checked.text("name", NAME)?;
        let url = checked.string("url")?;
        if url.is_some_and(|url| url.is_empty() || url.len() > URL || url.chars().any(char::is_control)) {
            let message = format!("'url' must be a URL of at most {URL} bytes.");
            return Err(ApiError::invalid("url", "invalid_value", message));
        }
        checked.one_of("runs", &RUNS)?;
        Ok(Self {
            name: name.map(str::to_owned),
            url: url.map(str::to_owned),
            event_types: fields.get("event_types").map(event_types).transpose()?,
            all_runs: checked.string("runs")?.map(|runs| runs == "all"),
            disabled: checked.boolean("disabled")?,
        })
    }
}

/// Reads the body of `POST /v1/webhook_endpoints/{id}/rotate_secret`: whether the old secret signs as well for a day.
pub fn parse_rotation(body: &[u8]) -> Result<bool, ApiError> {
    Ok(Checked(&fields(body)?).boolean("keep_old_secret_active_for_24_hours")?.unwrap_or(false))
}

/// Reads the body of `POST /v1/webhook_endpoints/{id}/test`: the type of the event.
pub fn parse_webhook_test(body: &[u8]) -> Result<String, ApiError> {
    let fields = fields(body)?;
    let kind = Checked(&fields).required_string("event_type")?;
    event_type("event_type", kind).map(str::to_owned)
}

/// Checks a list of types of events: those that are sent here, and any that may be sent elsewhere.
pub fn check_event_types(types: &[String]) -> Result<(), ApiError> {
    if types.is_empty() {
        let message = "'event_types' must have at least one type.";
        return Err(ApiError::invalid("event_types", "array_below_min_length", message));
    }
    if types.len() > TYPES.0 {
        let message = format!("'event_types' must have at most {} types.", TYPES.0);
        return Err(ApiError::invalid("event_types", "array_above_max_length", message));
    }
    for (index, kind) in types.iter().enumerate() {
        event_type(&format!("event_types[{index}]"), kind)?;
    }
    Ok(())
}

/// Whether `word` says of which responses an endpoint is told: `background`, or `all`, which is true.
pub fn read_runs(word: &str) -> Result<bool, ApiError> {
    one_of("runs", word, &RUNS)?;
    Ok(word == "all")
}

/// A 404 for an endpoint.
pub fn webhook_not_found(id: &str) -> ApiError {
    let shown = shown_id(id);
    let message = format!("Webhook endpoint with id '{shown}' not found.");
    ApiError::new(ErrorKind::NotFound, "webhook_endpoint_not_found", message)
}

/// The fields of a body. An empty one has none.
fn fields(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.is_empty() { Ok(Map::new()) } else { Checked::body(body) }
}

fn event_types(value: &Value) -> Result<Vec<String>, ApiError> {
    let Value::Array(values) = value else { return Err(wrong_type("event_types", "an array of strings", value)) };
    let text = |(index, value): (usize, &Value)| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| wrong_type(&format!("event_types[{index}]"), "a string", value))
    };
    let types: Vec<_> = values.iter().enumerate().map(text).collect::<Result<_, _>>()?;
    check_event_types(&types)?;
    Ok(types)
}

fn event_type<'a>(param: &str, kind: &'a str) -> Result<&'a str, ApiError> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_');
    if (1..=TYPES.1).contains(&kind.len()) && kind.bytes().all(word) {
        return Ok(kind);
    }
    let message = format!(
        "'{param}' must be the type of an event, like `response.completed`; GET /v1/webhook_event_types lists those that \
         are sent."
    );
    Err(ApiError::invalid(param, "invalid_value", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_after_its_response() {
        let id = ResponseId::new(Uuid::from_u128(7));
        let event = WebhookEvent::ended(&id, TerminalStatus::Completed, 1_500);
        assert_eq!(event, WebhookEvent::ended(&id, TerminalStatus::Completed, 1_500));
        assert_eq!((&*event.id, event.kind), ("evt_00000000000000000000000000000007", "response.completed"));
        assert_eq!(
            event.body,
            "{\"id\":\"evt_00000000000000000000000000000007\",\"object\":\"event\",\"created_at\":1,\
             \"type\":\"response.completed\",\"data\":{\"id\":\"resp_00000000000000000000000000000007\"}}"
        );
    }

    #[test]
    fn an_id_has_its_form() {
        let id = webhook_id(Uuid::from_u128(7));
        assert!(is_id(&id, "whe_") && !is_id(&id, "whd_"));
        for wrong in ["", "whe_", "whe_0", "whe_0000000000000000000000000000000G"] {
            assert!(!is_id(wrong, "whe_"), "{wrong}");
        }
    }

    #[test]
    fn a_body_is_checked_and_what_is_wrong_named() {
        let body = json!({"name": "a", "url": "https://a.test", "event_types": ["response.failed", "batch.completed"]});
        let made = CreateWebhook::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!((made.event_types.len(), made.all_runs), (2, false));
        for (change, param) in [
            (json!({"name": null}), "name"),
            (json!({"name": ""}), "name"),
            (json!({"name": "a\u{0}"}), "name"),
            (json!({"name": "x".repeat(257)}), "name"),
            (json!({"url": null}), "url"),
            (json!({"url": 7}), "url"),
            (json!({"url": "x".repeat(2_049)}), "url"),
            (json!({"event_types": null}), "event_types"),
            (json!({"event_types": []}), "event_types"),
            (json!({"event_types": "response.failed"}), "event_types"),
            (json!({"event_types": vec!["a"; 101]}), "event_types"),
            (json!({"event_types": ["response.failed", 7]}), "event_types[1]"),
            (json!({"event_types": ["Not a type"]}), "event_types[0]"),
            (json!({"runs": "some"}), "runs"),
            (json!({"disabled": "no"}), "disabled"),
        ] {
            let mut wrong = body.clone();
            wrong.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let error = CreateWebhook::parse(wrong.to_string().as_bytes()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{change}");
        }
        assert_eq!(UpdateWebhook::parse(b"{}").unwrap(), UpdateWebhook::default());
        assert_eq!(parse_rotation(b""), Ok(false));
        assert_eq!(parse_rotation(b"{\"keep_old_secret_active_for_24_hours\": true}"), Ok(true));
        assert!(parse_webhook_test(b"").is_err() && parse_webhook_test(b"{\"event_type\": \"A\"}").is_err());
    }
}
