//! Providers, as the operator configures them.

use std::{collections::BTreeMap, fmt, time::Duration};

use bytesize::ByteSize;
use genai::adapter::AdapterKind;
use serde::Deserialize;

use super::parameter::Parameter;

/// Providers by name, and the model that is used when nothing names one.
#[derive(Clone, Debug, Default)]
pub struct ModelsConfig {
    /// `provider/model`.
    pub default_model: Option<String>,
    /// By name: 1 to 64 characters without `/`.
    pub providers: BTreeMap<String, ProviderConfig>,
}

/// One provider: `[providers.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderConfig {
    /// What it speaks. Default `openai`: the Chat Completions API, at any base URL.
    pub kind: ProviderKind,
    /// Where it is, with the version: `https://api.openai.com/v1`. Default: the kind's own address.
    pub base_url: Option<String>,
    /// The key. Better: `api_key_env`. Default: none, which is right for a local server; at the kind's own address, the
    /// kind's usual environment variable (`OPENAI_API_KEY`).
    pub api_key: Option<Secret>,
    /// The environment variable that holds the key.
    pub api_key_env: Option<String>,
    /// The models that may be asked for. Default: any.
    pub models: Vec<String>,
    /// How long a connection may take. Default `10s`.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the provider may be silent before the first token. Comments and empty chunks count as an answer.
    /// Default `120s`.
    #[serde(with = "humantime_serde")]
    pub first_token_timeout: Duration,
    /// The same after the first token. Default `60s`.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a whole call may take, repetitions included. Default `10m`.
    #[serde(with = "humantime_serde")]
    pub total_timeout: Duration,
    /// How often a call is repeated that failed before its first token. Default 3.
    pub max_retries: usize,
    /// The pause before the first repetition; it doubles. Default `500ms`.
    #[serde(with = "humantime_serde")]
    pub retry_pause: Duration,
    /// The longest pause, also when the provider asks for more: then the call fails. Default `20s`.
    #[serde(with = "humantime_serde")]
    pub max_retry_pause: Duration,
    /// What happens to a call that was in flight when the server stopped. Default `restart`.
    pub on_interrupt: OnInterrupt,
    /// How many tokens its models read, the answer included: with `truncation: "auto"`, more is left out before it is sent.
    /// Default: not known, and it is left out when the provider says that it is too much.
    pub context: Option<u64>,
    /// The parameters that it accepts besides those that all do: `top_logprobs`, `prompt_cache_key`,
    /// `safety_identifier`, `service_tier`, `user`, `metadata`. Default: what providers of this kind are known to take.
    pub parameters: Option<Vec<Parameter>>,
    /// Whether the model is given back its reasoning with the conversation. Default: where providers of this kind need it or
    /// take it.
    pub send_reasoning: Option<bool>,
    /// The largest answer: its text, its reasoning and its function calls together. Default `16MiB`.
    pub max_response_bytes: ByteSize,
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            kind: ProviderKind::Openai,
            base_url: None,
            api_key: None,
            api_key_env: None,
            models: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            first_token_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(60),
            total_timeout: Duration::from_secs(600),
            max_retries: 3,
            retry_pause: Duration::from_millis(500),
            max_retry_pause: Duration::from_secs(20),
            on_interrupt: OnInterrupt::Restart,
            context: None,
            parameters: None,
            send_reasoning: None,
            max_response_bytes: ByteSize::mib(16),
        }
    }
}

/// What happens to a call that was in flight when the server stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInterrupt {
    /// The model is given its answer so far as the assistant's last message, and continues from there in the same item.
    /// For providers that take it so. Where there is only half a thought or half a call, it is asked again.
    Continue,
    /// Its answer so far is closed as incomplete, and it is asked again.
    Restart,
    /// The call fails: the component reads the failure `interrupted`.
    Fail,
}

/// What a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The names say it.
pub enum ProviderKind {
    /// OpenAI's Chat Completions API, spoken by most local servers and gateways too.
    Openai,
    Anthropic,
    Gemini,
    Groq,
    Deepseek,
    Xai,
    Mistral,
    Cohere,
    Ollama,
    Openrouter,
    Together,
    Fireworks,
}

impl ProviderKind {
    /// How the provider is spoken to, and where it is if the operator does not say: none for `genai` to know.
    pub(super) fn dialect(self) -> Dialect {
        Dialect::Chat(match self {
            Self::Anthropic => return Dialect::Native(AdapterKind::Anthropic),
            Self::Gemini => return Dialect::Native(AdapterKind::Gemini),
            Self::Openai => "https://api.openai.com/v1",
            Self::Groq => "https://api.groq.com/openai/v1",
            Self::Deepseek => "https://api.deepseek.com/v1",
            Self::Xai => "https://api.x.ai/v1",
            Self::Mistral => "https://api.mistral.ai/v1",
            Self::Cohere => "https://api.cohere.ai/compatibility/v1",
            Self::Ollama => "http://localhost:11434/v1",
            Self::Openrouter => "https://openrouter.ai/api/v1",
            Self::Together => "https://api.together.xyz/v1",
            Self::Fireworks => "https://api.fireworks.ai/inference/v1",
        })
    }

    /// The field of a message that gives a model back its reasoning; none where providers of this kind refuse it or do
    /// without. `official`: at the kind's own address.
    pub(super) fn reasoning_field(self, official: bool) -> Option<&'static str> {
        match self {
            Self::Openai if official => None,
            Self::Openai | Self::Deepseek | Self::Fireworks => Some("reasoning_content"),
            Self::Openrouter | Self::Ollama => Some("reasoning"),
            _ => None,
        }
    }

    /// The environment variable that holds the key, as the SDKs of this field name it.
    fn usual_key(self) -> Option<&'static str> {
        Some(match self {
            Self::Openai => "OPENAI_API_KEY",
            Self::Anthropic => "ANTHROPIC_API_KEY",
            Self::Gemini => "GEMINI_API_KEY",
            Self::Groq => "GROQ_API_KEY",
            Self::Deepseek => "DEEPSEEK_API_KEY",
            Self::Xai => "XAI_API_KEY",
            Self::Mistral => "MISTRAL_API_KEY",
            Self::Cohere => "COHERE_API_KEY",
            Self::Openrouter => "OPENROUTER_API_KEY",
            Self::Together => "TOGETHER_API_KEY",
            Self::Fireworks => "FIREWORKS_API_KEY",
            Self::Ollama => return None,
        })
    }
}

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The Chat Completions API; by default at this address.
    Chat(&'static str),
    /// The provider's own API.
    Native(AdapterKind),
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: only for whoever needs it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A provider that is configured wrongly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ModelConfigError(pub(super) String);

impl ModelsConfig {
    /// Adds the providers whose keys stand in the environment, as the SDKs of this field name them. A provider of
    /// the same name in the configuration file stands.
    ///
    /// A provider of the file that says neither where it is nor what its key is gets its kind's usual key. One that
    /// says where it is does not: a key is not sent to another place than it was made for.
    #[must_use]
    pub fn with_environment(mut self, lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        for (name, kind, key, base_url) in [
            ("openai", ProviderKind::Openai, "OPENAI_API_KEY", "OPENAI_BASE_URL"),
            ("anthropic", ProviderKind::Anthropic, "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
            ("gemini", ProviderKind::Gemini, "GEMINI_API_KEY", "GEMINI_BASE_URL"),
        ] {
            let (key, base_url) = (set(key), set(base_url));
            if (key.is_some() || base_url.is_some()) && !self.providers.contains_key(name) {
                let api_key = key.map(Secret::new);
                let provider = ProviderConfig { kind, api_key, base_url, ..ProviderConfig::default() };
                self.providers.insert(name.to_owned(), provider);
            }
        }
        for provider in self.providers.values_mut() {
            if provider.api_key.is_none() && provider.api_key_env.is_none() && provider.base_url.is_none() {
                provider.api_key = provider.kind.usual_key().and_then(set).map(Secret::new);
            }
        }
        self
    }
}

impl ProviderConfig {
    /// The key, wherever it stands.
    pub(super) fn key(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Secret>, String> {
        match (&self.api_key, &self.api_key_env) {
            (Some(_), Some(_)) => Err(" has both api_key and api_key_env; it must have at most one".to_owned()),
            (Some(key), None) => Ok(Some(key.clone()).filter(|key| !key.reveal().is_empty())),
            (None, Some(variable)) => match lookup(variable).filter(|value| !value.is_empty()) {
                Some(key) => Ok(Some(Secret::new(key))),
                None => Err(format!(".api_key_env = \"{variable}\", but that environment variable is not set")),
            },
            (None, None) => Ok(None),
        }
    }

    /// `max_response_bytes` as this machine counts.
    pub(super) fn max_bytes(&self) -> usize {
        usize::try_from(self.max_response_bytes.as_u64()).unwrap_or(usize::MAX)
    }
}
