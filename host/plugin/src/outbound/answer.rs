//! An answer, and how it stands in the journal.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::bindings::http::{Header, Response};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    #[serde(serialize_with = "write", deserialize_with = "read")]
    pub(crate) body: Vec<u8>,
}

/// A body as JSON: a text where it is one, so that it takes no more room than it must.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Body<'a> {
    Text(std::borrow::Cow<'a, str>),
    Base64(String),
}

fn write<S: Serializer>(body: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    // A control character takes six bytes.
    let plain = |text: &&str| text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'));
    match std::str::from_utf8(body).ok().filter(plain) {
        Some(text) => Body::Text(text.into()),
        None => Body::Base64(BASE64_STANDARD.encode(body)),
    }
    .serialize(serializer)
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match Body::deserialize(deserializer)? {
        Body::Text(text) => Ok(text.into_owned().into_bytes()),
        Body::Base64(text) => BASE64_STANDARD.decode(text).map_err(de::Error::custom),
    }
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        let Answer { status, url, headers, body } = answer;
        Self { status, url, headers: headers.into_iter().map(|(name, value)| Header { name, value }).collect(), body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_comes_back_from_the_journal_as_it_was() {
        for (body, shown) in [
            (&b""[..], r#"{"text":""}"#),
            ("Größe\n".as_bytes(), r#"{"text":"Größe\n"}"#),
            (&[0, 1, 2], r#"{"base64":"AAEC"}"#),
            (&[0xff, 0xfe], r#"{"base64":"//4="}"#),
        ] {
            let headers = vec![("a".to_owned(), "b".to_owned())];
            let answer = Answer { status: 200, url: "https://a.test/".to_owned(), headers, body: body.to_vec() };
            let entry = serde_json::to_value(&answer).unwrap();
            assert_eq!(entry["body"].to_string(), shown);
            assert_eq!(serde_json::from_value::<Answer>(entry).unwrap(), answer);
        }
    }
}
