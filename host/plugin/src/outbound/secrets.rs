//! Headers that the operator puts into requests, and that the component never sees.

use memchr::memmem;
use reqwest::{
    Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use super::answer::Answer;
use crate::grants::{Filled, HostPattern, HttpGrant};

/// What makes an answer compressed, or a part of itself.
const TRANSFORMING: [HeaderName; 3] = [header::ACCEPT_ENCODING, header::RANGE, header::IF_RANGE];
/// What stands where a secret was.
const HIDDEN: &str = "[secret]";
/// The shortest text that is hidden, in bytes: anything shorter stands everywhere, and is no secret.
const SHORTEST_SECRET: usize = 4;

/// The secret headers of one agent.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Vec<Secret>);

/// A header that the operator puts into requests.
struct Secret {
    hosts: HostPattern,
    name: HeaderName,
    value: HeaderValue,
    /// What no answer may show.
    hidden: Vec<String>,
}

impl Secrets {
    /// Reads them, and the environment variables that they name.
    pub(crate) fn new(grant: &HttpGrant, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut secrets = Vec::new();
        for (hosts, headers) in &grant.secrets {
            for (name, template) in headers {
                let wrong = |what: &str| format!("secrets.\"{hosts}\".{name} {what}");
                let header = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| wrong("has a name that is not valid for a header"))?;
                let Filled { value, secrets: mut hidden } = template.fill(&lookup).map_err(|what| wrong(&what))?;
                let mut value =
                    HeaderValue::from_str(&value).map_err(|_| wrong("has a value that is not valid for a header"))?;
                value.set_sensitive(true);
                hidden.retain(|secret| secret.len() >= SHORTEST_SECRET);
                secrets.push(Secret { hosts: hosts.clone(), name: header, value, hidden });
            }
        }
        Ok(Self(secrets))
    }

    /// Puts in what is for this URL, in place of what is there. Whether there is anything.
    ///
    /// What would make the other side send it back in a form in which it is not found is taken out.
    pub(crate) fn put(&self, url: &Url, headers: &mut HeaderMap) -> bool {
        let mut any = false;
        for secret in self.0.iter().filter(|secret| secret.hosts.matches_secretly(url)) {
            headers.insert(secret.name.clone(), secret.value.clone());
            any = true;
        }
        if any {
            for name in TRANSFORMING {
                headers.remove(name);
            }
        }
        any
    }

    /// Takes the operator's secrets out of an answer: a server may tell what it was sent.
    pub(crate) fn hide(&self, mut answer: Answer) -> Answer {
        answer.url = self.hide_text(answer.url);
        for (name, value) in &mut answer.headers {
            *name = self.hide_text(std::mem::take(name));
            *value = self.hide_text(std::mem::take(value));
        }
        for secret in self.hidden() {
            if memmem::find(&answer.body, secret.as_bytes()).is_some() {
                answer.body = without(&answer.body, secret.as_bytes());
            }
        }
        answer
    }

    /// Takes them out of a text.
    pub(crate) fn hide_text(&self, mut text: String) -> String {
        for secret in self.hidden() {
            if text.contains(secret) {
                text = text.replace(secret, HIDDEN);
            }
        }
        text
    }

    fn hidden(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|secret| &secret.hidden).map(String::as_str)
    }
}

fn without(body: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(body.len());
    let mut from = 0;
    for at in memmem::find_iter(body, secret) {
        kept.extend_from_slice(&body[from..at]);
        kept.extend_from_slice(HIDDEN.as_bytes());
        from = at + secret.len();
    }
    kept.extend_from_slice(&body[from..]);
    kept
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("hosts", &self.hosts).field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secrets() -> Secrets {
        let grant = json!({"secrets": {
            "a.test": {"authorization": "Bearer ${TOKEN}", "x-short": "abc"},
            "http://b.test": {"x-key": "literally"},
        }});
        let grant = serde_json::from_value(grant).unwrap();
        Secrets::new(&grant, |name| (name == "TOKEN").then(|| "t0ken".to_owned())).unwrap()
    }

    #[test]
    fn they_are_put_where_they_belong() {
        for (url, expected) in [
            ("https://a.test/", [Some("Bearer t0ken"), None]),
            ("http://a.test/", [Some("mine"), None]),
            ("http://b.test/", [Some("mine"), Some("literally")]),
            ("https://b.test/", [Some("mine"), None]),
            ("https://c.test/", [Some("mine"), None]),
        ] {
            let mut headers = HeaderMap::new();
            headers.append("authorization", HeaderValue::from_static("mine"));
            headers.append("authorization", HeaderValue::from_static("mine too"));
            secrets().put(&url.parse().unwrap(), &mut headers);
            let found = ["authorization", "x-key"].map(|name| headers.get(name).map(|value| value.to_str().unwrap()));
            assert_eq!(found, expected, "{url}");
            assert_eq!(headers.get_all("authorization").iter().count(), if url == "https://a.test/" { 1 } else { 2 });
        }
    }

    #[test]
    fn they_are_taken_out_of_answers() {
        let answer = Answer {
            status: 200,
            url: "https://a.test/?t0ken".to_owned(),
            headers: vec![("x".to_owned(), "Bearer t0ken, abc".to_owned())],
            body: b"t0ken\xff\x00literally t0ke t0kent0ken".to_vec(),
        };
        let hidden = secrets().hide(answer);
        assert_eq!(hidden.url, "https://a.test/?[secret]");
        assert_eq!(hidden.headers, [("x".to_owned(), "Bearer [secret], abc".to_owned())]);
        assert_eq!(hidden.body, b"[secret]\xff\x00[secret] t0ke [secret][secret]");
        assert!(!format!("{:?}", secrets()).contains("t0ken"));
    }
}
