//! The secrets of an endpoint: the one that it has now, and those that sign as well for a while.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// How many bytes a secret has: at least and at most, as Standard Webhooks has it.
const BYTES: (usize, usize) = (24, 64);
/// How many old secrets sign as well: beyond it the oldest goes before its time.
const OLD: usize = 8;

/// What signs the events of an endpoint.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Secrets(Vec<Secret>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Secret {
    /// `whsec_…`
    text: String,
    /// Until when it signs, in milliseconds since 1970; none: as long as the endpoint has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
}

impl Secrets {
    /// A new one, made of random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(vec![Secret { text: format!("{PREFIX}{}", STANDARD.encode(random)), until: None }])
    }

    /// Those of a configuration, all of which sign.
    pub fn configured(secrets: &[String]) -> Self {
        Self(secrets.iter().map(|text| Secret { text: text.clone(), until: None }).collect())
    }

    /// Lets old ones sign as well, until this time.
    pub fn keep(&mut self, old: Self, now: i64, until: i64) {
        let old = old.0.into_iter().filter(|secret| secret.until.is_none_or(|until| until > now));
        let old = old.map(|secret| Secret { until: secret.until.or(Some(until)), ..secret });
        self.0.extend(old.take(OLD));
    }

    /// The one that the endpoint has now.
    pub fn current(&self) -> &str {
        self.0.first().map_or("", |secret| &secret.text)
    }

    /// What may be shown of it.
    pub fn hint(&self) -> String {
        let text = self.current();
        format!("{PREFIX}…{}", text.get(text.len().saturating_sub(4)..).unwrap_or_default())
    }

    /// The keys that sign at this time.
    pub fn keys(&self, now: i64) -> impl Iterator<Item = Vec<u8>> {
        let now = self.0.iter().filter(move |secret| secret.until.is_none_or(|until| until > now));
        now.filter_map(|secret| key(&secret.text))
    }

    /// What is sealed.
    pub fn write(&self) -> Vec<u8> {
        // Strings and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what was sealed.
    pub fn read(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }
}

/// Whether a text is a secret: `whsec_` and base64 of 24 to 64 bytes.
pub fn check_secret(text: &str) -> bool {
    key(text).is_some_and(|key| (BYTES.0..=BYTES.1).contains(&key.len()))
}

fn key(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.strip_prefix(PREFIX)?).ok()
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} secrets]", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_secret_signs_until_its_time_is_over() {
        let (one, two, three) = ([1; 32], [2; 32], [3; 32]);
        let mut second = Secrets::new(two);
        second.keep(Secrets::new(one), 0, 10);
        assert_eq!(second.keys(9).collect::<Vec<_>>(), [two, one]);
        assert_eq!(second.keys(10).collect::<Vec<_>>(), [two]);
        let mut third = Secrets::new(three);
        third.keep(second.clone(), 5, 15);
        assert_eq!(third.keys(9).collect::<Vec<_>>(), [three, two, one]);
        assert_eq!(third.keys(10).collect::<Vec<_>>(), [three, two], "its time is not prolonged");
        assert_eq!(Secrets::read(&third.write()), Some(third));
    }

    #[test]
    fn old_secrets_do_not_grow_for_ever() {
        let mut secrets = Secrets::new([0; 32]);
        for byte in 1..50 {
            let mut next = Secrets::new([byte; 32]);
            next.keep(secrets, 0, 10);
            secrets = next;
        }
        assert_eq!(secrets.keys(0).count(), OLD + 1);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secrets = Secrets::new([7; 32]);
        assert!(check_secret(secrets.current()));
        assert_eq!(secrets.hint(), "whsec_…Bwc=");
        assert_eq!(format!("{secrets:?}"), "[1 secrets]");
        for wrong in ["", "whsec_", "whsec_AAAA", "whsec_not base64!", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(!check_secret(wrong), "{wrong}");
        }
    }
}
