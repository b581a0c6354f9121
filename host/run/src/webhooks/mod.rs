//! Webhooks: whoever wants to know is told that a response has ended.
//!
//! What is to be told is written in the transaction that ends the run, so that no end is forgotten; `sender` delivers it, at
//! least once, whatever happens to the server meanwhile. `secrets` keeps what signs the events, `signature` signs them, and
//! `schedule` says when a delivery is tried again.

mod configured;
mod schedule;
mod secrets;
mod sender;
mod signature;

use std::{collections::HashMap, sync::Arc, time::Duration};

use outlast_metrics::WebhookMetrics;
use outlast_plugin::{Courier, NoReply};
use outlast_protocol::{
    ApiError, CreateWebhook, ErrorKind, UpdateWebhook, WebhookEndpoint, sample, webhook_id, webhook_not_found,
};
use outlast_runtime::{
    clock::Clock,
    limits::{Count, DAY, MOMENT, MOST_PLACES, Time},
};
use outlast_store::{Store, WebhookRow};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

use self::secrets::Secrets;
pub use self::{configured::ConfiguredWebhook, secrets::check_secret};
use super::Seal;

/// How long a secret signs that was replaced, if its owner wants it so: a day, in milliseconds.
const OVERLAP: i64 = 86_400_000;
/// How many sample events are being sent at once.
const TESTS: usize = 16;
/// What sample events are about.
const SAMPLE: &str = "resp_00000000000000000000000000000000";

outlast_runtime::limits! {
    /// Limits of webhooks.
    pub struct WebhookLimits {
        /// The most endpoints of a principal.
        webhook_endpoints => endpoints: Count = 16, 0 => MOST_PLACES;
        /// The most events that are being sent to one endpoint at the same time.
        webhook_concurrency => concurrency: Count = 8, 1 => 1_000;
        /// How long an endpoint may take to answer.
        webhook_timeout => timeout: Time = Duration::from_secs(15), MOMENT => Duration::from_secs(300);
        /// How long a delivery is tried.
        webhook_retry_for => retry_for: Time = DAY * 3, Duration::ZERO => DAY * 30;
    }
}

/// The webhooks of a server.
#[derive(Debug)]
pub struct Webhooks {
    store: Store,
    seal: Seal,
    courier: Courier,
    limits: WebhookLimits,
    metrics: WebhookMetrics,
    clock: Clock,
    /// Is notified when there is something to send.
    bell: Arc<Notify>,
    /// What the claims of this server are called.
    name: String,
    /// How many deliveries to each endpoint are being tried.
    busy: Mutex<HashMap<String, usize>>,
    tests: Semaphore,
    /// Held by whoever changes endpoints: what is changed is read before.
    changing: tokio::sync::Mutex<()>,
}

impl Webhooks {
    /// Those in a database. `bell` is notified when the end of a response was written that is to be told.
    pub fn new(
        store: Store,
        seal: Seal,
        courier: Courier,
        limits: WebhookLimits,
        metrics: WebhookMetrics,
        clock: Clock,
        bell: Arc<Notify>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            seal,
            courier,
            limits,
            metrics,
            clock,
            bell,
            name: Uuid::now_v7().simple().to_string(),
            busy: Mutex::default(),
            tests: Semaphore::new(TESTS),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// Makes an endpoint for a principal. The answer has its secret.
    ///
    /// # Errors
    ///
    /// The principal has as many as it may, or the URL leads to where nothing is sent.
    pub async fn create(&self, principal: &str, wanted: CreateWebhook) -> Result<WebhookEndpoint, ApiError> {
        self.check(&wanted.url).await?;
        let _nobody_else = self.changing.lock().await;
        let most = self.limits.endpoints;
        if self.store.webhooks_of(principal).await?.unsigned_abs() >= most as u64 {
            let message = format!(
                "You have {most} webhook endpoints, which is the limit (limits.webhook_endpoints). Delete one that is not \
                 needed."
            );
            return Err(ApiError::new(ErrorKind::RateLimited, "too_many_webhook_endpoints", message).never_retry());
        }
        let (id, secrets, now) = (webhook_id(Uuid::now_v7()), self.new_secret()?, self.now());
        let CreateWebhook { name, url, event_types, all_runs } = wanted;
        let row = WebhookRow {
            secrets: self.sealed(&id, principal, &secrets)?,
            secret_hint: secrets.hint(),
            id,
            principal: principal.to_owned(),
            name,
            url,
            event_types,
            all_runs,
            configured: false,
            created_at: now,
            updated_at: now,
            disabled_at: None,
        };
        self.store.keep_webhook(&row).await?;
        Ok(WebhookEndpoint { signing_secret: Some(secrets.current().to_owned()), ..shown(&row) })
    }

    /// The endpoints that a principal has made, the latest first, older than the one with the id `after`; at most `limit`.
    ///
    /// # Errors
    ///
    /// The database does not answer.
    pub async fn list(
        &self,
        principal: &str,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<WebhookEndpoint>, ApiError> {
        Ok(self.store.webhooks(principal, after, limit).await?.iter().map(shown).collect())
    }

    /// An endpoint of a principal.
    ///
    /// # Errors
    ///
    /// The principal has made no such endpoint.
    pub async fn retrieve(&self, principal: &str, id: &str) -> Result<WebhookEndpoint, ApiError> {
        self.own(principal, id).await.map(|row| shown(&row))
    }

    /// Changes an endpoint of a principal.
    ///
    /// # Errors
    ///
    /// There is none, or its new URL leads to where nothing is sent.
    pub async fn update(&self, principal: &str, id: &str, changes: UpdateWebhook) -> Result<WebhookEndpoint, ApiError> {
        if let Some(url) = &changes.url {
            self.check(url).await?;
        }
        let _nobody_else = self.changing.lock().await;
        let before = self.own(principal, id).await?;
        let (mut row, now) = (before.clone(), self.now());
        if changes.url.is_some() || changes.disabled == Some(false) {
            row.disabled_at = None;
        } else if changes.disabled == Some(true) {
            row.disabled_at = row.disabled_at.or(Some(now));
        }
        row.name = changes.name.unwrap_or(row.name);
        row.url = changes.url.unwrap_or(row.url);
        row.event_types = changes.event_types.unwrap_or(row.event_types);
        row.all_runs = changes.all_runs.unwrap_or(row.all_runs);
        if row != before {
            row.updated_at = now;
            self.store.keep_webhook(&row).await?;
        }
        Ok(shown(&row))
    }

    /// Removes an endpoint of a principal, and what waits for it.
    ///
    /// # Errors
    ///
    /// There is none.
    pub async fn delete(&self, principal: &str, id: &str) -> Result<(), ApiError> {
        let _nobody_else = self.changing.lock().await;
        self.own(principal, id).await?;
        self.store.delete_webhook(id).await?;
        Ok(())
    }

    /// Replaces the secret of an endpoint. With `overlap`, what is sent within a day is signed with the old one as well. The
    /// answer has the new one.
    ///
    /// # Errors
    ///
    /// There is no such endpoint.
    pub async fn rotate(&self, principal: &str, id: &str, overlap: bool) -> Result<WebhookEndpoint, ApiError> {
        let _nobody_else = self.changing.lock().await;
        let (mut row, now) = (self.own(principal, id).await?, self.now());
        let mut secrets = self.new_secret()?;
        if overlap {
            secrets.keep(self.opened(&row.id, &row.principal, &row.secrets)?, now, now + OVERLAP);
        }
        row.secrets = self.sealed(&row.id, principal, &secrets)?;
        row.secret_hint = secrets.hint();
        row.updated_at = now;
        self.store.keep_webhook(&row).await?;
        Ok(WebhookEndpoint { signing_secret: Some(secrets.current().to_owned()), ..shown(&row) })
    }

    /// Sends a sample event to an endpoint of a principal, once; the status of its answer.
    ///
    /// # Errors
    ///
    /// There is no such endpoint, or it does not answer.
    pub async fn test(&self, principal: &str, id: &str, kind: &str) -> Result<u16, ApiError> {
        self.try_out(&self.own(principal, id).await?, kind).await
    }

    /// The same, to an endpoint of any principal or of the configuration.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn test_any(&self, id: &str, kind: &str) -> Result<u16, ApiError> {
        let row = self.store.webhook(id).await?.ok_or_else(|| webhook_not_found(id))?;
        self.try_out(&row, kind).await
    }

    async fn try_out(&self, row: &WebhookRow, kind: &str) -> Result<u16, ApiError> {
        let Ok(_place) = self.tests.try_acquire() else {
            let message =
                format!("{TESTS} sample events are being sent, which is the limit. Repeat the request later.");
            return Err(ApiError::new(ErrorKind::RateLimited, "rate_limit_exceeded", message).with_retry_after(1));
        };
        let id = format!("evt_{}", Uuid::now_v7().simple());
        let body = sample(&id, kind, SAMPLE, self.now());
        let secrets = self.opened(&row.id, &row.principal, &row.secrets)?;
        let sent = self.post(&row.url, &id, body, &secrets).await;
        sent.map(|reply| reply.status).map_err(|error| {
            let message = match error {
                NoReply::Denied(why) => format!("The URL of the endpoint {why}."),
                NoReply::Timeout(_) => "The endpoint has not answered in time (limits.webhook_timeout).".to_owned(),
                NoReply::Unreachable(_) | NoReply::BrokenOff(_) => "The endpoint has not answered.".to_owned(),
            };
            ApiError::new(ErrorKind::BadGateway, "webhook_endpoint_failed", message).never_retry()
        })
    }

    /// Lets a delivery be tried again, as an operator wants it; false when there is none that can be.
    ///
    /// # Errors
    ///
    /// The database does not answer.
    pub async fn redeliver(&self, id: &str) -> Result<bool, ApiError> {
        let again = self.store.redeliver(id, self.now()).await?;
        self.bell.notify_one();
        Ok(again)
    }

    /// The endpoint of this id that a principal has made.
    async fn own(&self, principal: &str, id: &str) -> Result<WebhookRow, ApiError> {
        let row = self.store.webhook(id).await?;
        row.filter(|row| row.principal == principal && !row.configured).ok_or_else(|| webhook_not_found(id))
    }

    /// In milliseconds since 1970.
    fn now(&self) -> i64 {
        self.clock.milliseconds()
    }

    async fn check(&self, url: &str) -> Result<(), ApiError> {
        let checked = self.courier.check(url).await;
        checked.map_err(|why| ApiError::invalid("url", "invalid_value", format!("'url' {why}.")))
    }

    fn new_secret(&self) -> Result<Secrets, ApiError> {
        self.seal.random().map(Secrets::new).map_err(|_| ApiError::internal())
    }

    fn sealed(&self, id: &str, principal: &str, secrets: &Secrets) -> Result<String, ApiError> {
        let place = place(id, principal);
        self.seal.seal_secret(&place, secrets.write()).map_err(|_| ApiError::internal())
    }

    fn opened(&self, id: &str, principal: &str, sealed: &str) -> Result<Secrets, ApiError> {
        let opened = self.seal.open_secret(&place(id, principal), sealed);
        opened.and_then(|content| Secrets::read(&content)).ok_or_else(|| {
            tracing::error!(endpoint = id, "the secret of this webhook endpoint cannot be opened");
            ApiError::internal()
        })
    }
}

/// Where the secrets of an endpoint stand.
fn place(id: &str, principal: &str) -> String {
    format!("webhook {id}\n{principal}")
}

fn shown(row: &WebhookRow) -> WebhookEndpoint {
    WebhookEndpoint {
        id: row.id.clone(),
        object: "webhook_endpoint",
        created_at: row.created_at / 1_000,
        updated_at: row.updated_at / 1_000,
        name: row.name.clone(),
        url: row.url.clone(),
        event_types: row.event_types.clone(),
        runs: if row.all_runs { "all" } else { "background" },
        disabled: row.disabled_at.is_some(),
        signing_secret_hint: row.secret_hint.clone(),
        signing_secret: None,
    }
}
