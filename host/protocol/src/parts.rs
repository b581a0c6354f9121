//! The parts of a message or of an output: text, images, files.
//!
//! What can be seen to be wrong or not served is refused here, before anything runs: there is no Files API, and the server
//! fetches nothing for a client.

use serde_json::{Map, Value};

use super::{
    check::{RequestLimits, one_of, wrong_type},
    error::ApiError,
    input::{check_text, required_string},
};

/// Checks the parts that `role` may send.
pub(super) fn check_parts(param: &str, parts: &[Value], role: &str, limits: &RequestLimits) -> Result<(), ApiError> {
    let kinds: &[&str] = match role {
        "assistant" => &["output_text", "refusal"],
        _ => &["input_text", "input_image", "input_file"],
    };
    for (index, part) in parts.iter().enumerate() {
        let param = format!("{param}[{index}]");
        let fields = part.as_object().ok_or_else(|| wrong_type(&param, "an object", part))?;
        let kind = required_string(&param, fields, "type")?;
        // Clients resend output text in other roles too; it is text all the same.
        if !(kind == "output_text" || kind == "input_text") {
            one_of(&format!("{param}.type"), kind, kinds)?;
        }
        match kind {
            "input_text" | "output_text" => {
                check_text(&format!("{param}.text"), required_string(&param, fields, "text")?, limits)?;
            }
            "refusal" => check_text(&format!("{param}.refusal"), required_string(&param, fields, "refusal")?, limits)?,
            "input_image" => check_image(&param, fields)?,
            "input_file" => check_file(&param, fields)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_image(param: &str, image: &Map<String, Value>) -> Result<(), ApiError> {
    not_served(param, image, "file_id", "'image_url', an https: or data: URL")?;
    let url = required_string(param, image, "image_url")?;
    let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase()).unwrap_or_default();
    let right = match scheme.as_str() {
        "https" | "http" => true,
        "data" => is_data_url(url),
        _ => false,
    };
    if right {
        return Ok(());
    }
    let message =
        format!("'{param}.image_url' is not an https: URL, nor a data: URL in base64: data:image/png;base64,…");
    Err(ApiError::invalid(format!("{param}.image_url"), "invalid_value", message))
}

fn check_file(param: &str, file: &Map<String, Value>) -> Result<(), ApiError> {
    for name in ["file_id", "file_url"] {
        not_served(param, file, name, "'file_data', a data: URL in base64")?;
    }
    if is_data_url(required_string(param, file, "file_data")?) {
        return Ok(());
    }
    let message = format!("'{param}.file_data' is not a data: URL in base64: data:application/pdf;base64,…");
    Err(ApiError::invalid(format!("{param}.file_data"), "invalid_value", message))
}

/// Refuses a field that this server does not serve, and says what to send instead.
fn not_served(param: &str, part: &Map<String, Value>, name: &str, instead: &str) -> Result<(), ApiError> {
    if part.get(name).is_none_or(Value::is_null) {
        return Ok(());
    }
    let message = format!("'{param}.{name}' is not supported by this server: send {instead}.");
    Err(ApiError::invalid(format!("{param}.{name}"), "unsupported_parameter", message))
}

fn is_data_url(url: &str) -> bool {
    let data = url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    data && url.split_once(',').is_some_and(|(head, _)| head.ends_with(";base64"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_or_a_file_that_no_model_can_be_given_is_refused() {
        let limits = RequestLimits { text_bytes: 10, input_items: 1 };
        let check =
            |part: Value| check_parts("p", &[part], "user", &limits).map_err(|error| error.param.unwrap_or_default());
        for right in [
            json!({"type": "input_image", "image_url": "https://example.com/a.png"}),
            json!({"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "file_id": null}),
            json!({"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi0="}),
        ] {
            assert_eq!(check(right.clone()), Ok(()), "{right}");
        }
        for (wrong, param) in [
            (json!({"type": "input_image"}), "p[0].image_url"),
            (json!({"type": "input_image", "image_url": {"url": "https://x"}}), "p[0].image_url"),
            (json!({"type": "input_image", "image_url": "iVBORw0KGgo="}), "p[0].image_url"),
            (json!({"type": "input_image", "image_url": "file:///etc/passwd"}), "p[0].image_url"),
            (json!({"type": "input_image", "image_url": "data:image/png,x"}), "p[0].image_url"),
            (json!({"type": "input_image", "file_id": "file_1"}), "p[0].file_id"),
            (json!({"type": "input_file", "file_id": "file_1"}), "p[0].file_id"),
            (json!({"type": "input_file", "file_url": "https://example.com/a.pdf"}), "p[0].file_url"),
            (json!({"type": "input_file", "file_data": "JVBERi0="}), "p[0].file_data"),
            (json!({"type": "input_file", "filename": "a"}), "p[0].file_data"),
        ] {
            assert_eq!(check(wrong.clone()), Err(param.to_owned()), "{wrong}");
        }
    }
}
