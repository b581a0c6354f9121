//! A tool component, and the instance of it that answers one call.

use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use outlast_metrics::ToolCalls;
use outlast_protocol::{Emission, EmitError, Emitted, FoldError, Item, ItemIndex};
use outlast_runtime::text::is_hidden_in_prose;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::{
    bindings::{
        tool::ToolPre,
        types::{self, Failure, FailureKind},
    },
    engine::{Engine, Fitting, check_words, config_schema, contract, misfit, read_description, wants},
    failure::{RunFailure, failure, shorten},
    grants::{Wants, is_name_byte},
    meter::{self, Meter},
    refused::{Refused, wrong},
    sandbox::{Caller, Granted, LogLine, LogPort, PluginLimits, RunContext, RunLog, RunPort, RunState},
};

/// The longest name of a component, and of a tool with the component's before it.
pub(super) const NAMES: (usize, usize) = (32, 64);
/// What stands between the two names.
pub(super) const BETWEEN: &str = "__";
/// The most tools of a component, and the longest description and parameters of one, in bytes.
const TOOLS: usize = 100;
pub(super) const DESCRIPTION: usize = 8_192;
pub(super) const PARAMETERS: usize = 64 << 10;

/// A loaded component whose functions are tools.
#[derive(Clone)]
pub struct ToolComponent {
    engine: Engine,
    pre: ToolPre<RunState>,
    limits: PluginLimits,
    granted: Arc<Granted>,
    pub(super) timeout: Duration,
    pub(super) metrics: Arc<ToolCalls>,
    /// How many places an instance of it takes.
    pub(super) places: u32,
    /// What it says about itself.
    pub description: ToolDescription,
    /// The sha256 of the component, hexadecimal.
    pub sha256: String,
    /// The names of its imports.
    pub imports: Vec<String>,
}

/// What a tool component says about itself, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolDescription {
    /// The component's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What its tools are for.
    pub about: String,
    /// The JSON Schema of its configuration.
    pub config_schema: Option<Value>,
    /// What it wants to be granted.
    pub wants: Wants,
    /// Its tools.
    pub tools: Vec<ToolFunction>,
}

/// A function of a tool component, or of an MCP server.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolFunction {
    /// Its name, as whoever has it calls it.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The JSON Schema of its arguments, a JSON object.
    pub parameters: String,
    /// Whether a call may be made again when nobody knows whether it took effect.
    pub idempotent: bool,
}

/// What the operator gives a tool component.
pub(super) struct ToolSettings {
    pub granted: Granted,
    pub timeout: Duration,
    pub metrics: Arc<ToolCalls>,
}

impl ToolComponent {
    /// A tool component that fits, with what the operator gives one of this name.
    pub(super) async fn of(
        engine: &Engine,
        fitting: Fitting,
        limits: &PluginLimits,
        given: impl FnOnce(&str) -> ToolSettings + Send,
    ) -> Result<Self, Refused> {
        let Fitting { component, sha256, imports, places, .. } = fitting;
        let pre = engine.tool_linker.instantiate_pre(&component).and_then(ToolPre::new).map_err(misfit)?;
        let asked = engine.described(limits, |store| {
            let pre = pre.clone();
            Box::pin(async move { pre.instantiate_async(&mut *store).await?.call_describe(store).await })
        });
        let given_back = asked.await?;
        let description = read_description(move || checked(given_back)).await?;
        let ToolSettings { granted, timeout, metrics } = given(&description.name);
        let (engine, limits, granted) = (engine.clone(), *limits, Arc::new(granted));
        Ok(Self { engine, pre, limits, granted, timeout, metrics, places, description, sha256, imports })
    }

    /// The contract that it was built for: `outlast:agent@0.1.0`.
    pub fn contract(&self) -> String {
        contract(&self.imports)
    }

    /// The names of its tools as agents call them: `units__convert`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.description.tools.iter().map(|tool| format!("{}{BETWEEN}{}", self.description.name, tool.name))
    }

    /// Calls a tool in an instance of its own, which is gone when this returns or is dropped; the latter is how a call is
    /// cancelled. The second is what the operator is to read: why there is no answer.
    pub(super) async fn call(
        &self,
        function: &str,
        arguments: &str,
        caller: Caller,
    ) -> Result<String, (Failure, String)> {
        let shown = format!("{}{BETWEEN}{function}", self.description.name);
        let log = Arc::new(CallerLog { log: caller.log, tool: self.description.name.clone() });
        let mut context = RunContext::new(caller.key.clone(), caller.secret, Arc::new(NoRun), CancellationToken::new());
        context.began = caller.clock.nanoseconds();
        context.clock = caller.clock;
        context.log = Some(log);
        context.meter = caller.meter.clone();
        context.lease = caller.lease;
        context.granted = Some(self.granted.clone());
        context.scripted_time = caller.scripted_time;
        let state = RunState::new(&self.description.name, &caller.key, &self.limits, Some(context));
        let mut store = self.engine.store(state);
        let stderr = store.data().stderr.clone();
        let called = async {
            let tool = self.pre.instantiate_async(&mut store).await?;
            tool.call_call(&mut store, function, arguments).await
        };
        match tokio::time::timeout(self.timeout, self.metered(&caller.meter, called)).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(own))) => {
                let own = own_failure(own);
                let operator = format!("failed: {} ({})", own.message, own.code);
                Err((own, operator))
            }
            Ok(Err(error)) => {
                let RunFailure { client, operator, .. } =
                    RunFailure::from_trap(&format!("The tool `{shown}`"), &error, &stderr.tail());
                Err((failure(FailureKind::Unavailable, CRASHED, client), format!("crashed: {operator}")))
            }
            Err(_) => {
                let (seconds, name) = (self.timeout.as_secs_f64(), &self.description.name);
                let why = format!("took longer than {seconds} seconds (`timeout` in `[tools.{name}]`)");
                Err((failure(FailureKind::Timeout, "timeout", format!("The tool `{shown}` {why}.")), why))
            }
        }
    }

    /// Counts the time of a processor that `future` takes.
    async fn metered<T>(&self, meter: &Meter, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|context| {
            let start = meter::thread_time();
            let polled = future.as_mut().poll(context);
            let spent = meter::thread_time().saturating_sub(start);
            meter.spend(spent);
            self.metrics.spend(spent);
            polled
        })
        .await
    }
}

/// The code of the failure of a call whose component trapped or went beyond a limit.
pub(super) const CRASHED: &str = "tool_crashed";

/// What an agent reads of a tool's own failure.
fn own_failure(own: Failure) -> Failure {
    let kind = match own.kind {
        FailureKind::Cancelled | FailureKind::Interrupted => FailureKind::Other,
        kind => kind,
    };
    let (code, message) = (shorten(&own.code, 64), shorten(&own.message, DESCRIPTION));
    Failure { kind, code, message, retry_after_ms: own.retry_after_ms }
}

/// Whether a component or a server may have this name, which stands before the names of its tools.
pub(super) fn name_is_plain(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let first = name.bytes().next().is_some_and(word);
    let all = name.bytes().all(|byte| word(byte) || b"-_".contains(&byte));
    first && all && name.len() <= NAMES.0 && !name.contains(BETWEEN)
}

fn checked(given: types::ToolDescription) -> Result<ToolDescription, Refused> {
    let name = given.name;
    if !name_is_plain(&name) {
        let shown = shorten(&name, 80);
        return Err(wrong(&format!(
            "the name `{shown}` must be 1 to {} of a-z, 0-9, `-`, `_`, start with a letter or digit, and have no two `_` \
             in a row",
            NAMES.0
        )));
    }
    check_words(&given.version, &given.about)?;
    let config_schema = config_schema(given.config_schema.as_deref())?;
    let wants = wants(given.wants.as_deref())?;
    if given.tools.is_empty() || given.tools.len() > TOOLS {
        return Err(wrong(&format!("it has {} tools; it must have 1 to {TOOLS}", given.tools.len())));
    }
    let mut tools: Vec<ToolFunction> = Vec::new();
    for tool in given.tools {
        let shown = shorten(&tool.name, 80);
        let length = name.len() + BETWEEN.len() + tool.name.len();
        if tool.name.is_empty() || !tool.name.bytes().all(is_name_byte) || length > NAMES.1 {
            return Err(wrong(&format!(
                "the tool `{shown}` must be named with A-Z, a-z, 0-9, `_`, `-`, and `{name}{BETWEEN}{shown}` have at most \
                 {} characters",
                NAMES.1
            )));
        }
        if tools.iter().any(|other| other.name == tool.name) {
            return Err(wrong(&format!("it has two tools `{shown}`")));
        }
        if tool.description.len() > DESCRIPTION || tool.parameters.len() > PARAMETERS {
            return Err(wrong(&format!(
                "the tool `{shown}` may have {DESCRIPTION} bytes of description and {PARAMETERS} of parameters"
            )));
        }
        if let Some(character) = tool.description.chars().find(|character| is_hidden_in_prose(*character)) {
            return Err(wrong(&format!(
                "the description of the tool `{shown}` has the character U+{:04X} in it, which a terminal or a reader would \
                 not see for what it is",
                u32::from(character)
            )));
        }
        if !matches!(serde_json::from_str(&tool.parameters), Ok(Value::Object(_))) {
            return Err(wrong(&format!("`parameters` of the tool `{shown}` is not a JSON object")));
        }
        let types::ToolFunction { name, description, parameters, idempotent } = tool;
        tools.push(ToolFunction { name, description, parameters, idempotent });
    }
    Ok(ToolDescription { name, version: given.version, about: given.about, config_schema, wants, tools })
}

impl std::fmt::Debug for ToolComponent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToolComponent").field("description", &self.description).field("sha256", &self.sha256).finish()
    }
}

/// What a tool writes goes to the log of the run that calls it.
struct CallerLog {
    log: Arc<RunLog>,
    tool: String,
}

impl LogPort for CallerLog {
    fn line(&self, line: LogLine<'_>) -> bool {
        let source = match line.source {
            "log" => self.tool.clone(),
            source => format!("{} {source}", self.tool),
        };
        self.log.note(line.level.parse().unwrap_or(Level::INFO), &source, line.text);
        // It is written there, and not once more.
        false
    }
}

/// A tool says nothing to a client, and what its imports answer is not kept: its call is the unit.
struct NoRun;

impl RunPort for NoRun {
    fn emit(&self, _: Emission<'_>) -> Result<Emitted, EmitError> {
        Err(EmitError::Ended)
    }

    fn room(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }

    fn journal(&self, _: &str) -> Result<(), EmitError> {
        Ok(())
    }

    fn committed(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn replaying(&self) -> bool {
        false
    }

    fn position(&self) -> (u64, ItemIndex) {
        (0, 0)
    }

    fn skip(&self, _: Option<u64>) -> Result<(), FoldError> {
        Ok(())
    }

    fn output(&self) -> Vec<Item> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(name: &str, tools: &[(&str, &str)]) -> Result<ToolDescription, String> {
        let tools = tools.iter().map(|(name, parameters)| types::ToolFunction {
            name: (*name).to_owned(),
            description: String::new(),
            parameters: (*parameters).to_owned(),
            idempotent: false,
        });
        let (version, about, config_schema, wants) = (String::new(), String::new(), None, None);
        let name = name.to_owned();
        let description = types::ToolDescription { name, version, about, config_schema, wants, tools: tools.collect() };
        checked(description).map_err(|Refused(why)| why)
    }

    #[test]
    fn names_fit_what_models_take() {
        assert!(described("units", &[("convert", "{}"), ("Convert-2_x", "{}")]).is_ok());
        let long = "x".repeat(57);
        assert!(described("units", &[(&long, "{}")]).is_ok());
        for (name, tool, why) in [
            ("Units", "a", "the name `Units`"),
            ("a__b", "a", "the name `a__b`"),
            ("-a", "a", "the name `-a`"),
            ("", "a", "the name ``"),
            (&"x".repeat(33), "a", "must be 1 to 32"),
            ("units", "a.b", "the tool `a.b`"),
            ("units", "", "the tool ``"),
            ("units", &"x".repeat(58), "at most 64 characters"),
        ] {
            let refused = described(name, &[(tool, "{}")]).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn tools_are_whole() {
        assert!(described("units", &[]).unwrap_err().contains("it has 0 tools"));
        assert!(described("units", &[("a", "{}"), ("a", "{}")]).unwrap_err().contains("two tools `a`"));
        assert!(described("units", &[("a", "[]")]).unwrap_err().contains("`parameters` of the tool `a`"));
    }
}
