//! Runs as an operator sees them: those of all principals, with what they use and what they log.
//!
//! What is here is for the operator's eyes. Clients see responses.

use outlast_protocol::{ResponseId, Status};
use outlast_store::{RunFilter, RunRow, StoreError};
use serde::Deserialize;

use super::{Manager, Refusal};

/// A line of a run's log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LoggedLine {
    /// Its number, from 0 on.
    #[serde(skip)]
    pub number: u64,
    /// When it was written, in milliseconds since 1970.
    pub time: i64,
    /// How important it is.
    pub level: String,
    /// Where it was written.
    pub source: String,
    /// The line.
    pub text: String,
}

impl Manager {
    /// Runs of all principals, the latest first. Runs of which nothing is kept are not among them.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>, StoreError> {
        let runs = self.store().runs(filter).await?;
        Ok(runs.into_iter().map(|run| self.counted(run)).collect())
    }

    /// A run of any principal.
    pub async fn run(&self, id: &ResponseId) -> Result<Option<RunRow>, StoreError> {
        Ok(self.store().run(id).await?.map(|run| self.counted(run)))
    }

    /// What a run that goes on has used until now.
    fn counted(&self, mut row: RunRow) -> RunRow {
        if let Some(run) = self.find_any(&row.id) {
            let used = run.meter.used();
            // A run that was taken over and not executed yet has used what its row says.
            let most = |kept: i64, now: u64| kept.max(i64::try_from(now).unwrap_or(i64::MAX));
            row.usage.cpu = row.usage.cpu.max(i64::try_from(used.cpu.as_micros()).unwrap_or(i64::MAX));
            row.usage.memory = most(row.usage.memory, used.memory);
            row.usage.input_tokens = most(row.usage.input_tokens, used.input_tokens);
            row.usage.output_tokens = most(row.usage.output_tokens, used.output_tokens);
        }
        row
    }

    /// The next lines of the log of a run, from the number `from` on, at most `most`; none when there is no such run.
    pub async fn log(&self, id: &ResponseId, from: u64, most: usize) -> Result<Option<Vec<LoggedLine>>, StoreError> {
        let damaged = |error: serde_json::Error| StoreError::Damaged(format!("{id}: a line of its log: {error}"));
        let (mut lines, mut next) = (Vec::new(), from);
        while lines.len() < most {
            let page = self.store().log(id, next).await?;
            if page.is_empty() {
                break;
            }
            for segment in page {
                let texts = segment.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                for (number, text) in (segment.first..).zip(texts) {
                    if number >= from && lines.len() < most {
                        let line: LoggedLine = serde_json::from_slice(text).map_err(damaged)?;
                        lines.push(LoggedLine { number, ..line });
                    }
                }
                next = segment.last + 1;
            }
        }
        if lines.is_empty() && self.store().run(id).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(lines))
    }

    /// Stops a run of any principal and waits for its end; none when there is no such run, and the status when it has
    /// ended.
    ///
    /// # Errors
    ///
    /// The server stops, and the run goes on after the next start.
    pub async fn cancel_any(&self, id: &ResponseId) -> Result<Option<Status>, Refusal> {
        let Some(row) = self.store().run(id).await? else { return Ok(None) };
        self.cancel(&row.principal, id).await
    }
}
