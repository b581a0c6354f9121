//! A section of the configuration: what a denial and an error name.

use crate::{
    bindings::types::{Failure, FailureKind},
    failure::failure,
};

/// A section of the configuration, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    kind: &'static str,
    name: String,
}

impl Section {
    /// The section of an agent.
    pub fn agent(name: &str) -> Self {
        Self { kind: "agents", name: name.to_owned() }
    }

    /// The section of a tool component.
    pub fn tool(name: &str) -> Self {
        Self { kind: "tools", name: name.to_owned() }
    }

    /// Whose it is, in a sentence.
    pub(crate) fn whose(&self) -> String {
        let what = if self.kind == "agents" { "agent" } else { "tool component" };
        format!("the {what} `{}`", self.name)
    }

    /// How it is written: `agents.NAME`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.kind, toml_edit::Key::new(&self.name))
    }

    /// The operator does not allow `what`; `line`, in this section or in the one `below` it, would.
    pub(crate) fn denied(&self, code: &str, what: &str, line: &str, below: &str) -> Failure {
        let (whose, key) = (self.whose(), self.key());
        let message = format!(
            "The operator does not allow {whose} to {what}: {line} in the section `[{key}{below}]` of the server's \
             configuration would."
        );
        failure(FailureKind::Denied, code, message)
    }
}

/// A grant that cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {key}.{what}")]
pub struct GrantError {
    /// The section.
    pub(crate) key: String,
    /// What is wrong in it.
    pub(crate) what: String,
}
