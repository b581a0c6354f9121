//! Runs as an operator sees them: whose they are, what they use, what they log.

use outlast_protocol::{ResponseId, Status, Usage};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use super::{
    Store, StoreError,
    commit_log::Kind,
    segments::Part,
    sql::{query, response_id, rows_of},
};

/// The most segments of one page of a log.
const PAGE: usize = 16;

/// Consecutive lines of one run's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSegment {
    /// The number of the first line.
    pub first: u64,
    /// The number of the last line.
    pub last: u64,
    /// The lines, each JSON with its line feed.
    pub lines: Vec<u8>,
}

/// What a run has used, all attempts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunUsage {
    /// Time of a processor, in microseconds.
    pub cpu: i64,
    /// The most bytes of memory that an instance had.
    pub memory: i64,
    /// Tokens that upstream models were given.
    pub input_tokens: i64,
    /// Tokens that upstream models have given.
    pub output_tokens: i64,
    /// How many lines of its component are in its log.
    pub heard: i64,
    /// What its agent has reported as the usage of its response.
    pub reported: Usage,
}

/// A run.
#[derive(Clone, Debug)]
pub struct RunRow {
    /// The id of its response.
    pub id: ResponseId,
    /// Whose it is.
    pub principal: String,
    /// Its agent.
    pub agent: String,
    /// The sha256 of its component, hexadecimal.
    pub component: String,
    /// How far it is.
    pub status: Status,
    /// The conversation that it belongs to.
    pub conversation: Option<String>,
    /// The response that it continues.
    pub previous: Option<String>,
    /// When it was accepted, in milliseconds since 1970.
    pub created_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// How often a start has resumed it since it last got on.
    pub attempts: i64,
    /// What it has used.
    pub usage: RunUsage,
    /// How many lines its log has.
    pub log_lines: i64,
    /// The final response object, JSON; none while the run is active.
    pub response: Option<String>,
}

/// Which runs are asked for.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Of this agent.
    pub agent: Option<String>,
    /// Of this principal.
    pub principal: Option<String>,
    /// With this status.
    pub status: Option<Status>,
    /// Older than this one.
    pub after: Option<ResponseId>,
    /// The most runs.
    pub limit: i64,
}

const COLUMNS: &str = "responses.id AS id, principal, agent, component, status, created_at, ended_at, \
    COALESCE((SELECT lives.attempts FROM lives WHERE response_id = responses.id), 0) AS attempts, \
    conversation_id AS conversation, previous_response_id AS previous, COALESCE(cpu, 0) AS cpu, \
    COALESCE(memory, 0) AS memory, COALESCE(input_tokens, 0) AS input_tokens, \
    COALESCE(output_tokens, 0) AS output_tokens, COALESCE(heard, 0) AS heard, reported, \
    COALESCE((SELECT MAX(last_line) + 1 FROM run_logs WHERE response_id = responses.id), 0) AS log_lines \
    FROM responses LEFT JOIN run_usage ON run_usage.response_id = responses.id";

impl Store {
    /// Runs of all principals, the latest first, without their responses.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>, StoreError> {
        let status = filter.status.map(|status| status.as_str().to_owned());
        let after = filter.after.as_ref().map(|id| id.as_str().to_owned());
        let conditions = [
            ("agent =", filter.agent.clone()),
            ("principal =", filter.principal.clone()),
            ("status =", status),
            ("responses.id <", after),
        ];
        let mut sql = format!("SELECT NULL AS response, {COLUMNS} WHERE created_at >= $1 AND deleted_at IS NULL");
        let mut bound = Vec::new();
        for (condition, value) in conditions {
            if let Some(value) = value {
                bound.push(value);
                sql.push_str(&format!(" AND {condition} ${}", bound.len() + 1));
            }
        }
        sql.push_str(&format!(" ORDER BY responses.id DESC LIMIT ${}", bound.len() + 2));
        let query = bound.into_iter().fold(query(sql).bind(0_i64), |query, value| query.bind(value));
        query.bind(filter.limit).fetch_all(&self.pool).await?.iter().map(|row| self.run_of(row, None)).collect()
    }

    /// A run of any principal.
    pub async fn run(&self, id: &ResponseId) -> Result<Option<RunRow>, StoreError> {
        let sql = format!("SELECT response, {COLUMNS} WHERE responses.id = $1 AND deleted_at IS NULL");
        let row = query(sql).bind(id.as_str().to_owned()).fetch_optional(&self.pool).await?;
        row.map(|row| self.run_of(&row, row.try_get("response")?)).transpose()
    }

    fn run_of(&self, row: &AnyRow, response: Option<String>) -> Result<RunRow, StoreError> {
        let mut run = run(row, response)?;
        if let Some(tail) = self.commit_log.lock().tail(&run.id, Kind::Logs) {
            run.log_lines = run.log_lines.max(tail.last.cast_signed() + 1);
        }
        Ok(run)
    }

    /// The lines of a run's log from the number `from` on, in order: the next segments; empty at the end.
    pub async fn log(&self, id: &ResponseId, from: u64) -> Result<Vec<LogSegment>, StoreError> {
        let parts = self.parts(Kind::Logs, id, from, PAGE).await?.into_iter();
        Ok(parts.map(|Part { first, last, bytes }| LogSegment { first, last, lines: bytes }).collect())
    }

    /// How large a run's log is, in bytes.
    pub async fn log_bytes(&self, id: &ResponseId) -> Result<i64, StoreError> {
        let sum =
            "SELECT CAST(COALESCE(SUM(LENGTH(lines)), 0) AS BIGINT) AS bytes FROM run_logs WHERE response_id = $1";
        let bytes: i64 = sqlx::query(sum).bind(id.as_str().to_owned()).fetch_one(&self.pool).await?.try_get("bytes")?;
        let tail = self.commit_log.lock().tail(id, Kind::Logs).map_or(0, |tail| tail.bytes.len());
        Ok(bytes + tail.cast_signed() as i64)
    }
}

fn run(row: &AnyRow, response: Option<String>) -> Result<RunRow, StoreError> {
    let status: String = row.try_get("status")?;
    let usage = RunUsage {
        cpu: row.try_get("cpu")?,
        memory: row.try_get("memory")?,
        input_tokens: row.try_get("input_tokens")?,
        output_tokens: row.try_get("output_tokens")?,
        heard: row.try_get("heard")?,
        reported: row
            .try_get::<Option<String>, _>("reported")?
            .map_or(Ok(Usage::default()), |json| serde_json::from_str(&json))
            .map_err(|error| StoreError::Damaged(format!("the usage of a run: {error}")))?,
    };
    Ok(RunRow {
        id: response_id(row.try_get("id")?)?,
        principal: row.try_get("principal")?,
        agent: row.try_get("agent")?,
        component: row.try_get("component")?,
        status: Status::parse(&status).ok_or_else(|| StoreError::Damaged(format!("status `{status}`")))?,
        conversation: row.try_get("conversation")?,
        previous: row.try_get("previous")?,
        created_at: row.try_get("created_at")?,
        ended_at: row.try_get("ended_at")?,
        attempts: row.try_get("attempts")?,
        usage,
        log_lines: row.try_get("log_lines")?,
        response,
    })
}

pub(super) async fn set_usage(
    connection: &mut AnyConnection,
    rows: &[(&ResponseId, RunUsage)],
) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO run_usage (response_id, cpu, memory, input_tokens, output_tokens, heard, reported) VALUES {} \
         ON CONFLICT (response_id) DO UPDATE SET cpu = excluded.cpu, memory = excluded.memory, \
         input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens, heard = excluded.heard, \
         reported = excluded.reported",
        rows_of(connection, rows.len(), 7)
    );
    let mut query = query(sql);
    for (id, usage) in rows {
        query = query
            .bind(id.as_str().to_owned())
            .bind(usage.cpu)
            .bind(usage.memory)
            .bind(usage.input_tokens)
            .bind(usage.output_tokens)
            .bind(usage.heard)
            // Numbers always serialize.
            .bind(serde_json::to_string(&usage.reported).unwrap_or_default());
    }
    query.execute(connection).await?;
    Ok(())
}
