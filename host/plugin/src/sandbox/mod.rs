//! One instance: its data, its limits, and the ports to what is around it.

mod clock;
mod context;
mod generations;
mod granted;
mod limiter;
mod limits;
mod memory;
mod output;
mod port;
mod replay;
mod run_log;
mod run_state;
mod scratch;
mod secret;
mod tasks;
mod tool_port;

pub use self::{
    context::RunContext,
    limits::{CallLimits, PluginLimits, TimeLimit, ToolLimits},
    port::{LogLine, LogPort, RunPort, STATE_ENTRY, StateChange, StateError, StatePort, StateSpot},
    replay::Entry,
    secret::RunSecret,
};
pub(crate) use self::{
    granted::{Granted, StateGrant},
    limits::{CORE_INSTANCES, HANDLES, LARGE_TABLE, MEMORIES, MemoryLimit, TABLE_ELEMENTS, TABLES, places},
    memory::Budget,
    replay::digest,
    run_log::RunLog,
    run_state::RunState,
    scratch::PAGE,
    tasks::TaskKind,
    tool_port::{Caller, FoundTool, ToolPort},
};
