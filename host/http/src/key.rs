//! An API key, as it stands in the configuration.

use std::num::NonZeroU32;

use serde::Deserialize;

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
    /// The most runs of this principal at once. Default: as many as the server has.
    pub max_live_runs: Option<usize>,
    /// The most requests of this principal in a second. Default: no limit.
    pub requests_per_second: Option<NonZeroU32>,
    /// Whether this key, and not every other one of its principal, may read `/metrics`. Default false.
    #[serde(default)]
    pub metrics: bool,
    /// Whether this key, and not every other one of its principal, may see and stop the runs of all principals. Default
    /// false.
    #[serde(default)]
    pub admin: bool,
}

fn digest<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut digest = [0; 32];
    hex::decode_to_slice(&text, &mut digest)
        .map_err(|_| serde::de::Error::custom("a sha256 has 64 hexadecimal digits; `outlast key new` prints it"))?;
    Ok(digest)
}
