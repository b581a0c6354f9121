//! The way to other hosts, as far as the operator allows.
//!
//! - `request` reads what a component asks for.
//! - `access` is what a component may reach, and the way there.
//! - `secrets` are the headers that the operator puts in.
//! - `answer` is what comes back, also from the journal.

mod access;
mod answer;
mod request;
mod secrets;

use std::{sync::Arc, time::Duration};

use outlast_metrics::RequestMetrics;

pub(crate) use self::{
    access::Access,
    answer::Answer,
    request::{CheckedRequest, invalid},
};
use crate::grants::{GrantError, HttpGrant, Section};

/// Limits of the requests of a run, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// The body of a request, in bytes: `limits.http_request_bytes`.
    pub request_bytes: usize,
    /// The body of an answer, in bytes: `limits.http_response_bytes`.
    pub response_bytes: usize,
    /// The URL and the headers of a request, and the headers of an answer, in bytes: `limits.http_header_bytes`.
    pub header_bytes: usize,
    /// The headers of either: `limits.http_headers`.
    pub headers: usize,
    /// The requests that are open at the same time in a run: `limits.http_requests`.
    pub requests: usize,
    /// The requests that go on at once in all runs of an agent: `limits.http_connections`.
    pub connections: usize,
    /// The longest that a request may take: `limits.http_timeout`.
    pub timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            request_bytes: 1 << 20,
            response_bytes: 4 << 20,
            header_bytes: 64 << 10,
            headers: 100,
            requests: 16,
            connections: 256,
            timeout: Duration::from_secs(300),
        }
    }
}

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
