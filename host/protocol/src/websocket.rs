//! The messages of the WebSocket form of `/v1/responses`.
//!
//! A client sends `response.create` with the body of a request. It gets the events of the response, each as one
//! message with the JSON that a stream has behind `data: `, and errors as `{"type":"error","status",…,"error":{…}}`.

use serde_json::{Map, Value, json};

use super::{check::Checked, error::ApiError};

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

/// Checks the fields that mean something else on a WebSocket, where every answer is events and every run is watched.
/// `stream` and `stream_options` are accepted, and without effect.
///
/// # Errors
///
/// `background` is true, or the message has a `stream_id`.
pub fn check_message(fields: &Map<String, Value>) -> Result<(), ApiError> {
    if fields.get("background").is_some_and(|value| value == true) {
        let message = "'background' can only be false on a WebSocket: every response is sent as events.";
        return Err(ApiError::invalid("background", "unsupported_value", message));
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
    fn fields_of_http_are_accepted_where_they_mean_the_same() {
        let check = |field: &str| {
            let fields = read_message(&format!(r#"{{"type": "response.create", {field}}}"#)).unwrap();
            check_message(&fields).map_err(|error| error.code)
        };
        for right in [r#""stream": true"#, r#""stream": false"#, r#""stream_options": {}"#, r#""background": false"#] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        assert_eq!(check(r#""background": true"#), Err("unsupported_value"));
        assert_eq!(check(r#""stream_id": "a""#), Err("unsupported_parameter"));
        assert_eq!(check(r#""stream_id": null"#), Ok(()));
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
