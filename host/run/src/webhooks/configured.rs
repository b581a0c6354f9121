//! The endpoints that stand in the configuration. They are the operator's: no client sees or changes them.

use std::collections::HashSet;

use outlast_protocol::ApiError;
use outlast_store::WebhookRow;
use ring::digest::{SHA256, digest};

use super::{Webhooks, secrets::Secrets};

/// How many endpoints are read at once.
const PAGE: i64 = 100;

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
        let ids: HashSet<_> = configured.iter().map(|webhook| id_of(&webhook.name)).collect();
        for row in self.all().await?.into_iter().filter(|row| row.configured && !ids.contains(&row.id)) {
            self.store.delete_webhook(&row.id).await?;
        }
        for webhook in configured {
            let (id, secrets, now) = (id_of(&webhook.name), Secrets::configured(&webhook.secrets), self.now());
            let before = self.store.webhook(&id).await?;
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
                created_at: before.map_or(now, |before| before.created_at),
                updated_at: now,
                disabled_at: None,
            };
            self.store.keep_webhook(&row).await?;
        }
        Ok(())
    }

    /// The endpoints of all principals and of the configuration.
    async fn all(&self) -> Result<Vec<WebhookRow>, ApiError> {
        let mut all: Vec<WebhookRow> = Vec::new();
        loop {
            let after = all.last().map_or("", |row| &row.id);
            let page = self.store.all_webhooks(after, PAGE).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }
}

/// The id of the endpoint of this name in the configuration.
fn id_of(name: &str) -> String {
    let digest = digest(&SHA256, name.as_bytes());
    digest.as_ref()[..16].iter().fold("whe_".to_owned(), |id, byte| id + &format!("{byte:02x}"))
}
