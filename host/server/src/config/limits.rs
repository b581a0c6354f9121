//! The section `[limits]`. The rooms own their limits; here are those that the server has of its own.

use std::{fmt, sync::LazyLock};

use outlast_http::{ApiLimits, ConnectionLimits};
use outlast_plugin::PluginLimits;
use outlast_run::{RunLimits, WebhookLimits};
use outlast_runtime::limits::{Count, MOST_BYTES, MOST_PLACES, Maybe, Section, Size};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

/// The least memory to compile with: less is not enough to begin.
const LEAST_COMPILE_MEMORY: usize = 64 << 20;

/// Every key of the section.
static KEYS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| Limits::default().keys().into_iter().map(|(key, _)| key).collect());

outlast_runtime::limits! {
    /// All limits.
    pub struct Limits {
        /// The most runs that have an instance. None: what this machine allows.
        max_live_runs => max_live_runs: Maybe<Count> = None, Some(1) => Some(MOST_PLACES);
        /// The memory of all instances together. None: half of this machine's, or of the narrowest control group's.
        instances_memory => instances_memory: Maybe<Size> = None, Some(1) => Some(MOST_BYTES);
        /// The most memory that compiling a plugin may take. None: a quarter of this machine's, or of the narrowest
        /// control group's, from 1 GiB to 4 GiB.
        plugin_compile_memory => plugin_compile_memory: Maybe<Size> =
            None, Some(LEAST_COMPILE_MEMORY) => Some(MOST_BYTES);
        /// How much a principal may keep: responses with their events and logs, conversations, and 100 bytes for each row
        /// that they are. None: any amount.
        stored_bytes => stored_bytes: Maybe<Size> = None, Some(0) => Some(usize::MAX);
    }
    within {
        /// Of runs.
        run: RunLimits;
        /// Of plugins.
        plugin: PluginLimits;
        /// Of requests.
        api: ApiLimits;
        /// Of connections.
        connections: ConnectionLimits;
        /// Of webhooks.
        webhooks: WebhookLimits;
    }
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Limits;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of limits")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Limits, A::Error> {
        let mut limits = Limits::default();
        while let Some(key) = map.next_key::<String>()? {
            if !limits.set(&key, &mut map)? {
                return Err(A::Error::unknown_field(&key, &KEYS));
            }
        }
        Ok(limits)
    }
}
