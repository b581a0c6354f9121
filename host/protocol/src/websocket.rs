//! The messages of the WebSocket form of `/v1/responses`.
//!
//! A client sends `response.create` with the body of a request. It gets the events of the response, each as one
//! message with the JSON that a stream has behind `data: `, and errors as `{"type":"error","status",…,"error":{…}}`.

use serde_json::{Map, Value, json};

use super::{check::Checked, error::ApiError};

/// Fields of a request that have no meaning on a WebSocket, where every answer is events and every run is watched.
const NOT_HERE: [&str; 3] = ["stream", "stream_options", "background"];

/// Reads a client's message into the fields of the request in it. Those that are null are absent.
///
/// # Errors
///
/// It is no JSON object, or its `type` is not `response.create`.
pub fn read_message(text: &str) -> Result<Map<String, Value>, ApiError> {
    let mut fields = Checked::body(text.as_bytes())?;
    Checked(&fields).required_string("type")?;
    Checked(&fields).one_of("type", &["response.create"])?;
    fields.remove("type");
    Ok(fields)
}

/// Checks that a message has no field that is not for WebSockets.
///
/// # Errors
///
/// The first such field.
pub fn check_message(fields: &Map<String, Value>) -> Result<(), ApiError> {
    if let Some(name) = NOT_HERE.into_iter().find(|name| fields.contains_key(*name)) {
        let message = format!("'{name}' is not accepted on a WebSocket: every response is sent as events.");
        return Err(ApiError::invalid(name, "unsupported_parameter", message));
    }
    if fields.contains_key("stream_id") {
        let message = "'stream_id' is not supported by this server: a WebSocket carries one response at a time.";
        return Err(ApiError::invalid("stream_id", "unsupported_parameter", message));
    }
    Ok(())
}

/// The message that tells of an error.
pub fn error_message(error: &ApiError) -> String {
    json!({"type": "error", "status": error.kind.status(), "error": error.envelope().error}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_is_named() {
        for (text, code, param) in [
            ("", "invalid_json", None),
            ("{", "invalid_json", None),
            ("[]", "invalid_type", None),
            ("{}", "missing_required_parameter", Some("type")),
            (r#"{"type": 3}"#, "invalid_type", Some("type")),
            (r#"{"type": "response.cancel"}"#, "invalid_value", Some("type")),
        ] {
            let error = read_message(text).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (code, param), "{text}");
        }
    }

    #[test]
    fn fields_of_http_are_refused_by_name() {
        for name in ["stream", "stream_options", "background", "stream_id"] {
            let fields = read_message(&format!(r#"{{"type": "response.create", "{name}": false}}"#)).unwrap();
            assert_eq!(check_message(&fields).unwrap_err().param.as_deref(), Some(name));
            let fields = read_message(&format!(r#"{{"type": "response.create", "{name}": null}}"#)).unwrap();
            assert!(check_message(&fields).is_ok());
        }
    }

    #[test]
    fn an_error_is_a_message_of_its_own() {
        let error = ApiError::invalid("model", "missing_required_parameter", "No model.");
        let message: Value = serde_json::from_str(&error_message(&error)).unwrap();
        assert_eq!(
            message,
            json!({"type": "error", "status": 400, "error": {
                "message": "No model.", "type": "invalid_request_error",
                "param": "model", "code": "missing_required_parameter",
            }})
        );
    }
}
