use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::item::{FunctionCall, FunctionCallOutput, Item};
use crate::model::{self, Completion, FinishReason};
use crate::tools::{self, Granted, Tool};
use crate::{Failure, FailureKind, Outcome, log};

/// A model with tools: asks the model, runs the tools that it calls, asks it again with what they returned, until it
/// has an answer.
///
/// ```
/// use outlast_guest::mock::{Answer, Mock};
/// use outlast_guest::tools::NoArguments;
/// use outlast_guest::{Agent, Failure, Outcome, ToolLoop, Turn, model};
///
/// struct Clerk;
///
/// impl Agent for Clerk {
///     const NAME: &str = "clerk";
///     const ABOUT: &str = "Knows the stock.";
///
///     fn run(turn: Turn) -> Result<Outcome, Failure> {
///         ToolLoop::new(model::Request::of(turn)?)
///             .tool("apples", "How many apples there are.", |NoArguments {}| Ok(7))
///             .run()
///     }
/// }
///
/// let run = Mock::new()
///     .input("Any apples?")
///     .answer(Answer::new().call("apples", NoArguments {}))
///     .answer("Seven.")
///     .run::<Clerk>();
/// assert_eq!(run.text(), "Seven.");
/// assert_eq!(run.model_calls.len(), 2);
/// ```
///
/// What the model says goes straight to the client, as with [`model::forward`]; the calls of tools do not.
///
/// The functions that the **client** offers (the request's `tools`) are offered to the model as well. When the model
/// calls one of them, the call is handed to the client and the turn ends: the client runs the function and sends its
/// output in the next turn. Tools that the model called in the same breath are not run then, as the next turn would
/// not know of it; the model will ask for them again.
///
/// A tool's failure goes to the model as text. Only one of kind `cancelled` ends the run.
#[derive(Debug)]
#[must_use = "nothing is asked before `run`"]
pub struct ToolLoop<'a> {
    request: model::Request,
    tools: Vec<Tool<'a>>,
    /// The tools of others.
    granted: Vec<Granted>,
    max_steps: usize,
}

impl<'a> ToolLoop<'a> {
    /// How often a model is asked at most, if nothing else is said.
    pub const MAX_STEPS: usize = 16;

    /// A loop that begins with this request, usually [`model::Request::of`] the turn.
    pub fn new(request: model::Request) -> Self {
        Self { request, tools: Vec::new(), granted: Vec::new(), max_steps: Self::MAX_STEPS }
    }

    /// Adds a tool: see [`Tool::new`].
    pub fn tool<A, R>(
        self,
        name: impl Into<String>,
        about: impl Into<String>,
        function: impl FnMut(A) -> Result<R, Failure> + 'a,
    ) -> Self
    where
        A: DeserializeOwned + JsonSchema,
        R: Serialize,
    {
        self.tools([Tool::new(name, about, function)])
    }

    /// Adds tools.
    pub fn tools(mut self, tools: impl IntoIterator<Item = Tool<'a>>) -> Self {
        self.tools.extend(tools);
        self
    }

    /// Offers all tools that the operator granted too: see [`tools::available`]. The calls of them that the model makes in
    /// one answer are made at the same time.
    ///
    /// # Errors
    ///
    /// As [`tools::available`].
    pub fn granted(self) -> Result<Self, Failure> {
        let granted = tools::available()?;
        Ok(self.granted_only(granted))
    }

    /// Offers these of the tools that the operator granted.
    pub fn granted_only(mut self, granted: impl IntoIterator<Item = Granted>) -> Self {
        self.granted.extend(granted);
        self
    }

    /// How often the model is asked at most; [`MAX_STEPS`](Self::MAX_STEPS) otherwise.
    pub fn max_steps(mut self, max_steps: usize) -> Self {
        self.max_steps = max_steps;
        self
    }

    /// Runs to the end of the turn.
    ///
    /// # Errors
    ///
    /// `step_limit` when the model still calls tools after `max_steps` answers, `invalid_tool_name` when two
    /// functions have one name or a name is not valid, and what [`model::forward`] returns.
    pub fn run(mut self) -> Result<Outcome, Failure> {
        self.offer()?;
        for _ in 0..self.max_steps {
            let completion = model::forward(self.request.clone())?;
            let calls = self.calls(&completion);
            if calls.is_empty() {
                return Ok(completion.outcome());
            }
            self.request.input.extend(completion.items);
            let outputs = self.answers(&calls)?;
            self.request.input.extend(outputs.into_iter().map(Item::FunctionCallOutput));
            // A call that was demanded has been made. Demanded again, it would never end.
            if self.request.options.get("tool_choice").is_some_and(|choice| choice != "auto" && choice != "none") {
                self.request.options.remove("tool_choice");
            }
        }
        let message = format!("the model called tools in each of {} steps and gave no answer", self.max_steps);
        Err(Failure::limit("step_limit", message))
    }

    /// Offers the tools to the model, beside the functions of the client.
    fn offer(&mut self) -> Result<(), Failure> {
        let client = self.request.client_functions.iter().map(String::as_str);
        let names: Vec<&str> = client.chain(self.names()).collect();
        for (n, name) in names.iter().enumerate() {
            if names[..n].contains(name) {
                let message = format!(
                    "there are two functions named `{name}`: the agent's tools and the client's \
                                       functions need names of their own"
                );
                return Err(Failure::invalid("invalid_tool_name", message));
            }
        }
        if let Some(name) = self.names().find(|name| !is_name(name)) {
            let message = format!("`{name}` is not a valid name of a tool: 1 to 64 of A-Z a-z 0-9 _ -");
            return Err(Failure::invalid("invalid_tool_name", message));
        }
        if self.names().next().is_none() {
            return Ok(());
        }
        let offered = self.request.options.entry("tools").or_insert_with(|| json!([]));
        if !offered.is_array() {
            *offered = json!([]);
        }
        if let Value::Array(offered) = offered {
            offered.extend(self.tools.iter().map(Tool::definition));
            offered.extend(self.granted.iter().map(Granted::definition));
        }
        Ok(())
    }

    /// The calls that are to be answered here; none when the turn is over.
    fn calls(&self, completion: &Completion) -> Vec<FunctionCall> {
        // The arguments of an answer that was cut may be cut.
        if matches!(completion.finish_reason, FinishReason::Length | FinishReason::ContentFilter) {
            return Vec::new();
        }
        // Without tools of its own, the agent has nothing to answer: a call of anything else went to the client.
        if self.names().next().is_none() {
            return Vec::new();
        }
        let calls: Vec<_> = completion.function_calls().cloned().collect();
        if calls.iter().any(|call| self.is_client(call)) || completion.items.iter().any(is_client_call) {
            return Vec::new();
        }
        calls
    }

    /// Whether a call is the client's to answer: of a function that it offers, or of a member of its namespaces.
    fn is_client(&self, call: &FunctionCall) -> bool {
        let offered = |name: &str| self.request.client_functions.iter().any(|offered| offered == name);
        offered(&call.name) || call.rest.get("namespace").and_then(Value::as_str).is_some_and(offered)
    }

    /// The names of all tools.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.tools.iter().map(Tool::name).chain(self.granted.iter().map(|tool| tool.name.as_str()))
    }

    /// Runs the tools that calls name: first all granted ones in parallel, then the agent's own, one after the other.
    fn answers(&mut self, calls: &[FunctionCall]) -> Result<Vec<FunctionCallOutput>, Failure> {
        let is_granted = |call: &FunctionCall| self.granted.iter().any(|tool| tool.name == call.name);
        let (granted, own): (Vec<_>, Vec<_>) = (0..calls.len()).partition(|place| is_granted(&calls[*place]));
        let started = granted.iter().map(|place| (calls[*place].name.as_str(), calls[*place].arguments.as_str()));
        let mut results: Vec<_> = granted.iter().copied().zip(tools::call_all(started)).collect();
        for place in own {
            results.push((place, self.own(&calls[place])));
        }
        results.sort_by_key(|(place, _)| *place);
        results.into_iter().map(|(place, result)| output(&calls[place], result)).collect()
    }

    /// Runs one of the agent's own tools.
    fn own(&mut self, call: &FunctionCall) -> Result<String, Failure> {
        if let Some(tool) = self.tools.iter_mut().find(|tool| tool.name() == call.name) {
            return tool.call(&call.arguments);
        }
        let names: Vec<_> = self.names().collect();
        let message = format!("there is no tool `{}`; there are: {}", call.name, names.join(", "));
        Err(Failure::not_found("unknown_tool", message))
    }
}

/// Whether an item is a call of a custom tool, or of one that is built in: only clients have them.
fn is_client_call(item: &Item) -> bool {
    let is_call = |kind: &str| kind.ends_with("_call");
    matches!(item, Item::Other(item) if item["type"].as_str().is_some_and(is_call))
}

/// What the model reads of a call.
fn output(call: &FunctionCall, result: Result<String, Failure>) -> Result<FunctionCallOutput, Failure> {
    let output = match result {
        Ok(output) => output,
        Err(failure) if failure.kind == FailureKind::Cancelled => return Err(failure),
        Err(failure) => {
            log::debug!("tool {}: {failure}", call.name);
            format!("Error: {}", failure.message)
        }
    };
    Ok(FunctionCallOutput { call_id: call.call_id.clone(), output: output.into(), rest: Default::default() })
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::mock::{Answer, Mock};
    use crate::tools::NoArguments;
    use crate::{Turn, model};

    #[derive(Deserialize, JsonSchema)]
    struct Add {
        a: i64,
        b: i64,
    }

    fn turn() -> Turn {
        Turn { input: vec![Item::user("1 + 2?")], ..Turn::default() }
    }

    fn add() -> Result<Outcome, Failure> {
        let sum = |Add { a, b }| a.checked_add(b).ok_or_else(|| Failure::invalid("overflow", "too large"));
        ToolLoop::new(model::Request::of(turn())?).tool("add", "Adds.", sum).max_steps(3).run()
    }

    fn outputs(request: &model::Request) -> Vec<String> {
        let outputs = request.input.iter().filter_map(|item| match item {
            Item::FunctionCallOutput(output) => Some(output.output.as_str().unwrap().to_owned()),
            _ => None,
        });
        outputs.collect()
    }

    #[test]
    fn tools_are_run_until_there_is_an_answer() {
        let run = Mock::new()
            .answer(Answer::new().text("Let me see. ").call("add", json!({"a": 1, "b": 2})))
            .answer("3")
            .call(add);
        assert_eq!(run.result, Ok(Outcome::Completed));
        assert_eq!(run.text(), "Let me see. 3");
        assert_eq!(run.function_calls().count(), 0);
        let asked = &run.model_calls[1];
        assert_eq!(outputs(asked), ["3"]);
        let call = asked.input[2].as_function_call().unwrap();
        let Item::FunctionCallOutput(output) = &asked.input[3] else { panic!("{asked:?}") };
        assert_eq!(output.call_id, call.call_id);
        assert_eq!(asked.options["tools"][0]["name"], "add");
    }

    #[test]
    fn the_model_reads_what_went_wrong() {
        let run = Mock::new()
            .answer(
                Answer::new()
                    .call("add", json!({"a": 1}))
                    .call("add", json!({"a": i64::MAX, "b": 1}))
                    .call("mul", json!({})),
            )
            .answer("I cannot.")
            .call(add);
        assert_eq!(run.result, Ok(Outcome::Completed));
        assert_eq!(
            outputs(&run.model_calls[1]),
            [
                "Error: the arguments do not fit: missing field `b` at line 1 column 7",
                "Error: too large",
                "Error: there is no tool `mul`; there are: add"
            ]
        );
    }

    #[test]
    fn a_model_that_never_answers_reaches_the_step_limit() {
        let call = Answer::new().call("add", json!({"a": 1, "b": 2}));
        let run = Mock::new().answer(call.clone()).answer(call.clone()).answer(call.clone()).answer(call).call(add);
        assert_eq!(run.failure().code, "step_limit");
        assert_eq!(run.answers_left, 1);
    }

    #[test]
    fn a_call_of_the_clients_function_ends_the_turn() {
        let run = Mock::new()
            .request("tools", json!([{"type": "function", "name": "weather", "parameters": {}}]))
            .answer(Answer::new().call("add", json!({"a": 1, "b": 2})).call("weather", json!({"city": "Bern"})))
            .call(add);
        assert_eq!(run.result, Ok(Outcome::Completed));
        let calls: Vec<_> = run.function_calls().map(|call| call.name.as_str()).collect();
        assert_eq!(calls, ["weather"]);
        let names: Vec<_> =
            run.model_calls[0].options["tools"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
        assert_eq!(names, ["weather", "add"]);
    }

    #[test]
    fn a_name_is_used_once() {
        let run =
            Mock::new().request("tools", json!([{"type": "function", "name": "add", "parameters": {}}])).call(add);
        assert_eq!(run.failure().code, "invalid_tool_name");
    }

    #[test]
    fn a_demanded_call_is_demanded_once() {
        let run = Mock::new()
            .request("tool_choice", "required")
            .answer(Answer::new().call("add", json!({"a": 1, "b": 2})))
            .answer("3")
            .call(add);
        assert_eq!(run.model_calls[0].options["tool_choice"], "required");
        assert!(!run.model_calls[1].options.contains_key("tool_choice"));
    }

    #[test]
    fn calls_of_a_cut_answer_are_not_made() {
        let run = Mock::new().answer(Answer::new().call("add", r#"{"a": 1, "b": "#).finish_reason("length")).call(add);
        assert!(matches!(run.result, Ok(Outcome::Incomplete(_))));
    }

    #[test]
    fn granted_tools_stand_beside_the_agents_own() {
        let run = Mock::new()
            .tool("units__convert", Ok("1.61 km"))
            .tool("units__list", Err(Failure::unavailable("gone", "it is gone")))
            .answer(
                Answer::new()
                    .call("units__list", json!({}))
                    .call("add", json!({"a": 1, "b": 2}))
                    .call("units__convert", json!({"value": 1})),
            )
            .answer("Done.")
            .call(|| {
                let sum = |Add { a, b }| Ok(a + b);
                ToolLoop::new(model::Request::of(turn())?).tool("add", "Adds.", sum).granted()?.run()
            });
        assert_eq!(outputs(&run.model_calls[1]), ["Error: it is gone", "3", "1.61 km"]);
        let offered = run.model_calls[0].options["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]);
        assert_eq!(offered.collect::<Vec<_>>(), ["add", "units__convert", "units__list"]);
        assert_eq!(run.tool_calls[1].arguments, json!({"value": 1}));
    }

    #[test]
    fn a_cancel_inside_a_tool_ends_the_run() {
        let run = Mock::new().answer(Answer::new().call("wait", json!({}))).call(|| {
            let wait = |NoArguments {}| Err::<(), _>(Failure::cancelled("cancelled", "stop"));
            ToolLoop::new(model::Request::of(turn())?).tool("wait", "Waits.", wait).run()
        });
        assert_eq!(run.failure().kind, FailureKind::Cancelled);
    }
}
