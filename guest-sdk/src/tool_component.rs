use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::agent::{characters, is_name};
use crate::bindings::tool as bindings;
use crate::host::config as host;
use crate::tools::Tool;
use crate::wants::Wants;
use crate::{Failure, FailureKind};

/// A component whose functions agents may call. [`tool_component!`](crate::tool_component!) makes a component of it.
///
/// ```
/// use outlast_guest::tools::Tool;
/// use outlast_guest::{Failure, ToolComponent, schemars, serde};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(crate = "outlast_guest::serde")]
/// #[schemars(crate = "outlast_guest::schemars")]
/// struct Roll {
///     /// How many sides the die has.
///     sides: u32,
/// }
///
/// struct Dice;
///
/// impl ToolComponent for Dice {
///     const NAME: &str = "dice";
///     const ABOUT: &str = "Throws dice.";
///
///     fn tools() -> Vec<Tool<'static>> {
///         vec![Tool::new("largest", "The largest number of a die.", |roll: Roll| Ok(roll.sides)).idempotent()]
///     }
/// }
///
/// outlast_guest::tool_component!(Dice);
///
/// # assert_eq!(Dice::tools()[0].call("{\"sides\": 6}").unwrap(), "6");
/// ```
///
/// It is built like an agent and lies in the same folder. An agent calls this tool as `dice__largest`, once the operator
/// grants it, with `tools = ["dice__*"]` in the agent's section.
///
/// Every call has an instance of its own, which knows nothing of the run: neither the conversation nor who asks. It may
/// use [`http`](crate::http), [`tasks`](crate::tasks), [`log`](crate::log) and [`config`](crate::tools::config); what else
/// there is in this crate is for agents, and a component that uses it does not load.
pub trait ToolComponent {
    /// The name, which stands before the names of its tools: 1 to 32 characters of `a-z`, `0-9`, `-` and `_`, starting
    /// with a letter or digit, without two underscores in a row.
    const NAME: &'static str;

    /// One or two sentences on what the tools are for: at most 1,024 characters.
    const ABOUT: &'static str;

    /// The JSON Schema of the configuration that the component reads with [`tools::config`](crate::tools::config),
    /// usually [`schema`](crate::schema()) of the type that it reads; none when it takes no configuration.
    fn config_schema() -> Option<Value> {
        None
    }

    /// What the component wants the operator to grant: hosts, and headers for them. Nothing by default.
    fn wants() -> Wants {
        Wants::new()
    }

    /// The tools: 1 to 100. This is called once at load, when nothing else can be called, and for every call.
    fn tools() -> Vec<Tool<'static>>;
}

/// The configuration that the operator gave this tool component; an empty object when there is none. Give every field
/// of `T` a default (`#[serde(default)]`), and describe `T` in [`config_schema`](ToolComponent::config_schema).
///
/// # Errors
///
/// `invalid_config` when it does not fit `T`.
pub fn config<T: DeserializeOwned>() -> Result<T, Failure> {
    serde_json::from_str(&host::get())
        .map_err(|error| Failure::invalid("invalid_config", format!("the tool's configuration does not fit: {error}")))
}

/// The export `describe`.
pub fn describe<C: ToolComponent>(version: &str) -> bindings::ToolDescription {
    let tool = |tool: Tool<'_>| crate::bindings::outlast::agent::types::ToolFunction {
        name: tool.name().to_owned(),
        description: tool.about().to_owned(),
        parameters: tool.parameters().to_string(),
        idempotent: tool.is_idempotent(),
    };
    bindings::ToolDescription {
        name: C::NAME.into(),
        version: version.into(),
        about: C::ABOUT.into(),
        config_schema: C::config_schema().map(|schema| schema.to_string()),
        wants: C::wants().to_json(),
        tools: C::tools().into_iter().map(tool).collect(),
    }
}

/// The export `call`.
pub fn call<C: ToolComponent>(name: &str, arguments: &str) -> Result<String, bindings::Failure> {
    let mut tools = C::tools();
    match tools.iter_mut().find(|tool| tool.name() == name) {
        Some(tool) => Ok(tool.call(arguments)?),
        None => Err(Failure::new(FailureKind::NotFound, "unknown_tool", format!("there is no tool `{name}`")).into()),
    }
}

/// Refuses at compile time what the server would refuse at load.
pub const fn check<C: ToolComponent>(version: &str) {
    let name = C::NAME;
    assert!(
        is_name(name) && name.len() <= 32 && is_plain(name),
        "NAME is 1 to 32 of a-z 0-9 - _, starts with a letter or digit, and has no two _ in a row"
    );
    assert!(characters(C::ABOUT) <= 1024, "ABOUT is at most 1,024 characters");
    assert!(characters(version) <= 64, "the crate's version is at most 64 characters");
}

/// Whether a name can stand before two underscores.
const fn is_plain(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'.' || bytes[at] == b'_' && at > 0 && bytes[at - 1] == b'_' {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;
    use crate::tools::{NoArguments, config};
    use serde_json::json;

    struct Clock;

    impl ToolComponent for Clock {
        const NAME: &'static str = "clock";
        const ABOUT: &'static str = "Knows the hour.";

        fn tools() -> Vec<Tool<'static>> {
            let zone = |NoArguments {}| Ok(config::<Value>()?["zone"].clone());
            vec![Tool::new("hour", "The hour.", |NoArguments {}| Ok(12)).idempotent(), Tool::new("zone", "", zone)]
        }
    }

    #[test]
    fn a_component_says_what_it_has() {
        let description = describe::<Clock>("1.2.3");
        assert_eq!((description.name.as_str(), description.version.as_str()), ("clock", "1.2.3"));
        let tools: Vec<_> = description.tools.iter().map(|tool| (tool.name.as_str(), tool.idempotent)).collect();
        assert_eq!(tools, [("hour", true), ("zone", false)]);
        let parameters: Value = serde_json::from_str(&description.tools[0].parameters).unwrap();
        assert_eq!(parameters, json!({"type": "object", "properties": {}}));
    }

    #[test]
    fn a_call_finds_its_tool_and_its_configuration() {
        let run = Mock::new().config(json!({"zone": "UTC"})).call(|| {
            (call::<Clock>("hour", "{}").unwrap(), call::<Clock>("zone", "").unwrap(), call::<Clock>("day", "{}"))
        });
        assert_eq!((run.result.0.as_str(), run.result.1.as_str()), ("12", "UTC"));
        assert_eq!(run.result.2.unwrap_err().code, "unknown_tool");
    }

    #[test]
    fn names_are_checked_as_the_contract_says() {
        for name in ["units", "a_b", "a-1", "_a"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["a__b", "a.b"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
