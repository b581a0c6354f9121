//! How many tokens a call took, as Chat Completions servers count them.

use serde_json::Value;

use super::piece::Usage;

/// Reads `usage`. What is not a number is none.
pub(super) fn usage(usage: &Value) -> Usage {
    let (input, output) = (&usage["prompt_tokens_details"], &usage["completion_tokens_details"]);
    let input_tokens = count(&usage["prompt_tokens"]).max(count(&usage["input_tokens"]));
    let reasoning_tokens = count(&output["reasoning_tokens"]).max(count(&usage["reasoning_tokens"]));
    let mut output_tokens = count(&usage["completion_tokens"]).max(count(&usage["output_tokens"]));
    // xAI counts the reasoning beside the output; the total tells.
    let apart = input_tokens.checked_add(output_tokens).and_then(|sum| sum.checked_add(reasoning_tokens));
    if reasoning_tokens > 0 && apart == Some(count(&usage["total_tokens"])) {
        output_tokens += reasoning_tokens;
    }
    Usage {
        input_tokens,
        // The second is DeepSeek's.
        cached_tokens: count(&input["cached_tokens"]).max(count(&usage["prompt_cache_hit_tokens"])),
        cache_write_tokens: count(&input["cache_write_tokens"]).max(count(&input["cache_creation_tokens"])),
        output_tokens,
        reasoning_tokens,
    }
}

/// A whole number, also as a float or as text.
fn count(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.trim().parse().map_or(0, whole),
        value => value.as_u64().unwrap_or_else(|| value.as_f64().map_or(0, whole)),
    }
}

/// What is negative or no number is 0.
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reasoning_is_counted_into_the_output_once() {
        let read = |total: u64, output: u64| {
            usage(&json!({"prompt_tokens": 10, "completion_tokens": output, "total_tokens": total,
                "completion_tokens_details": {"reasoning_tokens": 4}}))
        };
        assert_eq!(read(15, 5).output_tokens, 5);
        assert_eq!(read(15, 1).output_tokens, 5);
        assert_eq!(usage(&json!({"prompt_tokens": 3, "prompt_cache_hit_tokens": 2})).cached_tokens, 2);
    }

    #[test]
    fn a_number_is_a_number_in_any_form() {
        for (value, expected) in [
            (json!(7), 7),
            (json!(7.0), 7),
            (json!("7"), 7),
            (json!("7.0"), 7),
            (json!(-1), 0),
            (json!("many"), 0),
            (json!(null), 0),
            (json!([7]), 0),
        ] {
            assert_eq!(usage(&json!({"prompt_tokens": value})).input_tokens, expected, "{value}");
        }
    }
}
