//! Grants, as `outlast plugin inspect` shows them.

use outlast_plugin::HttpGrant;
use serde_json::{Value, json};

/// The hosts of a grant: as in the configuration.
pub(super) fn hosts(grant: &HttpGrant) -> Vec<Value> {
    let hosts = grant.hosts.iter().map(|entry| match &entry.methods {
        None => json!(entry.host.to_string()),
        Some(methods) => json!({"host": entry.host.to_string(), "methods": methods}),
    });
    hosts.collect()
}

/// What a grant lets reach, in words.
pub(super) fn http(grant: &HttpGrant) -> String {
    let hosts = grant.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if hosts.is_empty() {
        return "nothing; http.hosts = [\"api.example.com\"] would grant one".to_owned();
    }
    let methods = grant.methods.as_ref().map(|methods| methods.join(", "));
    let secrets = secrets(grant);
    let secrets = if secrets.is_empty() { "no secrets".to_owned() } else { format!("secrets {}", secrets.join(", ")) };
    format!("{hosts}; methods {}; {secrets}", methods.unwrap_or_else(|| "all".to_owned()))
}

/// The names of the headers that the host puts into requests.
pub(super) fn secrets(grant: &HttpGrant) -> Vec<String> {
    let secrets = grant.secrets.iter();
    secrets.flat_map(|(host, headers)| headers.keys().map(move |name| format!("{name} ({host})"))).collect()
}
