//! Requests that agents send: how many, and how they end.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Held;

/// Requests that agents send, by agent.
#[derive(Clone, Debug, Default)]
pub struct RequestMetrics {
    live: Family<Agent, Gauge>,
    ended: Family<Outcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Agent {
    agent: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    agent: String,
    outcome: &'static str,
}

impl RequestMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("agent_requests_live", "Active HTTP requests of agents", self.live.clone());
        registry.register(
            "agent_requests_ended",
            "HTTP requests of agents that ended: answered (with any status), denied, failed, interrupted by a stop, \
             cancelled",
            self.ended.clone(),
        );
    }

    /// The metrics of an agent.
    pub fn agent(&self, name: &str) -> Arc<AgentRequests> {
        let outcome = |outcome| self.ended.get_or_create_owned(&Outcome { agent: name.to_owned(), outcome });
        Arc::new(AgentRequests {
            live: self.live.get_or_create_owned(&Agent { agent: name.to_owned() }),
            answered: outcome("answered"),
            denied: outcome("denied"),
            failed: outcome("failed"),
            interrupted: outcome("interrupted"),
            cancelled: outcome("cancelled"),
        })
    }
}

/// The requests of one agent.
#[derive(Debug)]
pub struct AgentRequests {
    live: Gauge,
    /// Those that had an answer, with any status.
    pub answered: Counter,
    /// Those that the operator does not allow.
    pub denied: Counter,
    /// Those that had no answer.
    pub failed: Counter,
    /// Those that a stop of the server cut off, and that are not sent again.
    pub interrupted: Counter,
    cancelled: Counter,
}

/// A request that goes on. One that is dropped before its end is cancelled.
#[derive(Debug)]
pub struct LiveRequest {
    agent: Arc<AgentRequests>,
    /// None when the request has ended.
    live: Option<Held>,
}

impl LiveRequest {
    /// A request that begins.
    pub fn new(agent: Arc<AgentRequests>) -> Self {
        let live = Some(Held::new(&agent.live));
        Self { agent, live }
    }

    /// The request has ended so.
    pub fn end(mut self, outcome: impl FnOnce(&AgentRequests) -> &Counter) {
        self.live = None;
        outcome(&self.agent).inc();
    }
}

impl Drop for LiveRequest {
    fn drop(&mut self) {
        if self.live.take().is_some() {
            self.agent.cancelled.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_once() {
        let agent = RequestMetrics::default().agent("a");
        let request = LiveRequest::new(agent.clone());
        assert_eq!(agent.live.get(), 1);
        request.end(|agent| &agent.answered);
        assert_eq!((agent.live.get(), agent.answered.get(), agent.cancelled.get()), (0, 1, 0));
        drop(LiveRequest::new(agent.clone()));
        assert_eq!((agent.live.get(), agent.cancelled.get()), (0, 1));
    }
}
