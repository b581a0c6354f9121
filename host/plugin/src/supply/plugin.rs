//! A component that was loaded: an agent, or functions that are tools.

use std::sync::Arc;

use crate::{agent::Agent, toolbox::ToolComponent};

/// A component that was loaded.
#[derive(Clone, Debug)]
pub enum Plugin {
    /// An agent.
    Agent(Arc<Agent>),
    /// A component whose functions are tools.
    Tool(Arc<ToolComponent>),
}

impl Plugin {
    /// What it is, in a word.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::Tool(_) => "tool component",
        }
    }

    /// Its name. An agent and a tool component may have the same.
    pub fn name(&self) -> &str {
        match self {
            Self::Agent(agent) => &agent.description.name,
            Self::Tool(tool) => &tool.description.name,
        }
    }

    /// Its version.
    pub fn version(&self) -> &str {
        match self {
            Self::Agent(agent) => &agent.description.version,
            Self::Tool(tool) => &tool.description.version,
        }
    }

    /// The sha256 of the component, hexadecimal.
    pub fn sha256(&self) -> &str {
        match self {
            Self::Agent(agent) => &agent.sha256,
            Self::Tool(tool) => &tool.sha256,
        }
    }
}
