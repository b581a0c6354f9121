//! Which delivery is tried next, by whom, and what came of it.
//!
//! Whoever tries a delivery claims it: nobody else tries it until the claim is over. A claim is a name and a time in the row
//! itself, so that two servers at one database would not both send. A start frees the claims of those before it.

use std::collections::HashMap;

use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{
    Backend, Store, StoreError,
    sql::{batches, placeholders, query, rows_of},
};

/// Who wants to try deliveries, and which.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Who: a name that no other start of a server has.
    pub by: &'a str,
    /// The time now, in milliseconds since 1970.
    pub now: i64,
    /// Until when nobody else tries them.
    pub until: i64,
    /// How many deliveries to each endpoint are being tried.
    pub busy: &'a HashMap<String, usize>,
    /// How many may be tried at once to one endpoint.
    pub each: usize,
    /// The most deliveries.
    pub most: usize,
}

/// A delivery to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Its id.
    pub id: String,
    /// The event.
    pub event_id: String,
    /// Its endpoint.
    pub endpoint_id: String,
    /// Whose endpoint it is.
    pub principal: String,
    /// Where to send it.
    pub url: String,
    /// What signs it, sealed.
    pub secrets: String,
    /// The body.
    pub payload: String,
    /// How often it was tried before.
    pub attempts: i64,
    /// From when the time counts after which it is given up, in milliseconds since 1970.
    pub queued_at: i64,
}

/// What came of a try.
#[derive(Clone, Copy, Debug)]
pub struct Tried<'a> {
    /// The delivery.
    pub id: &'a str,
    /// Who tried it.
    pub by: &'a str,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<&'a str>,
    /// How the body of the answer began.
    pub answer: Option<&'a str>,
    /// What becomes of it.
    pub outcome: TryOutcome,
}

/// What becomes of a delivery after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryOutcome {
    /// It is delivered.
    Delivered,
    /// It is tried again at this time, in milliseconds since 1970.
    Again(i64),
    /// It is given up.
    Dead,
}

impl Claim<'_> {
    /// The endpoints that take no more.
    fn full(&self) -> Vec<&str> {
        self.busy.iter().filter(|(_, busy)| **busy >= self.each).map(|(id, _)| id.as_str()).collect()
    }
}

const DUE: &str = "FROM webhook_deliveries JOIN webhook_endpoints ON webhook_endpoints.id = endpoint_id \
    WHERE state = 'pending' AND disabled_at IS NULL";

impl Store {
    /// Frees the claims of everybody else: they belong to servers that own this database no more.
    pub async fn free_claims(&self, by: &str, now: i64) -> Result<u64, StoreError> {
        const CLAIMED: &str = "state = 'pending' AND claim IS NOT NULL AND claim <> $1";
        // Most times there is none: a start writes nothing then.
        let look = query(format!("SELECT id FROM webhook_deliveries WHERE {CLAIMED} LIMIT 1"));
        if look.bind(by.to_owned()).fetch_optional(&self.pool).await?.is_none() {
            return Ok(0);
        }
        let mut transaction = self.begin().await?;
        let free = query(format!("UPDATE webhook_deliveries SET claim = NULL, next_try_at = $2 WHERE {CLAIMED}"));
        let freed = free.bind(by.to_owned()).bind(now).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(freed.rows_affected())
    }

    /// When the next delivery is to be tried to an endpoint that takes more, in milliseconds since 1970.
    pub async fn next_delivery(&self, claim: &Claim<'_>) -> Result<Option<i64>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let (condition, full) = except(&connection, claim);
        let sql = format!("SELECT next_try_at {DUE}{condition} ORDER BY next_try_at LIMIT 1");
        let query = full.into_iter().fold(query(sql), |query, id| query.bind(id));
        let row = query.fetch_optional(&mut *connection).await?;
        row.map(|row| Ok(row.try_get("next_try_at")?)).transpose()
    }

    /// Claims deliveries whose time has come, oldest first.
    pub async fn claim_deliveries(&self, claim: &Claim<'_>) -> Result<Vec<Claimed>, StoreError> {
        let mut transaction = self.begin().await?;
        let (condition, full) = except(&transaction, claim);
        let held = if self.backend == Backend::Postgres { " FOR UPDATE OF webhook_deliveries SKIP LOCKED" } else { "" };
        // Numbers that this program has made.
        let (now, most) = (claim.now, claim.most);
        let sql = format!(
            "SELECT webhook_deliveries.id AS id, event_id, endpoint_id, principal, url, secrets, payload, attempts, \
             queued_at {DUE}{condition} AND next_try_at <= {now} ORDER BY next_try_at LIMIT {most}{held}"
        );
        let query = full.into_iter().fold(query(sql), |query, id| query.bind(id));
        let (mut claimed, mut busy) = (Vec::new(), claim.busy.clone());
        for row in query.fetch_all(&mut *transaction).await? {
            let delivery = self::claimed(&row)?;
            let places = busy.entry(delivery.endpoint_id.clone()).or_default();
            if *places < claim.each {
                *places += 1;
                claimed.push(delivery);
            }
        }
        for some in batches(&claimed) {
            mark(&mut transaction, claim, some).await?;
        }
        transaction.commit().await?;
        Ok(claimed)
    }

    /// Writes what came of a try; false when somebody else has the delivery by now, or it is gone.
    pub async fn settle_delivery(&self, tried: &Tried<'_>) -> Result<bool, StoreError> {
        let (state, next, ended) = match tried.outcome {
            TryOutcome::Delivered => ("delivered", None, Some(tried.at)),
            TryOutcome::Again(at) => ("pending", Some(at), None),
            TryOutcome::Dead => ("dead", None, Some(tried.at)),
        };
        let mut transaction = self.begin().await?;
        let settled = sqlx::query(
            "UPDATE webhook_deliveries SET state = $3, attempts = attempts + 1, next_try_at = $4, claim = NULL, \
             last_try_at = $5, last_status = $6, last_error = $7, last_answer = $8, ended_at = $9 \
             WHERE id = $1 AND claim = $2 AND state = 'pending'",
        )
        .bind(tried.id.to_owned())
        .bind(tried.by.to_owned())
        .bind(state)
        .bind(next)
        .bind(tried.at)
        .bind(tried.status.map(i64::from))
        .bind(tried.error.map(storable))
        .bind(tried.answer.map(storable))
        .bind(ended)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(settled.rows_affected() > 0)
    }
}

/// What leaves the full endpoints out, and their ids.
fn except(connection: &AnyConnection, claim: &Claim<'_>) -> (String, Vec<String>) {
    let full = claim.full();
    if full.is_empty() {
        return (String::new(), Vec::new());
    }
    let condition = format!(" AND endpoint_id NOT IN ({})", placeholders(connection, full.len()));
    (condition, full.into_iter().map(str::to_owned).collect())
}

async fn mark(connection: &mut AnyConnection, claim: &Claim<'_>, some: &[Claimed]) -> Result<(), StoreError> {
    let sql = format!(
        "WITH mine (id, claim, until) AS (VALUES {}) UPDATE webhook_deliveries SET claim = mine.claim, \
         next_try_at = mine.until FROM mine WHERE webhook_deliveries.id = mine.id",
        rows_of(connection, some.len(), 3)
    );
    let query = some
        .iter()
        .fold(query(sql), |query, row| query.bind(row.id.clone()).bind(claim.by.to_owned()).bind(claim.until));
    query.execute(connection).await?;
    Ok(())
}

fn claimed(row: &AnyRow) -> Result<Claimed, StoreError> {
    Ok(Claimed {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        endpoint_id: row.try_get("endpoint_id")?,
        principal: row.try_get("principal")?,
        url: row.try_get("url")?,
        secrets: row.try_get("secrets")?,
        payload: row.try_get("payload")?,
        attempts: row.try_get("attempts")?,
        queued_at: row.try_get("queued_at")?,
    })
}

/// PostgreSQL takes no NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
