//! How likely the tokens of an answer were, in the shape of the Responses API.

use serde_json::{Value, json};

/// The most tokens beside one that are read: the API knows no more.
const BESIDE: usize = 20;

/// Reads `logprobs.content` of a choice. What has not its shape is left out.
pub(super) fn logprobs(choice: &Value) -> Vec<Value> {
    let tokens = choice["logprobs"]["content"].as_array().into_iter().flatten();
    let read = tokens.filter_map(|token| {
        let beside = token["top_logprobs"].as_array().into_iter().flatten().take(BESIDE);
        let mut whole = one(token)?;
        whole["top_logprobs"] = beside.filter_map(one).collect();
        Some(whole)
    });
    read.collect()
}

fn one(token: &Value) -> Option<Value> {
    let text = token["token"].as_str()?;
    let bytes = token["bytes"].as_array().map(|bytes| bytes.iter().filter_map(Value::as_u64).collect());
    let bytes: Vec<u64> = bytes.unwrap_or_else(|| text.bytes().map(u64::from).collect());
    Some(json!({"token": text, "logprob": token["logprob"].as_f64()?, "bytes": bytes}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_the_shape_is_read_and_all_else_is_left_out() {
        let beside = json!({"token": "41", "logprob": -1.5, "bytes": null});
        let token = json!({"token": "42", "logprob": -0.5, "bytes": [52, 50], "top_logprobs": [beside, 7], "id": 3});
        let choice = json!({"logprobs": {"content": [token, {"token": 4}, {"token": "4", "logprob": "no"}]}});
        let beside = json!([{"token": "41", "logprob": -1.5, "bytes": [52, 49]}]);
        let expected = json!({"token": "42", "logprob": -0.5, "bytes": [52, 50], "top_logprobs": beside});
        assert_eq!(logprobs(&choice), [expected]);
        for none in [json!({}), json!({"logprobs": null}), json!({"logprobs": {"content": "x"}}), json!("x")] {
            assert!(logprobs(&none).is_empty());
        }
    }
}
