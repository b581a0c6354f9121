//! The configured providers, and who answers to which name.

use std::{collections::BTreeMap, sync::Arc};

use backon::{ExponentialBuilder, Retryable as _};
use genai::{
    Client, ModelIden,
    resolver::{AuthData, Endpoint},
};
use tracing::info;

use super::{
    config::{ModelConfigError, ModelsConfig, ProviderConfig, Secret},
    error::{ModelError, ModelErrorKind},
    generation::Generation,
    request::Call,
};

/// The provider that a plain model name means, if there are several and no default model names another.
const USUAL: &str = "openai";

/// The configured providers.
#[derive(Debug)]
pub struct Models {
    providers: BTreeMap<String, Arc<Provider>>,
    default_model: Option<String>,
}

/// One provider, ready to be called.
pub(super) struct Provider {
    pub(super) name: String,
    pub(super) config: ProviderConfig,
    key: Option<Secret>,
    client: Client,
}

impl Models {
    /// Makes the providers ready. Nothing is sent.
    ///
    /// # Errors
    ///
    /// A provider is configured wrongly; the error names the key, the value and what is allowed.
    pub fn new(config: &ModelsConfig) -> Result<Self, ModelConfigError> {
        // Fails when there is one already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut providers = BTreeMap::new();
        for (name, config) in &config.providers {
            providers.insert(name.clone(), Arc::new(Provider::new(name, config)?));
        }
        let models = Self { providers, default_model: config.default_model.clone() };
        if let Some(name) = &models.default_model {
            models
                .resolve(None)
                .map_err(|error| ModelConfigError(format!("default_model = \"{name}\": {}", error.message)))?;
        }
        Ok(models)
    }

    /// Whether there is no provider.
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// The names of the providers.
    pub fn providers(&self) -> Vec<&str> {
        self.providers.keys().map(String::as_str).collect()
    }

    /// The models that the configuration lists, as `provider/model`.
    pub fn names(&self) -> Vec<String> {
        let listed = self
            .providers
            .iter()
            .flat_map(|(name, provider)| provider.config.models.iter().map(move |model| format!("{name}/{model}")));
        listed.collect()
    }

    /// Calls a model, and returns when it has begun to answer. A call that fails before that is repeated, a bounded
    /// number of times, when the failure is one that may pass.
    ///
    /// # Errors
    ///
    /// There is no such model, the call is wrong, or the provider did not begin to answer.
    pub async fn start(&self, call: Call) -> Result<Generation, ModelError> {
        let (provider, model) = self.resolve(call.model.as_deref())?;
        let (request, options) = (call.request()?, call.options());
        let pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(provider.config.retry_pause)
            .with_max_delay(provider.config.max_retry_pause)
            .with_max_times(provider.config.max_retries);
        let longest = provider.config.max_retry_pause;
        let attempt = async || {
            let target = ModelIden::new(provider.config.kind.adapter(), &model);
            // genai takes a request by value; the conversation is copied once for each attempt.
            let stream = provider.client.exec_chat_stream(target, request.clone(), Some(&options)).await;
            let stream = stream.map_err(|error| provider.error(&error))?;
            Generation::open(provider.clone(), model.clone(), stream.stream).await
        };
        attempt
            .retry(pauses)
            .when(|error| error.repeatable && error.retry_after.is_none_or(|pause| pause <= longest))
            .adjust(|error, pause| pause.map(|pause| error.retry_after.unwrap_or(pause)))
            .notify(|error, pause| info!(provider = provider.name, ?pause, "{error}; trying again"))
            .await
    }

    fn resolve(&self, asked: Option<&str>) -> Result<(Arc<Provider>, String), ModelError> {
        if self.providers.is_empty() {
            let message = "no model provider is configured: set OPENAI_API_KEY or OPENAI_BASE_URL, or add \
                           [providers.NAME] to the configuration";
            return Err(ModelError::new(ModelErrorKind::NotFound, "no_provider", message));
        }
        let only_listed = || match self.names().as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        let asked = asked.map(str::to_owned).or_else(|| self.default_model.clone()).or_else(only_listed);
        let Some(name) = asked else {
            let message = "no model was named: ask for `AGENT/MODEL`, or set default_model in the configuration";
            return Err(ModelError::new(ModelErrorKind::NotFound, "model_not_found", message));
        };
        let named = name.split_once('/').and_then(|(first, rest)| Some((self.providers.get(first)?, rest)));
        let (provider, model) = match named {
            Some((provider, model)) => (provider, model),
            None => (self.usual(&name)?, name.as_str()),
        };
        let listed = &provider.config.models;
        if !listed.is_empty() && !listed.iter().any(|listed| listed == model) {
            let message = format!(
                "the model `{model}` is not one of provider {}: {} (providers.{}.models)",
                provider.name,
                listed.join(", "),
                provider.name
            );
            return Err(ModelError::new(ModelErrorKind::NotFound, "model_not_found", message));
        }
        Ok((provider.clone(), model.to_owned()))
    }

    /// The provider of a name that names none.
    fn usual(&self, model: &str) -> Result<&Arc<Provider>, ModelError> {
        let of_default = || self.default_model.as_deref()?.split_once('/').map(|(provider, _)| provider);
        let mut all = self.providers.values();
        match (all.next(), all.next()) {
            (Some(only), None) => Some(only),
            _ => of_default().and_then(|name| self.providers.get(name)).or_else(|| self.providers.get(USUAL)),
        }
        .ok_or_else(|| {
            let names = self.providers().join(", ");
            let message = format!("the model `{model}` names no provider: ask for `PROVIDER/{model}`, one of {names}");
            ModelError::new(ModelErrorKind::NotFound, "model_not_found", message)
        })
    }
}

impl Provider {
    fn new(name: &str, config: &ProviderConfig) -> Result<Self, ModelConfigError> {
        if name.is_empty() || name.len() > 64 || name.contains('/') {
            return Err(ModelConfigError(format!("providers.{name}: a name has 1 to 64 characters and no `/`")));
        }
        if let Some(url) = &config.base_url {
            let parsed = reqwest::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            if parsed.is_none() {
                let message = format!("providers.{name}.base_url = \"{url}\" must begin with http:// or https://");
                return Err(ModelConfigError(message));
            }
        }
        let key = config.key(name, |variable| std::env::var(variable).ok())?;
        let http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            // A redirect would carry the key to another place.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| ModelConfigError(format!("providers.{name}: {error}")))?;
        let adapter = config.kind.adapter();
        let target = genai::resolver::ProviderConfig {
            // genai joins paths to it, and joining needs the slash.
            endpoint: config
                .base_url
                .as_ref()
                .map(|url| Endpoint::from_owned(format!("{}/", url.trim_end_matches('/')))),
            // Said in any case: genai would look for a key in the environment by itself.
            auth: Some(AuthData::from_single(key.as_ref().map_or("none", Secret::reveal))),
        };
        let client = Client::builder()
            .with_reqwest(http)
            .append_provider_config(adapter, target)
            .build()
            .map_err(|error| ModelConfigError(format!("providers.{name}: {error}")))?;
        Ok(Self { name: name.to_owned(), config: config.clone(), key, client })
    }

    pub(super) fn error(&self, error: &genai::Error) -> ModelError {
        ModelError::from_upstream(&self.name, error, self.key.as_ref())
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}
