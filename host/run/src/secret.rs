//! The secret behind the random numbers and the keys of runs.
//!
//! It is kept in the database, like the one that [seals](super::Seal), so that a run that is executed again gets the same
//! ones. Beside it stands since when there is one: what was accepted before goes on as it began.

use outlast_plugin::RunSecret;
use outlast_protocol::ResponseId;
use outlast_store::{Store, StoreError};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

use super::seal::NoRandomness;

/// The name of the secret in the database.
const SECRET: &str = "runs";
/// The name of the time of its making: milliseconds since 1970, 8 bytes.
const SINCE: &str = "runs.since";

/// Makes the secrets of runs.
#[derive(Debug)]
pub struct RunSecrets {
    key: hmac::Key,
    since: i64,
}

impl RunSecrets {
    /// Those of the server that owns this database. The secret is made at the first start; `now` is in milliseconds since
    /// 1970.
    pub async fn of(store: &Store, now: i64) -> Result<Self, StoreError> {
        let mut new = [0; 32];
        SystemRandom::new().fill(&mut new).map_err(|_| StoreError::Damaged(NoRandomness.to_string()))?;
        // Whoever accepted the runs that go on may have had another clock. First the time: should this stop between the two,
        // runs go on with what they began with all the same.
        let first = now.max(store.last_accepted().await? + 1);
        let since = store.secret(SINCE, &first.to_be_bytes()).await?;
        let since =
            since.try_into().map_err(|_| StoreError::Damaged(format!("the secret `{SINCE}` must have 8 bytes")))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &store.secret(SECRET, &new).await?);
        Ok(Self { key, since: i64::from_be_bytes(since) })
    }

    /// The secret of a run that was accepted at this time, in milliseconds since 1970.
    pub fn of_run(&self, id: &ResponseId, created_at: i64) -> RunSecret {
        match created_at < self.since {
            true => RunSecret::by_id(id.as_str()),
            false => RunSecret::new(&self.key, id.as_str()),
        }
    }
}
