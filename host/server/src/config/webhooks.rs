//! `[[webhooks]]`: who is told when responses end, as the operator wants it.

use std::collections::HashSet;

use outlast_http::{Key, LOCAL};
use outlast_plugin::{Courier, PrivateNetworks, Template};
use outlast_protocol::{WEBHOOK_EVENT_TYPES, check_event_types, read_runs};
use outlast_run::{ConfiguredWebhook, check_secret};
use serde::{Deserialize, Deserializer};

/// The longest name, in characters.
const NAME: usize = 64;

/// A webhook endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Its name, 1 to 64 characters. No other has it.
    pub name: String,
    /// Whose responses it is told of: the name of a key. On a server without keys: `local`, the default.
    #[serde(default = "local")]
    pub principal: String,
    /// Where events are sent: an `https` URL.
    pub url: String,
    /// The types of events that it wants. Default: all.
    #[serde(default = "all_types")]
    pub event_types: Vec<String>,
    /// Of which responses it is told: those in the `background`, or `all` that are stored. Default `background`.
    #[serde(default = "background")]
    pub runs: String,
    /// What signs its events: `whsec_…`, or a list of which each signs; `${NAME}` stands for an environment variable.
    #[serde(deserialize_with = "secrets")]
    pub secret: Vec<Template>,
}

fn local() -> String {
    LOCAL.to_owned()
}

fn background() -> String {
    "background".to_owned()
}

fn all_types() -> Vec<String> {
    WEBHOOK_EVENT_TYPES.map(str::to_owned).to_vec()
}

fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Template>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "must be a secret like `whsec_…`, or a list of them")]
    enum Written {
        One(Template),
        Many(Vec<Template>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::One(secret) => vec![secret],
        Written::Many(secrets) => secrets,
    })
}

/// The endpoints of a configuration with these keys. `lookup` reads environment variables.
///
/// # Errors
///
/// The first thing that is wrong, in the operator's words.
pub(super) fn configured(
    webhooks: &[WebhookConfig],
    keys: &[Key],
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<ConfiguredWebhook>, String> {
    let mut names = HashSet::new();
    let read = |webhook: &WebhookConfig| -> Result<ConfiguredWebhook, String> {
        let WebhookConfig { name, principal, url, event_types, runs, secret } = webhook.clone();
        let all_runs = read_runs(&runs).map_err(|error| error.message)?;
        check_event_types(&event_types).map_err(|error| error.message)?;
        let known = if keys.is_empty() { principal == LOCAL } else { keys.iter().any(|key| key.name == principal) };
        if !known {
            return Err(format!("principal = \"{principal}\" must be the name of a key, or `{LOCAL}` without keys"));
        }
        let secrets = secret.iter().map(|secret| {
            let filled = secret.fill(&lookup).map_err(|why| format!("secret {why}"))?.value;
            let wrong = "secret must be `whsec_` and base64 of 24 to 64 bytes: `openssl rand -base64 32` makes them";
            if check_secret(&filled) { Ok(filled) } else { Err(wrong.to_owned()) }
        });
        let secrets: Vec<_> = secrets.collect::<Result<_, String>>()?;
        if secrets.is_empty() {
            return Err("secret must not be an empty list".to_owned());
        }
        Ok(ConfiguredWebhook { name, principal, url, event_types, all_runs, secrets })
    };
    webhooks
        .iter()
        .map(|webhook| {
            let name = &webhook.name;
            if name.is_empty() || name.chars().count() > NAME || name.chars().any(char::is_control) {
                return Err(format!("webhooks: the name {name:?} must have 1 to {NAME} characters"));
            }
            if !names.insert(name) {
                return Err(format!("webhooks: two have the name \"{name}\""));
            }
            read(webhook).map_err(|why| format!("webhooks: of \"{name}\", {why}"))
        })
        .collect()
}

/// Checks where the endpoints are, as far as that can be without asking.
///
/// # Errors
///
/// In the operator's words.
pub(super) fn check_urls(webhooks: &[WebhookConfig], private: &PrivateNetworks) -> Result<(), String> {
    if webhooks.is_empty() {
        return Ok(());
    }
    outlast_model::install_tls();
    let courier = Courier::new(private.clone())?;
    for webhook in webhooks {
        courier.check_form(&webhook.url).map_err(|why| format!("webhooks: of \"{}\", url {why}", webhook.name))?;
    }
    Ok(())
}
