//! The endpoints that stand in the configuration. They are the operator's: no client sees or changes them.

use std::collections::HashMap;

use outlast_protocol::ApiError;
use outlast_store::WebhookRow;
use ring::digest::{SHA256, digest};

use super::{Webhooks, secrets::Secrets};

/// An endpoint of the configuration.
#[derive(Clone, Debug)]
pub struct ConfiguredWebhook {
    /// Its name, which no other has.
    pub name: String,
    /// Whose responses it is told of.
    pub principal: String,
    /// Where events are sent.
    pub url: String,
    /// The types of events that it wants.
    pub event_types: Vec<String>,
    /// Whether it is told of all stored responses.
    pub all_runs: bool,
    /// What signs its events: [`check_secret`](super::check_secret) holds for each.
    pub secrets: Vec<String>,
}

impl Webhooks {
    /// Keeps these endpoints of the configuration, and no others. One that was disabled is told again.
    ///
    /// # Errors
    ///
    /// The database does not answer.
    pub async fn configure(&self, configured: &[ConfiguredWebhook]) -> Result<(), ApiError> {
        let _nobody_else = self.changing.lock().await;
        let before = self.store.configured_webhooks().await?.into_iter();
        let mut before: HashMap<_, _> = before.map(|row| (row.id, row.created_at)).collect();
        for webhook in configured {
            let (id, secrets, now) = (id_of(&webhook.name), Secrets::configured(&webhook.secrets), self.now());
            let created_at = before.remove(&id).unwrap_or(now);
            let row = WebhookRow {
                secrets: self.sealed(&id, &webhook.principal, &secrets)?,
                secret_hint: secrets.hint(),
                id,
                principal: webhook.principal.clone(),
                name: webhook.name.clone(),
                url: webhook.url.clone(),
                event_types: webhook.event_types.clone(),
                all_runs: webhook.all_runs,
                configured: true,
                created_at,
                updated_at: now,
                disabled_at: None,
            };
            self.store.keep_webhook(&row).await?;
        }
        for id in before.keys() {
            self.store.delete_webhook(id).await?;
        }
        Ok(())
    }
}

/// The id of the endpoint of this name in the configuration.
fn id_of(name: &str) -> String {
    format!("whe_{}", hex::encode(&digest(&SHA256, name.as_bytes()).as_ref()[..16]))
}
