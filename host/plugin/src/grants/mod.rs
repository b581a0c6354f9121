//! What the operator says of agents and tools: configuration, grants, limits of their own. Data only.
//!
//! Grants have two sides: a component says what it [wants](Wants), the operator says what it gets. Silence is nothing.
//! What is denied names the line of the configuration that would allow it, to the agent and in the log.

mod address;
mod agent;
mod config;
mod host_pattern;
mod http;
mod models;
mod pin;
mod section;
mod template;
mod tools;
mod unfold;
mod wants;

pub use self::{
    address::PrivateNetworks,
    agent::{AgentConfig, StateSize},
    host_pattern::HostPattern,
    http::{HostGrant, HttpGrant},
    models::{ModelGrant, ModelPattern},
    pin::Pin,
    section::{GrantError, Section},
    template::Template,
    tools::{ToolConfig, ToolPattern},
    wants::{WantedHost, Wants},
};
pub(crate) use self::{
    config::{SCHEMA_BYTES, check, validator},
    host_pattern::pattern_of,
    http::method,
    template::Filled,
    tools::is_name_byte,
};
