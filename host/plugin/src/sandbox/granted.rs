//! What one instance is granted.

use std::sync::Arc;

use serde_json::Value;

use super::{
    limits::{MemoryLimit, PluginLimits, TimeLimit},
    tool_port::ToolPort,
};
use crate::{
    grants::{ModelGrant, Section, ToolConfig},
    outbound::Access,
};

/// What a component may hand over in one call of the host, in bytes, unless a limit of what it is granted is larger.
const HOST_CALL: usize = 4 << 20;
/// What a call has beside its largest text: names, headers and the like, in bytes.
const HOST_CALL_REST: usize = 256 << 10;

/// What one agent or tool component is granted, and what it is told.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// Where it stands.
    pub(crate) section: Section,
    /// What it reads through `context.config`, a JSON object.
    pub(crate) config: String,
    /// The models that it may call.
    pub(crate) models: ModelGrant,
    /// What it may reach.
    pub(crate) http: Arc<Access>,
    /// The tools that it may call; none for a tool component, which calls no others.
    pub(crate) tools: Option<Arc<dyn ToolPort>>,
    /// What it may keep.
    pub(crate) state: StateGrant,
    /// The memory of a run.
    pub(crate) memory: MemoryLimit,
    /// The processor time of an execution.
    pub(crate) cpu_time: TimeLimit,
    /// The time of an execution.
    pub(crate) run_timeout: TimeLimit,
    /// What it wants and does not get: the lines of its section that would grant it.
    pub(crate) missing: Vec<String>,
}

impl Granted {
    /// What a tool component is granted of which the operator says this.
    pub(crate) fn of_tool(name: &str, said: ToolConfig, http: Arc<Access>, limits: &PluginLimits) -> Self {
        let section = Section::tool(name);
        Self {
            config: Value::Object(said.config).to_string(),
            models: ModelGrant::All(false),
            http,
            tools: None,
            state: StateGrant::default(),
            memory: MemoryLimit::of(said.memory, &section, limits),
            cpu_time: TimeLimit { most: limits.cpu_time, key: "limits.cpu_time".to_owned() },
            run_timeout: TimeLimit { most: limits.run_timeout, key: "limits.run_timeout".to_owned() },
            missing: Vec::new(),
            section,
        }
    }
}

/// How much an agent may keep.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StateGrant {
    /// In all, for a principal; none when it is granted nothing.
    pub bytes: Option<usize>,
    /// Of a key.
    pub key_bytes: usize,
    /// Of a value.
    pub value_bytes: usize,
}

/// How much a component with these grants may hand over in one call of the host, in bytes: it is copied before
/// anything else can be looked at. What it is not granted it need not hand over.
pub(crate) fn host_call(limits: &PluginLimits, granted: Option<&Granted>) -> usize {
    let mut most = HOST_CALL.max(limits.event_bytes).max(limits.tools.result_bytes);
    if let Some(granted) = granted {
        if granted.http.reaches_anything() {
            most = most.max(limits.http.request_bytes.saturating_add(limits.http.header_bytes));
        }
        if granted.state.bytes.is_some() {
            // The value that is expected, and the new one.
            most = most.max(limits.state_value_bytes.saturating_mul(2));
        }
        if granted.tools.is_some() {
            most = most.max(limits.tools.argument_bytes);
        }
        if !granted.models.is_nothing() {
            most = most.max(limits.models.input_bytes);
        }
    }
    most.saturating_add(HOST_CALL_REST)
}
