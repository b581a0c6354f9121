//! Calls of tools: how many, how they end, how long they take.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{Durations, Held, durations};

/// Calls of tools, by the component or server that the tool belongs to: its own name may be anybody's.
#[derive(Clone, Debug)]
pub struct ToolMetrics {
    live: Family<Tool, Gauge>,
    ended: Family<Outcome, Counter>,
    duration: Durations<Tool>,
    cpu: Family<Tool, Counter<f64, AtomicU64>>,
    denied: Family<Agent, Counter>,
    servers: Family<Server, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Server {
    server: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Agent {
    agent: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tool {
    tool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    tool: String,
    outcome: &'static str,
}

impl Default for ToolMetrics {
    fn default() -> Self {
        Self {
            live: Family::default(),
            ended: Family::default(),
            duration: Family::new_with_constructor(durations),
            cpu: Family::default(),
            denied: Family::default(),
            servers: Family::default(),
        }
    }
}

impl ToolMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("tool_calls_live", "Active calls of tools, by component or MCP server", self.live.clone());
        registry.register(
            "tool_calls_ended",
            "Calls of tools that ended: answered, failed (the tool says so), timeout, crashed, unavailable (an MCP server \
             that is not reached), interrupted by a stop, cancelled",
            self.ended.clone(),
        );
        registry.register(
            "tool_call_duration_seconds",
            "From the beginning of a call to its end",
            self.duration.clone(),
        );
        registry.register("tool_cpu_seconds", "CPU time used by tool components", self.cpu.clone());
        registry.register(
            "agent_tool_calls_denied",
            "Calls of tools that the operator does not allow, by agent",
            self.denied.clone(),
        );
        registry.register("mcp_server_up", "Whether an MCP server is connected: 1 or 0", self.servers.clone());
    }

    /// The metrics of a component or a server.
    pub fn tool(&self, name: &str) -> Arc<ToolCalls> {
        let tool = Tool { tool: name.to_owned() };
        let outcome = |outcome| self.ended.get_or_create_owned(&Outcome { tool: name.to_owned(), outcome });
        Arc::new(ToolCalls {
            live: self.live.get_or_create_owned(&tool),
            answered: outcome("answered"),
            failed: outcome("failed"),
            timeout: outcome("timeout"),
            crashed: outcome("crashed"),
            unavailable: outcome("unavailable"),
            interrupted: outcome("interrupted"),
            cancelled: outcome("cancelled"),
            duration: self.duration.get_or_create_owned(&tool),
            cpu: self.cpu.get_or_create_owned(&tool),
        })
    }

    /// Whether a server is connected: not yet.
    pub fn server(&self, name: &str) -> ServerUp {
        ServerUp(self.servers.get_or_create_owned(&Server { server: name.to_owned() }))
    }

    /// Counts the calls of an agent that the operator does not allow.
    pub fn denied(&self, agent: &str) -> Counter {
        self.denied.get_or_create_owned(&Agent { agent: agent.to_owned() })
    }
}

/// Whether a server is connected.
#[derive(Debug)]
pub struct ServerUp(Gauge);

impl ServerUp {
    /// It is, or it is not.
    pub fn set(&self, up: bool) {
        self.0.set(up.into());
    }
}

/// The calls of the tools of one component or server.
#[derive(Debug)]
pub struct ToolCalls {
    live: Gauge,
    /// Those that had an answer.
    pub answered: Counter,
    /// Those of which the tool says that they failed.
    pub failed: Counter,
    /// Those that took too long.
    pub timeout: Counter,
    /// Those whose component trapped or went beyond a limit.
    pub crashed: Counter,
    /// Those whose server was not reached, or broke off.
    pub unavailable: Counter,
    /// Those that a stop of the server cut off, and that are not made again.
    pub interrupted: Counter,
    cancelled: Counter,
    duration: Histogram,
    cpu: Counter<f64, AtomicU64>,
}

impl ToolCalls {
    /// Adds time of a processor.
    pub fn spend(&self, cpu: Duration) {
        self.cpu.inc_by(cpu.as_secs_f64());
    }
}

/// A call that goes on. One that is dropped before its end is cancelled.
#[derive(Debug)]
pub struct LiveToolCall {
    tool: Arc<ToolCalls>,
    began: Instant,
    /// None when the call has ended.
    live: Option<Held>,
}

impl LiveToolCall {
    /// A call that begins.
    pub fn new(tool: Arc<ToolCalls>) -> Self {
        let live = Some(Held::new(&tool.live));
        Self { tool, began: Instant::now(), live }
    }

    /// The call has ended so.
    pub fn end(mut self, outcome: impl FnOnce(&ToolCalls) -> &Counter) {
        self.live = None;
        outcome(&self.tool).inc();
    }
}

impl Drop for LiveToolCall {
    fn drop(&mut self) {
        if self.live.take().is_some() {
            self.tool.cancelled.inc();
        }
        self.tool.duration.observe(self.began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_once() {
        let tool = ToolMetrics::default().tool("units");
        let call = LiveToolCall::new(tool.clone());
        assert_eq!(tool.live.get(), 1);
        call.end(|tool| &tool.answered);
        assert_eq!((tool.live.get(), tool.answered.get(), tool.cancelled.get()), (0, 1, 0));
        drop(LiveToolCall::new(tool.clone()));
        assert_eq!((tool.live.get(), tool.cancelled.get()), (0, 1));
    }
}
