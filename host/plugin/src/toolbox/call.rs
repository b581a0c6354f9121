//! A tool that was found, and the call of it.

use std::sync::Arc;

use futures::future::BoxFuture;
use outlast_metrics::{LiveToolCall, ToolCalls};
use tokio::sync::Semaphore;
use tracing::Level;

use super::{
    component::{CRASHED, ToolComponent},
    mcp::{McpServer, UNAVAILABLE},
    script::ToolScript,
};
use crate::{
    bindings::types::{Failure, FailureKind},
    failure::failure,
    sandbox::{Caller, FoundTool, ToolLimits},
};

/// A tool that can be called.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Its name, as agents call it.
    pub(super) name: String,
    /// Whether a call may be made again when nobody knows whether it took effect.
    pub(super) idempotent: bool,
    pub(super) target: Target,
    /// Counts its calls.
    pub(super) metrics: Arc<ToolCalls>,
    pub(super) limits: ToolLimits,
    /// For the calls of all components.
    pub(super) instances: Arc<Semaphore>,
}

/// Where a tool is.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// In this component, by this name.
    Component(Arc<ToolComponent>, String),
    /// Of this server.
    Server(Arc<McpServer>),
    /// In a script.
    Script(Arc<ToolScript>),
    /// What a script has answered.
    Scripted(Result<String, Failure>),
}

impl FoundTool for Found {
    fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    fn count_interrupted(&self) {
        self.metrics.interrupted.inc();
    }

    fn begin(mut self: Box<Self>, arguments: String, caller: Caller) -> BoxFuture<'static, Result<String, Failure>> {
        // A script answers calls in the order in which they begin, not in which they are made.
        if let Target::Script(script) = &self.target {
            self.target = Target::Scripted(script.call(&self.name, &arguments));
        }
        Box::pin(async move { self.call(&arguments, caller).await })
    }
}

impl Found {
    /// Calls it.
    async fn call(self, arguments: &str, caller: Caller) -> Result<String, Failure> {
        let Self { name, target, metrics, limits, instances, .. } = self;
        let live = LiveToolCall::new(metrics);
        let log = caller.log.clone();
        let most = limits.result_bytes;
        let scripted = |failure: Failure| {
            let why = format!("failed: {}", failure.message);
            (failure, why)
        };
        let called = match target {
            Target::Component(component, function) => {
                let most = u32::try_from(limits.instances).unwrap_or(u32::MAX);
                let _places = instances.acquire_many(component.places.min(most)).await;
                component.call(&function, arguments, caller).await
            }
            Target::Server(server) => server.call(&name, arguments, &caller).await.map_err(|failure| {
                let why = format!("failed: {} ({})", failure.message, failure.code);
                (failure, why)
            }),
            Target::Script(script) => script.call(&name, arguments).map_err(scripted),
            Target::Scripted(answer) => answer.map_err(scripted),
        };
        let called = match called {
            Ok(answer) if answer.len() > most => {
                let bytes = answer.len();
                let why = format!("answered with {bytes} bytes, limit {most} (limits.tool_result_bytes)");
                let message = format!("The tool `{name}` {why}.");
                Err((failure(FailureKind::Limit, "result_too_large", message), why))
            }
            called => called,
        };
        live.end(|tool| match &called {
            Ok(_) => &tool.answered,
            Err((Failure { kind: FailureKind::Timeout, code, .. }, _)) if code == "timeout" => &tool.timeout,
            Err((Failure { code, .. }, _)) if code == CRASHED => &tool.crashed,
            Err((Failure { code, .. }, _)) if code == UNAVAILABLE => &tool.unavailable,
            Err(_) => &tool.failed,
        });
        called.map_err(|(failure, why)| {
            log.note(Level::WARN, "tools", &format!("the tool `{name}` {why}"));
            failure
        })
    }
}
