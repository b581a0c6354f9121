//! One provider, ready to be called: sends a call, repeats it, gives up.
//!
//! A call is repeated only before its first token, at most `max_retries` times, with pauses that double and are
//! spread by chance, or as long as the provider asked for (`Retry-After`). All attempts together take no longer than
//! `total_timeout`. The request is written once, however often it is sent.

use std::{fmt, sync::Arc};

use backon::{ExponentialBuilder, Retryable as _};
use outlast_metrics::{LiveCall, ProviderMetrics};
use outlast_protocol::ClientTools;
use reqwest::Url;
use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::{
    activity::Activity,
    chat::{Chat, ChatRequest},
    config::{Dialect, ModelConfigError, ProviderConfig},
    conversation::Message,
    error::ModelError,
    generation::Generation,
    native::{Native, NativeRequest},
    piece::Piece,
    script::{self, Script},
    settings::Settings,
    upstream::{Stream, Terms, Upstream, after},
};

/// One provider, ready to be called.
pub(super) struct Provider {
    terms: Arc<Terms>,
    client: Client,
    metrics: Arc<ProviderMetrics>,
}

enum Client {
    Chat(Chat),
    Native(Native),
    Script(Arc<Script>),
}

/// A request, ready to be sent more than once.
pub(super) enum Request {
    Chat(ChatRequest),
    Native(Box<NativeRequest>),
    Script,
}

impl Provider {
    /// Makes a provider ready. Nothing is sent.
    pub(super) fn new(
        name: &str,
        config: &ProviderConfig,
        metrics: Arc<ProviderMetrics>,
    ) -> Result<Self, ModelConfigError> {
        Self::make(name, config, metrics).map_err(|what| ModelConfigError(format!("providers.{name}{what}")))
    }

    fn make(name: &str, config: &ProviderConfig, metrics: Arc<ProviderMetrics>) -> Result<Self, String> {
        if name.is_empty() || name.len() > 64 || name.contains('/') {
            return Err(": a name has 1 to 64 characters and no `/`".to_owned());
        }
        let key = config.key(|variable| std::env::var(variable).ok())?;
        let base_url = config.base_url.as_deref().map(base_url).transpose()?;
        let dialect = config.kind.dialect();
        let local = matches!(dialect, Dialect::Chat(usual) if is_local(base_url.as_ref(), usual));
        let mut http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .user_agent(concat!("outlast/", env!("CARGO_PKG_VERSION")))
            // A redirect would carry the key to another place.
            .redirect(reqwest::redirect::Policy::none());
        if local {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| format!(": {error}"))?;
        let client = match dialect {
            Dialect::Chat(usual) => {
                let url = match base_url {
                    Some(url) => url,
                    None => self::base_url(usual)?,
                };
                Client::Chat(Chat::new(name, http, url, key.as_ref(), config).map_err(|what| format!(": {what}"))?)
            }
            Dialect::Native(adapter) => Client::Native(Native::new(name, http, adapter, base_url, key.as_ref())?),
        };
        let terms = Arc::new(Terms { provider: name.to_owned(), config: config.clone(), key });
        Ok(Self { terms, client, metrics })
    }

    /// A provider that says what a script says.
    pub(super) fn scripted(script: Arc<Script>, metrics: Arc<ProviderMetrics>) -> Self {
        let config = ProviderConfig { max_retries: 0, ..ProviderConfig::default() };
        let terms = Arc::new(Terms { provider: script::NAME.to_owned(), config, key: None });
        Self { terms, client: Client::Script(script), metrics }
    }

    /// What the operator calls it.
    pub(super) fn name(&self) -> &str {
        &self.terms.provider
    }

    /// How it is configured.
    pub(super) fn config(&self) -> &ProviderConfig {
        &self.terms.config
    }

    /// Writes the request of a call, once for all its attempts.
    pub(super) fn request(&self, model: &str, turns: &[Message], settings: &Settings) -> Result<Request, ModelError> {
        Ok(match &self.client {
            Client::Chat(chat) => Request::Chat(chat.request(model, turns, settings)),
            Client::Native(native) => Request::Native(Box::new(native.request(model, turns, settings)?)),
            Client::Script(_) => Request::Script,
        })
    }

    /// Sends a request until it begins to be answered, or there is no more hope.
    pub(super) async fn start(
        self: Arc<Self>,
        model: String,
        tools: Arc<ClientTools>,
        request: Request,
    ) -> Result<Generation, ModelError> {
        let mut live = LiveCall::new(self.metrics.clone());
        let (terms, config) = (&self.terms, &self.terms.config);
        let deadline = after(Instant::now(), config.total_timeout);
        let pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(config.retry_pause)
            .with_max_delay(config.max_retry_pause)
            .with_max_times(config.max_retries);
        let attempt = async || {
            let late = || terms.timed_out("first_token_timeout", config.first_token_timeout);
            let activity = Activity::new();
            let first = activity.within(config.first_token_timeout, self.attempt(&request, activity.clone())).await;
            let (stream, first) = first.unwrap_or_else(|| Err(late())).map_err(|error| terms.hide(error))?;
            Ok((stream, first, activity))
        };
        let started = attempt
            .retry(pauses)
            .when(|error: &ModelError| {
                error.repeatable && error.retry_after.is_none_or(|pause| pause <= config.max_retry_pause)
            })
            .adjust(|error, pause| pause.map(|pause| error.retry_after.unwrap_or(pause)))
            .notify(|error, pause| {
                info!(provider = terms.provider, ?pause, "{} Retrying.", error.in_full());
                self.metrics.retries.inc();
            });
        let started = timeout_at(deadline, started).await;
        let started = started.unwrap_or_else(|_| Err(terms.timed_out("total_timeout", config.total_timeout)));
        let (stream, first, activity) = started.inspect_err(|error| live.fail(error.code))?;
        live.first_token();
        Ok(Generation::new(model, tools, Upstream::new(terms.clone(), stream, activity, deadline), first, live))
    }

    /// Sends the request and waits for the first piece.
    async fn attempt(&self, request: &Request, activity: Activity) -> Result<(Stream, Piece), ModelError> {
        let mut stream = match (&self.client, request) {
            (Client::Chat(chat), Request::Chat(request)) => Stream::Chat(Box::new(chat.send(request, activity).await?)),
            (Client::Native(native), Request::Native(request)) => {
                Stream::Native(Box::new(native.send(request.as_ref().clone()).await?))
            }
            (Client::Script(script), Request::Script) => Stream::Script(script.answer()?),
            _ => return Err(ModelError::invalid("a request of another provider")),
        };
        match stream.next().await? {
            Some(first) => Ok((stream, first)),
            None => Err(ModelError::cut(&self.terms.provider, "")),
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("name", &self.terms.provider)
            .field("config", &self.terms.config)
            .finish_non_exhaustive()
    }
}

fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| {
        format!(".base_url = \"{text}\" is not an address that begins with http:// or https://, such as https://api.openai.com/v1")
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(".base_url holds a user or a password: put the key into api_key_env".to_owned());
    }
    Ok(url)
}

/// Whether a provider is on this machine, where no proxy leads.
fn is_local(url: Option<&Url>, usual: &str) -> bool {
    let host = |url: &Url| {
        url.host_str().is_some_and(|host| {
            let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
            host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
        })
    };
    url.map_or_else(|| Url::parse(usual).is_ok_and(|url| host(&url)), host)
}
