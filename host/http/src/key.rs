//! The API keys of a server: `[[keys]]`.

use std::{
    collections::HashSet,
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use bytesize::ByteSize;
use outlast_plugin::ModelGrant;
use serde::{Deserialize, Deserializer, de::Error as _};
use toml_edit::{Datetime, Offset};

/// A day.
const DAY: Duration = Duration::from_secs(86_400);
/// How a time is written.
const TIME: &str = "must be a date, or a time with its offset, as in RFC 3339: 2027-01-31, 2027-01-31T18:00:00Z";

/// An API key: only its digest is known here. `outlast key new` makes one. Several keys may have one name; they are the
/// same principal then, with the limits that one of them states.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The principal: whose responses they are. 1 to 64 characters.
    pub name: String,
    /// The sha256 of the key, 64 hexadecimal digits.
    #[serde(deserialize_with = "digest")]
    pub sha256: [u8; 32],
    /// When it ceases to be one: a time of RFC 3339, or a date, which is over at midnight UTC. Default: never.
    #[serde(default, deserialize_with = "end")]
    pub expires: Option<SystemTime>,
    /// The agents that this key may begin runs of; it sees no others. Default: all.
    pub agents: Option<Vec<String>>,
    /// The upstream models that the requests of this key may ask for, by themselves or because they ask for none:
    /// `["openai/gpt-4o*"]`. Default: all that agents may.
    pub models: Option<ModelGrant>,
    /// The most active runs of this principal. Default: as many as the server has.
    pub max_live_runs: Option<usize>,
    /// The most requests of this principal in a second. Default: no limit.
    pub requests_per_second: Option<NonZeroU32>,
    /// How much this principal may keep. Default: `stored_bytes` of the limits.
    pub stored_bytes: Option<ByteSize>,
    /// Whether this key, and not every other one of its principal, may read `/metrics`. Default false.
    #[serde(default)]
    pub metrics: bool,
    /// Whether this key, and not every other one of its principal, may see and stop the runs of all principals. Default
    /// false.
    #[serde(default)]
    pub admin: bool,
}

/// Checks the keys of a server. The error names the first one that is wrong. `most_runs` is the largest `max_live_runs`.
///
/// # Errors
///
/// In the operator's words.
pub fn check_keys(keys: &[Key], most_runs: usize) -> Result<(), String> {
    let mut digests = HashSet::new();
    for key in keys {
        if key.name.is_empty() || key.name.chars().count() > 64 || key.name.chars().any(char::is_control) {
            return Err(format!("keys: the name {:?} must have 1 to 64 characters", key.name));
        }
        if key.name == super::LOCAL {
            return Err(format!("keys: the name \"{}\" is reserved for callers without a key", key.name));
        }
        if !digests.insert(key.sha256) {
            return Err(format!("keys: \"{}\" has the same sha256 as another key", key.name));
        }
        if key.max_live_runs.is_some_and(|most| most == 0 || most > most_runs) {
            return Err(format!("keys: max_live_runs of \"{}\" must be at least 1 and at most {most_runs}", key.name));
        }
    }
    let differ = |one: &Key, other: &Key| {
        let runs = one.max_live_runs.is_some_and(|most| other.max_live_runs.is_some_and(|other| other != most));
        let rate = one.requests_per_second;
        let rate = rate.is_some_and(|most| other.requests_per_second.is_some_and(|other| other != most));
        let bytes = one.stored_bytes.is_some_and(|most| other.stored_bytes.is_some_and(|other| other != most));
        other.name == one.name && (runs || rate || bytes)
    };
    match keys.iter().find(|key| keys.iter().any(|other| differ(key, other))) {
        Some(key) => Err(format!("keys: the keys of \"{}\" have different limits", key.name)),
        None => Ok(()),
    }
}

fn digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut digest = [0; 32];
    hex::decode_to_slice(&text, &mut digest)
        .map_err(|_| D::Error::custom("a sha256 has 64 hexadecimal digits; `outlast key new` prints it"))?;
    Ok(digest)
}

fn end<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    /// A text, or a date of TOML's own.
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "must be a date, or a time with its offset, as in RFC 3339: 2027-01-31, 2027-01-31T18:00:00Z"
    )]
    enum Written {
        Text(String),
        Toml {
            /// How the reader of TOML hands one over.
            #[serde(rename = "$__toml_private_datetime")]
            text: String,
        },
    }
    let (Written::Text(text) | Written::Toml { text }) = Written::deserialize(deserializer)?;
    time(&text).map(Some).ok_or_else(|| D::Error::custom(format!("\"{text}\" {TIME}")))
}

/// A time of RFC 3339; of a date, the midnight after it.
fn time(text: &str) -> Option<SystemTime> {
    let written: Datetime = text.trim().parse().ok()?;
    let midnight = humantime::parse_rfc3339(&format!("{}T00:00:00Z", written.date?)).ok()?;
    match (written.time, written.offset) {
        (None, None) => midnight.checked_add(DAY),
        (Some(time), Some(offset)) => {
            let seconds = u64::from(time.hour) * 3_600 + u64::from(time.minute) * 60 + u64::from(time.second);
            let local = midnight + Duration::from_secs(seconds);
            let minutes = match offset {
                Offset::Z => 0,
                Offset::Custom { minutes } => i64::from(minutes),
            };
            let ahead = Duration::from_secs(minutes.unsigned_abs() * 60);
            if minutes < 0 { local.checked_add(ahead) } else { local.checked_sub(ahead) }
        }
        // Whose clock?
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_an_offset_and_a_date_ends_with_its_day() {
        let seconds = |text: &str| time(text)?.duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs());
        assert_eq!(seconds("1970-01-01"), Some(86_400));
        assert_eq!(seconds("1970-01-02T01:00:00Z"), Some(90_000));
        assert_eq!(seconds("1970-01-02T01:00:00+01:00"), Some(86_400));
        assert_eq!(seconds("1970-01-02 01:00:00.5-00:30"), Some(91_800));
        for wrong in ["", "soon", "2027-02-30", "2027-01-01T00:00:00", "10:00:00", "2027-13-01T00:00:00Z"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
