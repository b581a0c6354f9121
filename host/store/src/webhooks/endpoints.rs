//! Webhook endpoints.

use sqlx::{Row as _, any::AnyRow};

use crate::{Store, StoreError, sql::query};

/// A row of `webhook_endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRow {
    /// Its id.
    pub id: String,
    /// Whose responses it is told of.
    pub principal: String,
    /// What its owner calls it.
    pub name: String,
    /// Where events are sent.
    pub url: String,
    /// The types of events that it wants.
    pub event_types: Vec<String>,
    /// Whether it is told of all stored responses, and not only of those in the background.
    pub all_runs: bool,
    /// What signs its events, sealed.
    pub secrets: String,
    /// What may be shown of the secret.
    pub secret_hint: String,
    /// Whether it stands in the configuration.
    pub configured: bool,
    /// In milliseconds since 1970.
    pub created_at: i64,
    /// In milliseconds since 1970.
    pub updated_at: i64,
    /// Since when nothing is sent to it, in milliseconds since 1970; none: it is told.
    pub disabled_at: Option<i64>,
}

const COLUMNS: &str = "id, principal, name, url, event_types, all_runs, secrets, secret_hint, configured, created_at, \
    updated_at, disabled_at";

impl Store {
    /// The endpoints that a principal has made, the latest first, older than the one with the id `after`; at most `limit`.
    pub async fn webhooks(
        &self,
        principal: &str,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<WebhookRow>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM webhook_endpoints WHERE principal = $1 AND configured = 0 AND id < $2 \
             ORDER BY id DESC LIMIT $3"
        );
        let query = query(sql).bind(principal.to_owned()).bind(after.unwrap_or("~").to_owned()).bind(limit);
        query.fetch_all(&self.pool).await?.iter().map(webhook).collect()
    }

    /// The endpoints of all principals and of the configuration, in the order of their ids, behind the one with the id
    /// `after`; at most `limit`.
    pub async fn all_webhooks(&self, after: &str, limit: i64) -> Result<Vec<WebhookRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM webhook_endpoints WHERE id > $1 ORDER BY id LIMIT $2");
        let query = query(sql).bind(after.to_owned()).bind(limit);
        query.fetch_all(&self.pool).await?.iter().map(webhook).collect()
    }

    /// The endpoints of the configuration.
    pub async fn configured_webhooks(&self) -> Result<Vec<WebhookRow>, StoreError> {
        let query = query(format!("SELECT {COLUMNS} FROM webhook_endpoints WHERE configured = 1"));
        query.fetch_all(&self.pool).await?.iter().map(webhook).collect()
    }

    /// An endpoint of any principal.
    pub async fn webhook(&self, id: &str) -> Result<Option<WebhookRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM webhook_endpoints WHERE id = $1");
        let row = query(sql).bind(id.to_owned()).fetch_optional(&self.pool).await?;
        row.as_ref().map(webhook).transpose()
    }

    /// How many endpoints a principal has made.
    pub async fn webhooks_of(&self, principal: &str) -> Result<i64, StoreError> {
        let count = "SELECT COUNT(*) AS count FROM webhook_endpoints WHERE principal = $1 AND configured = 0";
        let row = sqlx::query(count).bind(principal.to_owned()).fetch_one(&self.pool).await?;
        Ok(row.try_get("count")?)
    }

    /// Writes an endpoint, as it is from now on. What waits for one that is disabled is given up.
    pub async fn keep_webhook(&self, webhook: &WebhookRow) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let sql = format!(
            "INSERT INTO webhook_endpoints ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             ON CONFLICT (id) DO UPDATE SET principal = excluded.principal, name = excluded.name, url = excluded.url, \
             event_types = excluded.event_types, all_runs = excluded.all_runs, secrets = excluded.secrets, \
             secret_hint = excluded.secret_hint, updated_at = excluded.updated_at, disabled_at = excluded.disabled_at"
        );
        query(sql)
            .bind(webhook.id.clone())
            .bind(webhook.principal.clone())
            .bind(webhook.name.clone())
            .bind(webhook.url.clone())
            // Strings always serialize.
            .bind(serde_json::to_string(&webhook.event_types).unwrap_or_default())
            .bind(i64::from(webhook.all_runs))
            .bind(webhook.secrets.clone())
            .bind(webhook.secret_hint.clone())
            .bind(i64::from(webhook.configured))
            .bind(webhook.created_at)
            .bind(webhook.updated_at)
            .bind(webhook.disabled_at)
            .execute(&mut *transaction)
            .await?;
        if let Some(now) = webhook.disabled_at {
            give_up(&mut transaction, &webhook.id, now).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Disables an endpoint, and gives up what waits for it; false when there is no such endpoint, or it is disabled.
    pub async fn disable_webhook(&self, id: &str, now: i64) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let disable = "UPDATE webhook_endpoints SET disabled_at = $2 WHERE id = $1 AND disabled_at IS NULL";
        let disabled = sqlx::query(disable).bind(id.to_owned()).bind(now).execute(&mut *transaction).await?;
        if disabled.rows_affected() > 0 {
            give_up(&mut transaction, id, now).await?;
        }
        transaction.commit().await?;
        Ok(disabled.rows_affected() > 0)
    }

    /// Removes an endpoint and all its deliveries; false when there is none.
    pub async fn delete_webhook(&self, id: &str) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        // First the endpoint: a run that ends meanwhile holds it.
        let delete = sqlx::query("DELETE FROM webhook_endpoints WHERE id = $1").bind(id.to_owned());
        let deleted = delete.execute(&mut *transaction).await?.rows_affected() > 0;
        let delete = sqlx::query("DELETE FROM webhook_deliveries WHERE endpoint_id = $1").bind(id.to_owned());
        delete.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(deleted)
    }
}

async fn give_up(connection: &mut sqlx::AnyConnection, endpoint: &str, now: i64) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE webhook_deliveries SET state = 'dead', next_try_at = NULL, claim = NULL, ended_at = $2, \
         last_error = 'the endpoint is disabled' WHERE endpoint_id = $1 AND state = 'pending'",
    )
    .bind(endpoint.to_owned())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

fn webhook(row: &AnyRow) -> Result<WebhookRow, StoreError> {
    let event_types: String = row.try_get("event_types")?;
    Ok(WebhookRow {
        id: row.try_get("id")?,
        principal: row.try_get("principal")?,
        name: row.try_get("name")?,
        url: row.try_get("url")?,
        event_types: types_of(&event_types)?,
        all_runs: row.try_get::<i64, _>("all_runs")? != 0,
        secrets: row.try_get("secrets")?,
        secret_hint: row.try_get("secret_hint")?,
        configured: row.try_get::<i64, _>("configured")? != 0,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        disabled_at: row.try_get("disabled_at")?,
    })
}

pub(super) fn types_of(json: &str) -> Result<Vec<String>, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Damaged(format!("the event types of a webhook: {error}")))
}
