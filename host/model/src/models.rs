//! The configured providers, and who answers to which name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use outlast_metrics::ModelMetrics;
use outlast_protocol::ClientTools;
use outlast_runtime::aside::aside;
use serde_json::Value;

use super::{
    config::{ModelConfigError, ModelsConfig, OnInterrupt},
    conversation::Call,
    error::{ModelError, ModelErrorKind},
    generation::Generation,
    install_tls, offer,
    provider::Provider,
    script::{self, Script},
    settings::Settings,
};

/// The provider that a plain model name means, if there are several and no default model names another.
const USUAL: &str = "openai";

/// The configured providers.
#[derive(Debug)]
pub struct Models {
    providers: BTreeMap<String, Arc<Provider>>,
    default_model: Option<String>,
    /// What answers instead of a provider, in a test.
    script: Option<Arc<Script>>,
}

/// A model of a provider. Shown as `provider/model`.
#[derive(Clone, Debug)]
pub struct Target {
    provider: Arc<Provider>,
    model: String,
}

impl Target {
    /// The provider's name in the configuration.
    pub fn provider(&self) -> &str {
        self.provider.name()
    }

    /// The model's name at the provider.
    pub fn model(&self) -> &str {
        &self.model
    }
}

impl Target {
    async fn call(&self, call: Call) -> Result<Generation, ModelError> {
        let (provider, model, bytes) = (self.provider.clone(), self.model.clone(), call.bytes);
        // What was asked is not kept beside the request that it becomes.
        let write = move || {
            let settings = Settings::read(&call.options, &call.input)?;
            let request = provider.request(&model, &call.turns()?, &settings)?;
            Ok::<_, ModelError>((request, Arc::new(ClientTools::of(offer::tools(&call.options, &call.input)))))
        };
        let (request, tools) = aside(bytes, write).await?;
        self.provider.clone().start(self.model.clone(), tools, request).await
    }

    /// The call, made as short as the operator says that it must be, and how many items were left out.
    async fn fit(&self, mut call: Call) -> (Call, usize) {
        let Some(context) = self.provider.config().context else { return (call, 0) };
        let answer = call.options.get("max_output_tokens").and_then(Value::as_u64).unwrap_or_default();
        let most = context.saturating_sub(answer);
        aside(call.bytes, move || {
            let left_out = call.truncate(most);
            (call, left_out)
        })
        .await
    }
}

/// How often a call is made shorter because its provider says that it is too long. A 64th is then left.
const HALVINGS: usize = 6;

/// Half of a call, and how many items were left out.
fn halved(mut call: Call) -> (Call, usize) {
    let left_out = call.halve();
    (call, left_out)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider.name(), self.model)
    }
}

impl Models {
    /// Makes the providers ready. Nothing is sent.
    ///
    /// # Errors
    ///
    /// A provider is configured wrongly; the error names the key, the value and what is allowed.
    pub fn new(config: &ModelsConfig, metrics: &ModelMetrics) -> Result<Self, ModelConfigError> {
        install_tls();
        let mut providers = BTreeMap::new();
        for (name, provider) in &config.providers {
            let listed = provider.models.iter().map(String::as_str).chain(default_of(config, name));
            let metrics = metrics.provider(name, &listed.collect());
            providers.insert(name.clone(), Arc::new(Provider::new(name, provider, metrics)?));
        }
        let models = Self { providers, default_model: config.default_model.clone(), script: None };
        if let Some(name) = &models.default_model {
            models
                .resolve(None)
                .map_err(|error| ModelConfigError(format!("default_model = \"{name}\": {}", error.message)))?;
        }
        Ok(models)
    }

    /// A provider that says what a script says, and answers to every name.
    pub fn scripted(script: Arc<Script>, metrics: &ModelMetrics) -> Self {
        let name = script::NAME;
        let metrics = metrics.provider(name, &BTreeSet::from([name]));
        let provider = Arc::new(Provider::scripted(script.clone(), metrics));
        Self {
            providers: BTreeMap::from([(name.to_owned(), provider)]),
            default_model: Some(name.to_owned()),
            script: Some(script),
        }
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
            .flat_map(|(name, provider)| provider.config().models.iter().map(move |model| format!("{name}/{model}")));
        listed.collect()
    }

    /// The models that the configuration names: those that it lists, and the default model.
    pub fn configured(&self) -> BTreeSet<String> {
        let default = self.default_model.as_deref().and_then(|name| self.resolve(Some(name)).ok());
        self.names().into_iter().chain(default.map(|target| target.to_string())).collect()
    }

    /// Calls a model, and returns when it has begun to answer. A call that fails before that is repeated, a bounded
    /// number of times, when the failure is one that may pass.
    ///
    /// # Errors
    ///
    /// There is no such model, the call is wrong, or the provider did not begin to answer.
    pub async fn start(&self, call: Call) -> Result<Generation, ModelError> {
        if let Some(script) = &self.script {
            script.ask(&call);
        }
        let target = self.resolve(call.model.as_deref())?;
        if !call.may_be_truncated() {
            return target.call(call).await;
        }
        let (mut call, mut left_out) = target.fit(call).await;
        let mut answer = target.call(call.clone()).await;
        for _ in 0..HALVINGS {
            let too_long = matches!(&answer, Err(error) if error.code == "context_length_exceeded");
            if !too_long {
                break;
            }
            let (shorter, more) = aside(call.bytes, move || halved(call)).await;
            if more == 0 {
                break;
            }
            (call, left_out) = (shorter, left_out + more);
            answer = target.call(call.clone()).await;
        }
        Ok(answer?.without(left_out))
    }

    /// What happens to a call of this model that was in flight when the server stopped.
    pub fn on_interrupt(&self, asked: Option<&str>) -> OnInterrupt {
        self.resolve(asked).map_or(OnInterrupt::Restart, |target| target.provider.config().on_interrupt)
    }

    /// Finds out who answers to a name.
    ///
    /// `provider/model`, where the first word names a provider, is that provider's model. Any other name is a model of
    /// the usual provider: the only one, or that of `default_model`, or the one named `openai`. No name: `default_model`,
    /// or the only listed model.
    ///
    /// # Errors
    ///
    /// There is no such model, or no provider at all; the message says what to configure.
    pub fn resolve(&self, asked: Option<&str>) -> Result<Target, ModelError> {
        let asked = asked.filter(|name| !name.is_empty());
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
            let message = "no model was named: request `AGENT/MODEL`, or set default_model in the configuration";
            return Err(ModelError::new(ModelErrorKind::NotFound, "model_not_found", message));
        };
        let named = name.split_once('/').and_then(|(first, rest)| Some((self.providers.get(first)?, rest)));
        let (provider, model) = match named {
            Some((provider, model)) => (provider, model),
            None => (self.usual(&name)?, name.as_str()),
        };
        if model.is_empty() {
            let message = format!("`{name}` does not name a model: request `{}/MODEL`", provider.name());
            return Err(ModelError::new(ModelErrorKind::NotFound, "model_not_found", message));
        }
        let listed = &provider.config().models;
        if !listed.is_empty() && !listed.iter().any(|listed| listed == model) {
            let message = format!(
                "the model `{model}` is not one of provider {}: {} (providers.{}.models)",
                provider.name(),
                listed.join(", "),
                provider.name()
            );
            return Err(ModelError::new(ModelErrorKind::NotFound, "model_not_found", message));
        }
        Ok(Target { provider: provider.clone(), model: model.to_owned() })
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
            let message = format!("the model `{model}` names no provider: request `PROVIDER/{model}`, one of {names}");
            ModelError::new(ModelErrorKind::NotFound, "model_not_found", message)
        })
    }
}

/// The default model's name at this provider, if it can be one of its models.
fn default_of<'a>(config: &'a ModelsConfig, provider: &str) -> Option<&'a str> {
    let name = config.default_model.as_deref()?;
    match name.split_once('/') {
        Some((first, model)) if config.providers.contains_key(first) => (first == provider).then_some(model),
        _ => Some(name),
    }
}
