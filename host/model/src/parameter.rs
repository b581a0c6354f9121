//! Parameters that not every provider takes.

use serde::Deserialize;
use serde_json::Value;

use super::config::ProviderKind;

/// A parameter that is only sent to providers that take it: `parameters` of `[providers.NAME]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names say it.
pub enum Parameter {
    TopLogprobs,
    PromptCacheKey,
    SafetyIdentifier,
    ServiceTier,
    User,
    Metadata,
}

impl Parameter {
    /// All of them.
    pub(super) const ALL: [Self; 6] = [
        Self::TopLogprobs,
        Self::PromptCacheKey,
        Self::SafetyIdentifier,
        Self::ServiceTier,
        Self::User,
        Self::Metadata,
    ];

    /// Its name, in the Responses API and in Chat Completions.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TopLogprobs => "top_logprobs",
            Self::PromptCacheKey => "prompt_cache_key",
            Self::SafetyIdentifier => "safety_identifier",
            Self::ServiceTier => "service_tier",
            Self::User => "user",
            Self::Metadata => "metadata",
        }
    }

    /// What it must be, and how that is checked.
    pub(super) fn shape(self) -> (&'static str, fn(&Value) -> bool) {
        match self {
            Self::TopLogprobs => ("a whole number", Value::is_u64),
            Self::Metadata => ("an object", Value::is_object),
            _ => ("a text", Value::is_string),
        }
    }

    /// What providers of a kind are known to take. Others refuse a request that has more. `official`: at the kind's own
    /// address.
    pub(super) fn usual(kind: ProviderKind, official: bool) -> &'static [Self] {
        use Parameter::{Metadata, PromptCacheKey, SafetyIdentifier, ServiceTier, TopLogprobs, User};
        match kind {
            // Metadata needs a completion that is stored.
            ProviderKind::Openai if official => &[TopLogprobs, PromptCacheKey, SafetyIdentifier, ServiceTier, User],
            ProviderKind::Openai | ProviderKind::Xai | ProviderKind::Fireworks => &[TopLogprobs, User],
            ProviderKind::Openrouter => &[TopLogprobs, User, Metadata],
            ProviderKind::Groq => &[ServiceTier, User],
            ProviderKind::Deepseek => &[TopLogprobs],
            _ => &[],
        }
    }
}
