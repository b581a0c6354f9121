//! The `Idempotency-Key` of a request, and what makes two requests the same.

use sha2::{Digest as _, Sha256};

use super::{
    error::{ApiError, ErrorKind},
    surrogates,
};

/// A key that a client gave to a request, and the request's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 255 visible ASCII characters.
    pub key: String,
    /// The sha256 of the request, hexadecimal.
    pub fingerprint: String,
}

impl IdempotencyKey {
    /// Reads the header of a request with this body, which is valid JSON.
    ///
    /// # Errors
    ///
    /// The key is empty, too long, or has characters that cannot be seen.
    pub fn parse(header: &[u8], body: &[u8]) -> Result<Self, ApiError> {
        let visible = header.iter().all(|byte| (0x21..=0x7e).contains(byte));
        let key = std::str::from_utf8(header).ok().filter(|key| visible && (1..=255).contains(&key.len()));
        let key = key.ok_or_else(|| {
            let message = "'Idempotency-Key' must have 1 to 255 visible ASCII characters.";
            ApiError::new(ErrorKind::InvalidRequest, "invalid_idempotency_key", message)
        })?;
        Ok(Self { key: key.to_owned(), fingerprint: fingerprint(body) })
    }
}

/// The sha256 over the body as canonical JSON (sorted keys, no white space), without `stream` and
/// `stream_options`: whether the answer is a stream does not make it another request.
fn fingerprint(body: &[u8]) -> String {
    let mut body = surrogates::read(body).unwrap_or_default();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("stream");
        fields.remove("stream_options");
    }
    body.sort_all_objects();
    hex::encode(Sha256::digest(body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> String {
        IdempotencyKey::parse(b"k", body.as_bytes()).unwrap().fingerprint
    }

    #[test]
    fn the_same_request_has_the_same_fingerprint_however_it_is_written() {
        let one = of(r#"{"model":"echo","input":[{"role":"user","content":"x"}]}"#);
        assert_eq!(one, of(r#"{ "input": [{"content":"x","role":"user"}], "stream": true, "model": "echo" }"#));
        assert_ne!(one, of(r#"{"model":"echo","input":[{"role":"user","content":"y"}]}"#));
    }

    #[test]
    fn a_key_is_visible_ascii() {
        for wrong in ["", "a b", "ä", "a\n", &"x".repeat(256)] {
            let error = IdempotencyKey::parse(wrong.as_bytes(), b"{}").unwrap_err();
            assert_eq!(error.code, "invalid_idempotency_key", "{wrong}");
        }
        assert!(IdempotencyKey::parse("x".repeat(255).as_bytes(), b"{}").is_ok());
    }
}
