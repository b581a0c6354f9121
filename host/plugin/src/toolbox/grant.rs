//! Which of the tools an agent may call.

use std::sync::Arc;

use futures::future::{BoxFuture, join_all};
use prometheus_client::metrics::counter::Counter;

use super::{Toolbox, component::BETWEEN};
use crate::{
    bindings::{
        tools::Tool,
        types::{Failure, FailureKind},
    },
    failure::{failure, shorten},
    grants::{Section, ToolPattern},
    sandbox::{FoundTool, ToolLimits, ToolPort},
};

/// The tools that one agent may call.
#[derive(Debug)]
pub struct ToolGrant {
    agent: String,
    patterns: Vec<ToolPattern>,
    toolbox: Arc<Toolbox>,
    denied: Counter,
}

impl ToolGrant {
    pub(crate) fn new(agent: &str, patterns: Vec<ToolPattern>, toolbox: Arc<Toolbox>) -> Self {
        let denied = toolbox.metrics.denied(agent);
        Self { agent: agent.to_owned(), patterns, toolbox, denied }
    }

    /// The same and all of these.
    pub(crate) fn and(&self, patterns: impl IntoIterator<Item = ToolPattern>) -> Self {
        let patterns = self.patterns.iter().cloned().chain(patterns).collect();
        Self::new(&self.agent, patterns, self.toolbox.clone())
    }

    fn allows(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(name))
    }
}

impl ToolPort for ToolGrant {
    fn available(&self) -> BoxFuture<'_, Vec<Tool>> {
        Box::pin(async move {
            let wanted = self.toolbox.servers.iter().filter(|(name, _)| {
                let beginning = format!("{name}{BETWEEN}");
                self.patterns.iter().any(|pattern| pattern.may_match(&beginning))
            });
            join_all(wanted.map(|(_, server)| server.settled())).await;
            let mut all = self.toolbox.all();
            all.retain(|tool| self.allows(&tool.name));
            all
        })
    }

    fn known<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let of = name.split_once(BETWEEN).map_or(name, |(of, _)| of);
            if let Some(server) =
                self.toolbox.servers.get(of).filter(|server| self.allows(name) && server.offer().is_empty())
            {
                server.settled().await;
            }
        })
    }

    fn find(&self, name: &str) -> Result<Box<dyn FoundTool>, Failure> {
        let shown = shorten(name, 80);
        if !self.allows(name) {
            let (agent, key) = (&self.agent, Section::agent(&self.agent).key());
            let message = format!(
                "The operator does not allow the agent `{agent}` to call the tool `{shown}`: `tools = [\"{shown}\"]` in the \
                 section `[{key}]` of the server's configuration would."
            );
            return Err(failure(FailureKind::Denied, "tool_not_granted", message));
        }
        match self.toolbox.find(name) {
            Some(found) => Ok(Box::new(found)),
            None => {
                let message = format!("This server has no tool `{shown}`.");
                Err(failure(FailureKind::NotFound, "unknown_tool", message))
            }
        }
    }

    fn limits(&self) -> ToolLimits {
        self.toolbox.limits.tools
    }

    fn count_denied(&self) {
        self.denied.inc();
    }
}
