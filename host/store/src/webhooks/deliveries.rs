//! Deliveries: written with the end of a response, and kept as a log.

use outlast_protocol::{ResponseId, TerminalStatus, WebhookEvent, event_id};
use sqlx::{AnyConnection, Database as _, Postgres, Row as _, any::AnyRow};
use uuid::Uuid;

use super::endpoints::types_of;
use crate::{
    Store, StoreError,
    sql::{batches, placeholders, query, rows_of},
};

/// The most deliveries that are removed at once.
const REMOVED: i64 = 500;

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is tried, or will be.
    Pending,
    /// The endpoint has taken it.
    Delivered,
    /// It was given up.
    Dead,
}

impl DeliveryState {
    /// The word used in JSON and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Dead].into_iter().find(|state| state.as_str() == word)
    }
}

/// A delivery, as an operator sees it. Times are in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its id.
    pub id: String,
    /// The event.
    pub event_id: String,
    /// Where it goes.
    pub endpoint_id: String,
    /// Whose response it is about.
    pub principal: String,
    /// The response.
    pub response_id: String,
    /// What happened.
    pub event_type: String,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: i64,
    /// When it was written.
    pub created_at: i64,
    /// When it is tried next.
    pub next_try_at: Option<i64>,
    /// When it was tried last.
    pub last_try_at: Option<i64>,
    /// The HTTP status of the last answer.
    pub last_status: Option<i64>,
    /// Why the last try failed.
    pub last_error: Option<String>,
    /// How the body of the last answer began.
    pub last_answer: Option<String>,
    /// When it was delivered or given up.
    pub ended_at: Option<i64>,
}

/// Which deliveries are asked for.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// To this endpoint.
    pub endpoint: Option<String>,
    /// Of this principal.
    pub principal: Option<String>,
    /// In this state.
    pub state: Option<DeliveryState>,
    /// About this response.
    pub response: Option<ResponseId>,
    /// Older than this one.
    pub after: Option<String>,
    /// The most deliveries.
    pub limit: i64,
}

const COLUMNS: &str = "webhook_deliveries.id AS id, event_id, endpoint_id, principal, response_id, event_type, state, \
    attempts, webhook_deliveries.created_at AS created_at, next_try_at, last_try_at, last_status, last_error, \
    last_answer, ended_at FROM webhook_deliveries JOIN webhook_endpoints ON webhook_endpoints.id = endpoint_id";

/// A response that has ended, and whose it is.
pub(crate) type Ended<'a> = (&'a ResponseId, String, TerminalStatus, i64, bool);

/// Writes what is told of the end of these responses (id, principal, how, when, whether in the background), as part of the
/// transaction that ends them. How many deliveries that are.
pub(crate) async fn write_for(connection: &mut AnyConnection, ended: &[Ended<'_>]) -> Result<u64, StoreError> {
    let mut principals: Vec<_> = ended.iter().map(|(_, principal, ..)| principal.clone()).collect();
    principals.sort();
    principals.dedup();
    let mut told = Vec::new();
    // Until the transaction is over nobody removes or disables the endpoint: then also this delivery goes.
    let held = if connection.backend_name() == Postgres::NAME { " FOR SHARE" } else { "" };
    for principals in batches(&principals) {
        let sql = format!(
            "SELECT id, principal, event_types, all_runs FROM webhook_endpoints \
             WHERE disabled_at IS NULL AND principal IN ({}){held}",
            placeholders(connection, principals.len())
        );
        let query = principals.iter().fold(query(sql), |query, principal| query.bind(principal.clone()));
        for row in query.fetch_all(&mut *connection).await? {
            let endpoint: String = row.try_get("id")?;
            let owner: String = row.try_get("principal")?;
            let types = types_of(&row.try_get::<String, _>("event_types")?)?;
            let all_runs = row.try_get::<i64, _>("all_runs")? != 0;
            let wanted =
                |(_, principal, _, _, background): &&Ended<'_>| *principal == owner && (*background || all_runs);
            for (id, _, status, at, _) in ended.iter().filter(wanted) {
                let event = WebhookEvent::ended(id, *status, *at);
                if types.iter().any(|kind| *kind == event.kind) {
                    told.push((endpoint.clone(), *id, *at, event));
                }
            }
        }
    }
    let mut written = 0;
    for rows in batches(&told) {
        let sql = format!(
            "INSERT INTO webhook_deliveries (id, event_id, endpoint_id, response_id, event_type, payload, created_at, \
             queued_at, next_try_at) VALUES {} ON CONFLICT (event_id, endpoint_id) DO NOTHING",
            rows_of(connection, rows.len(), 9)
        );
        let mut query = query(sql);
        for (endpoint, response, at, event) in rows {
            query = query
                .bind(format!("whd_{}", Uuid::now_v7().simple()))
                .bind(event.id.clone())
                .bind(endpoint.clone())
                .bind(response.as_str().to_owned())
                .bind(event.kind)
                .bind(event.body.clone())
                .bind(*at)
                .bind(*at)
                .bind(*at);
        }
        written += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(written)
}

impl Store {
    /// Deliveries, the latest first.
    pub async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<DeliveryRow>, StoreError> {
        let conditions = [
            ("endpoint_id =", filter.endpoint.clone()),
            ("principal =", filter.principal.clone()),
            ("state =", filter.state.map(|state| state.as_str().to_owned())),
            ("event_id =", filter.response.as_ref().map(event_id)),
            ("webhook_deliveries.id <", filter.after.clone()),
        ];
        let (mut sql, mut bound) = (format!("SELECT {COLUMNS} WHERE attempts >= $1"), Vec::new());
        for (condition, value) in conditions {
            if let Some(value) = value {
                bound.push(value);
                sql.push_str(&format!(" AND {condition} ${}", bound.len() + 1));
            }
        }
        sql.push_str(&format!(" ORDER BY webhook_deliveries.id DESC LIMIT ${}", bound.len() + 2));
        let query = bound.into_iter().fold(query(sql).bind(0_i64), |query, value| query.bind(value));
        query.bind(filter.limit).fetch_all(&self.pool).await?.iter().map(delivery).collect()
    }

    /// A delivery.
    pub async fn delivery(&self, id: &str) -> Result<Option<DeliveryRow>, StoreError> {
        let query = query(format!("SELECT {COLUMNS} WHERE webhook_deliveries.id = $1")).bind(id.to_owned());
        query.fetch_optional(&self.pool).await?.as_ref().map(delivery).transpose()
    }

    /// Lets a delivery be tried from now on as if it was new; false when there is none, its endpoint is disabled, or
    /// somebody tries it at this moment.
    pub async fn redeliver(&self, id: &str, now: i64) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let again = "UPDATE webhook_deliveries SET state = 'pending', attempts = 0, queued_at = $2, next_try_at = $2, \
                     ended_at = NULL WHERE id = $1 AND claim IS NULL AND EXISTS (SELECT 1 FROM webhook_endpoints \
                     WHERE webhook_endpoints.id = endpoint_id AND disabled_at IS NULL)";
        let again = sqlx::query(again).bind(id.to_owned()).bind(now).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(again.rows_affected() > 0)
    }

    /// Removes some of the deliveries that ended before `time` (milliseconds since 1970); returns how many.
    pub async fn remove_deliveries(&self, time: i64) -> Result<u64, StoreError> {
        let old = "SELECT id FROM webhook_deliveries WHERE ended_at < $1 ORDER BY ended_at LIMIT $2";
        // Most times there is none: nobody waits for a turn to write then.
        if sqlx::query(old).bind(time).bind(1_i64).fetch_optional(&self.pool).await?.is_none() {
            return Ok(0);
        }
        let mut transaction = self.begin().await?;
        let delete = query(format!("DELETE FROM webhook_deliveries WHERE id IN ({old})")).bind(time).bind(REMOVED);
        let deleted = delete.execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        Ok(deleted)
    }
}

fn delivery(row: &AnyRow) -> Result<DeliveryRow, StoreError> {
    let state: String = row.try_get("state")?;
    Ok(DeliveryRow {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        endpoint_id: row.try_get("endpoint_id")?,
        principal: row.try_get("principal")?,
        response_id: row.try_get("response_id")?,
        event_type: row.try_get("event_type")?,
        state: DeliveryState::parse(&state)
            .ok_or_else(|| StoreError::Damaged(format!("`{state}` is not a state of a delivery")))?,
        attempts: row.try_get("attempts")?,
        created_at: row.try_get("created_at")?,
        next_try_at: row.try_get("next_try_at")?,
        last_try_at: row.try_get("last_try_at")?,
        last_status: row.try_get("last_status")?,
        last_error: row.try_get("last_error")?,
        last_answer: row.try_get("last_answer")?,
        ended_at: row.try_get("ended_at")?,
    })
}
