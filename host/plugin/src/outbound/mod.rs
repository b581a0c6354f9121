//! The way to other hosts, as far as the operator allows.
//!
//! - `request` reads what a component asks for.
//! - `access` is what a component may reach, and the way there.
//! - `client` connects to the addresses that are allowed.
//! - `courier` is for what the server itself sends: webhooks.
//! - `secrets` are the headers that the operator puts in.
//! - `answer` is what comes back, also from the journal.

mod access;
mod answer;
mod client;
mod courier;
mod request;
mod secrets;

use std::{sync::Arc, time::Duration};

use outlast_metrics::RequestMetrics;
use outlast_runtime::limits::{Count, DAY, MOMENT, MOST_BYTES, MOST_PLACES, Size, Time};

pub use self::courier::{Courier, NoReply, Reply, WrongUrl};
pub(crate) use self::{
    access::Access,
    answer::Answer,
    request::{CheckedRequest, invalid},
};
use crate::grants::{GrantError, HttpGrant, Section};

outlast_runtime::limits! {
    /// Limits of the requests of a run.
    pub struct HttpLimits {
        /// The body of a request, in bytes.
        http_request_bytes => request_bytes: Size = 1 << 20, 0 => MOST_BYTES;
        /// The body of an answer, in bytes.
        http_response_bytes => response_bytes: Size = 4 << 20, 0 => MOST_BYTES;
        /// The URL and the headers of a request, and the headers of an answer, in bytes.
        http_header_bytes => header_bytes: Size = 64 << 10, 1 => MOST_BYTES;
        /// The headers of either.
        http_headers => headers: Count = 100, 1 => MOST_HEADERS;
        /// The requests that are open at the same time in a run.
        http_requests => requests: Count = 16, 1 => MOST_PLACES;
        /// The concurrent requests in all runs of an agent.
        http_connections => connections: Count = 256, 1 => MOST_PLACES;
        /// The longest that a request may take.
        http_timeout => timeout: Time = Duration::from_secs(300), MOMENT => DAY;
    }
}

/// The most headers of one request: what a table of them takes.
const MOST_HEADERS: usize = 32_768;

/// What the access of all components has in common.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    pub(crate) limits: HttpLimits,
    pub(crate) metrics: RequestMetrics,
}

impl Outbound {
    /// What this grant lets reach. Secrets are read from the environment. `shown` is whose it is in the metrics.
    pub(crate) fn granted(&self, section: Section, shown: &str, grant: &HttpGrant) -> Result<Arc<Access>, GrantError> {
        let lookup = |name: &str| std::env::var(name).ok();
        Ok(Arc::new(Access::new(section, grant, self.limits, self.metrics.agent(shown), lookup)?))
    }

    /// Nothing.
    pub(crate) fn nothing(&self, section: Section, shown: &str) -> Arc<Access> {
        Arc::new(Access::nothing(section, self.limits, self.metrics.agent(shown)))
    }
}
