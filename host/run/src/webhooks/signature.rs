//! Signatures, as Standard Webhooks has them: an HMAC-SHA256 of the id, the time and the body.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;

/// The header `webhook-signature`: one signature for each key.
pub(super) fn signatures(keys: impl Iterator<Item = Vec<u8>>, id: &str, seconds: i64, body: &str) -> String {
    let signed = format!("{id}.{seconds}.{body}");
    let sign = |key: Vec<u8>| {
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
        format!("v1,{}", STANDARD.encode(signature))
    };
    keys.map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn the_example_of_standard_webhooks_has_its_signature() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed =
            signatures([key].into_iter(), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn there_is_a_signature_for_each_key() {
        let both = signatures([vec![1], vec![2]].into_iter(), "a", 1, "{}");
        let each = [1, 2].map(|key| signatures([vec![key]].into_iter(), "a", 1, "{}"));
        assert_eq!(both, each.join(" "));
    }
}
