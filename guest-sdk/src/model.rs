//! Upstream language models, by the names that the operator configured. Keys never reach the agent.
//!
//! [`forward`] is the usual case: what the model says goes straight to the client.
//!
//! ```
//! use outlast_guest::{Failure, Outcome, Turn, model};
//!
//! fn run(turn: Turn) -> Result<Outcome, Failure> {
//!     let request = model::Request::of(turn)?.preamble("Answer in rhyme.");
//!     Ok(model::forward(request)?.outcome())
//! }
//! # let run = outlast_guest::mock::Mock::new().answer("Well met, my pet").call(|| run(Turn::default()));
//! # assert_eq!(run.text(), "Well met, my pet");
//! ```
//!
//! With functions that the agent runs itself, use a [`ToolLoop`](crate::ToolLoop).
//!
//! [`generate`] lets the agent see every piece and decide what the client sees.
//!
//! ```
//! use outlast_guest::{Failure, Item, model, respond};
//!
//! fn title(text: &str) -> Result<(), Failure> {
//!     let request = model::Request::new()
//!         .model("gpt-4o-mini")
//!         .instructions("Give this text a title of at most five words.")
//!         .input([Item::user(text)])
//!         .option("temperature", 0.2);
//!     let mut generation = model::generate(request)?;
//!     let mut title = respond::Message::open();
//!     for text in generation.texts() {
//!         title.write(&text.to_uppercase());
//!     }
//!     title.finish();
//!     respond::report_usage(generation.finish()?.usage);
//!     Ok(())
//! }
//! # let run = outlast_guest::mock::Mock::new().answer("On bread").call(|| title("…"));
//! # assert_eq!(run.text(), "ON BREAD");
//! ```
//!
//! [`ask`] waits for an answer that the client does not see at all.
//!
//! The server repeats what can be repeated safely: refused connections, 429 and 5xx before the first token.
//! A failure that arrives here has had its retries.

use std::io::{self, Write};

use serde_json::{Map, Value};

use crate::host::model as host;
use crate::item::{FunctionCall, Item};
use crate::{Failure, IncompleteReason, Outcome, Turn, Usage, context, respond};

#[doc(inline)]
pub use crate::bindings::outlast::agent::model::Delta;

/// Calls a model and sends what it says straight to the client, reasoning summaries included; returns when
/// the model has finished. The usage is added to the response's.
///
/// Calls of the functions that [`Request::client_functions`] names go to the client as well, their arguments
/// streamed; all others are the agent's to answer. If the request has no other functions, so do calls of functions that
/// nobody declared.
///
/// # Errors
///
/// `not-found` and `denied` for a model that is unknown or not granted, `invalid` for a bad request,
/// `rate-limited`, `timeout` and `unavailable` for trouble upstream, `cancelled` when the run is. An item
/// that was started is closed as `incomplete`.
pub fn forward(request: Request) -> Result<Completion, Failure> {
    host::forward(&request.try_into()?)?.try_into()
}

/// Calls a model and returns what it says piece by piece; the client sees nothing of it by itself.
///
/// # Errors
///
/// As [`forward`]; trouble after the first piece is reported by [`Generation::finish`].
pub fn generate(request: Request) -> Result<Generation, Failure> {
    Ok(Generation(host::generate(&request.try_into()?)?))
}

/// Calls a model and waits for the whole answer, which the client does not see. The usage is added to the response's.
///
/// # Errors
///
/// As [`forward`].
pub fn ask(request: Request) -> Result<Completion, Failure> {
    let completion = generate(request)?.finish()?;
    respond::report_usage(completion.usage);
    Ok(completion)
}

/// The names of the models that this agent may call, as far as the operator lists them.
pub fn models() -> Vec<String> {
    host::models()
}

/// One call of a model. Start with [`Request::new`] and say what differs from the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The model: `provider/model`, or a model of the default provider. None: the operator's default.
    pub model: Option<String>,
    /// The instructions that stand before the input (the system message).
    pub instructions: Option<String>,
    /// The conversation, oldest first.
    pub input: Vec<Item>,
    /// Sampling and more, by the Responses API's own names: `temperature`, `top_p`, `max_output_tokens`,
    /// `reasoning`, `text`, `tools`, `tool_choice`, `parallel_tool_calls`, `presence_penalty`, `frequency_penalty`,
    /// `truncation`, `include`, and where the provider takes them `top_logprobs`, `prompt_cache_key`, `safety_identifier`, `service_tier`, `user`, `metadata`.
    /// Others are ignored.
    pub options: Map<String, Value>,
    /// The tools that the client runs itself: [`forward`] sends the client the calls of these. The name of a namespace
    /// stands for its members.
    pub client_functions: Vec<String>,
}

impl Request {
    /// A request to the operator's default model, with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a turn asks, as a client means it that talks to a model: the model that it named, its instructions, the
    /// earlier turns and this one's input, and those sampling parameters and functions that it sent.
    ///
    /// # Errors
    ///
    /// `invalid_json` when the request or the history is not what the protocol says.
    pub fn of(turn: Turn) -> Result<Self, Failure> {
        let request = context::request()?;
        Ok(Self {
            model: turn.model,
            options: request.model_options(),
            client_functions: request.client_functions(),
            instructions: request.instructions,
            input: context::history()?.into_iter().chain(turn.input).collect(),
        })
    }

    /// Names the model.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Sets the instructions.
    #[must_use]
    pub fn instructions(mut self, instructions: impl Into<String>) -> Self {
        self.instructions = Some(instructions.into());
        self
    }

    /// Puts instructions before those that are there: the agent's own before the client's.
    #[must_use]
    pub fn preamble(mut self, preamble: impl Into<String>) -> Self {
        let preamble = preamble.into();
        self.instructions = Some(match self.instructions.filter(|instructions| !instructions.is_empty()) {
            Some(instructions) => format!("{preamble}\n\n{instructions}"),
            None => preamble,
        });
        self
    }

    /// Adds items to the end of the conversation.
    #[must_use]
    pub fn input(mut self, items: impl IntoIterator<Item = Item>) -> Self {
        self.input.extend(items);
        self
    }

    /// Sets one option.
    #[must_use]
    pub fn option(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.options.insert(name.into(), value.into());
        self
    }

    /// Names functions that the client runs itself.
    #[must_use]
    pub fn client_functions(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.client_functions.extend(names.into_iter().map(Into::into));
        self
    }

    /// Sets several options.
    #[must_use]
    pub fn options(mut self, options: impl IntoIterator<Item = (String, Value)>) -> Self {
        self.options.extend(options);
        self
    }
}

impl TryFrom<Request> for host::Request {
    type Error = Failure;

    fn try_from(mut request: Request) -> Result<Self, Failure> {
        if !request.client_functions.is_empty() {
            request.options.insert("client_functions".to_owned(), request.client_functions.into());
        }
        Ok(Self {
            model: request.model,
            instructions: request.instructions,
            input: to_json(&request.input)?,
            options: match request.options.is_empty() {
                true => None,
                false => Some(serde_json::to_string(&request.options)?),
            },
        })
    }
}

/// Items as JSON, in as much memory as it takes: a text that grows is copied again and again, and a long one takes three times
/// its memory meanwhile.
fn to_json(items: &[Item]) -> Result<String, Failure> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, items)?;
    let mut json = Vec::with_capacity(length.0);
    serde_json::to_writer(&mut json, items)?;
    String::from_utf8(json).map_err(|error| Failure::invalid("invalid_json", error.to_string()))
}

/// Counts the bytes that are written to it.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A model call under way: an iterator over the pieces of the answer. Dropping it stops the call.
///
/// The iterator ends when the model has finished or failed; [`finish`](Self::finish) says which.
#[derive(Debug)]
pub struct Generation(host::Generation);

impl Iterator for Generation {
    type Item = Delta;

    fn next(&mut self) -> Option<Delta> {
        self.0.next()
    }
}

impl Generation {
    /// The pieces of the answer's text; all others are passed over.
    pub fn texts(&mut self) -> impl Iterator<Item = String> {
        self.filter_map(|delta| match delta {
            Delta::Text(text) => Some(text),
            Delta::Reasoning(_) | Delta::Other(_) => None,
        })
    }

    /// Waits for the end, passing over the pieces that were not read, and returns the whole answer. Its
    /// usage is the agent's to report, with [`respond::report_usage`].
    ///
    /// # Errors
    ///
    /// As [`forward`]; `unavailable` when the answer was interrupted.
    pub fn finish(self) -> Result<Completion, Failure> {
        self.0.finish()?.try_into()
    }
}

/// A finished model call.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The finished output items.
    pub items: Vec<Item>,
    /// Why the model stopped.
    pub finish_reason: FinishReason,
    /// The tokens of this call; all zero when the upstream does not say.
    pub usage: Usage,
    /// The model that answered, in the upstream's words.
    pub model: String,
}

impl Completion {
    /// The text of the answer.
    pub fn text(&self) -> String {
        self.items.iter().filter_map(Item::as_message).map(|message| message.text()).collect()
    }

    /// The function calls that the model asks for.
    pub fn function_calls(&self) -> impl Iterator<Item = &FunctionCall> {
        self.items.iter().filter_map(Item::as_function_call)
    }

    /// The outcome of a run whose answer this is: incomplete when the model was cut short.
    pub fn outcome(&self) -> Outcome {
        match self.finish_reason {
            FinishReason::Length => Outcome::Incomplete(IncompleteReason::MaxOutputTokens),
            FinishReason::ContentFilter => Outcome::Incomplete(IncompleteReason::ContentFilter),
            FinishReason::Stop | FinishReason::ToolCalls | FinishReason::Other(_) => Outcome::Completed,
        }
    }
}

impl TryFrom<host::Completion> for Completion {
    type Error = Failure;

    fn try_from(completion: host::Completion) -> Result<Self, Failure> {
        Ok(Self {
            items: serde_json::from_str(&completion.items)?,
            finish_reason: completion.finish_reason.into(),
            usage: completion.usage,
            model: completion.model,
        })
    }
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It had said everything.
    Stop,
    /// It reached the permitted number of tokens.
    Length,
    /// It waits for the output of functions.
    ToolCalls,
    /// Content was held back.
    ContentFilter,
    /// The upstream's own word.
    Other(String),
}

impl From<String> for FinishReason {
    fn from(word: String) -> Self {
        match word.as_str() {
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            "content_filter" => Self::ContentFilter,
            _ => Self::Other(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::{Answer, Mock};
    use serde_json::json;

    fn completion(finish_reason: &str) -> Completion {
        let items = json!([
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
            {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "[1,2]"}
        ]);
        let completion = host::Completion {
            items: items.to_string(),
            finish_reason: finish_reason.into(),
            usage: Usage::default(),
            model: "m".into(),
        };
        completion.try_into().unwrap()
    }

    #[test]
    fn a_request_becomes_what_the_contract_says() {
        let request =
            Request::new().model("m").input([Item::user("a")]).input([Item::assistant("b")]).option("top_p", 0.5);
        let request = host::Request::try_from(request).unwrap();
        assert_eq!(request.model.as_deref(), Some("m"));
        assert_eq!(request.instructions, None);
        assert_eq!(
            serde_json::from_str::<Value>(&request.input).unwrap(),
            json!([
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]}
            ])
        );
        assert_eq!(request.options.as_deref(), Some(r#"{"top_p":0.5}"#));
    }

    #[test]
    fn the_functions_of_the_client_are_an_option() {
        let request = host::Request::try_from(Request::new().client_functions(["add"])).unwrap();
        assert_eq!(request.options.as_deref(), Some(r#"{"client_functions":["add"]}"#));
    }

    #[test]
    fn the_model_is_asked_what_the_client_asked() {
        let turn = Turn { model: Some("gpt-4o".into()), input: vec![Item::user("and yours?")], ..Turn::default() };
        let mock = Mock::new()
            .request("instructions", "Be brief.")
            .request("temperature", 0.5)
            .history("my name is Ada")
            .history(Item::assistant("hello Ada"));
        let request = mock.call(|| Request::of(turn)).result.unwrap().preamble("Rhyme.");
        assert_eq!(request.model.as_deref(), Some("gpt-4o"));
        assert_eq!(request.instructions.as_deref(), Some("Rhyme.\n\nBe brief."));
        assert_eq!(
            request.input,
            [Item::user("my name is Ada"), Item::assistant("hello Ada"), Item::user("and yours?")]
        );
        assert_eq!(Value::Object(request.options), json!({"temperature": 0.5}));
    }

    #[test]
    fn without_a_name_the_default_model_is_asked() {
        let request = Mock::new().call(|| Request::of(Turn::default())).result.unwrap();
        assert_eq!((request.model, request.instructions), (None, None));
    }

    #[test]
    fn an_answer_that_is_asked_for_is_counted_and_not_shown() {
        let usage = Usage { input_tokens: 3, output_tokens: 1, ..Usage::default() };
        let run = Mock::new().answer(Answer::new().text("no").usage(usage)).call(|| ask(Request::new()));
        assert_eq!(run.result.unwrap().text(), "no");
        assert!(run.output.is_empty());
        assert_eq!(run.usage, usage);
    }

    #[test]
    fn a_stream_that_breaks_says_so_at_its_end() {
        let broken = Answer::new().text("a").fail(Failure::unavailable("gone", "gone"));
        let run = Mock::new().answer(broken).call(|| {
            let mut generation = generate(Request::new())?;
            let texts: Vec<_> = generation.texts().collect();
            Ok::<_, Failure>((texts, generation.finish()))
        });
        let (texts, end) = run.result.unwrap();
        assert_eq!(texts, ["a"]);
        assert_eq!(end.unwrap_err().code, "gone");
    }

    #[test]
    fn a_request_without_options_sends_none() {
        assert_eq!(host::Request::try_from(Request::new()).unwrap().options, None);
    }

    #[test]
    fn a_completion_gives_its_text_and_its_calls() {
        let completion = completion("tool_calls");
        assert_eq!(completion.text(), "Let me see.");
        let sum: i64 =
            completion.function_calls().map(|call| call.parse::<Vec<i64>>().unwrap().iter().sum::<i64>()).sum();
        assert_eq!(sum, 3);
    }

    #[test]
    fn an_answer_cut_short_is_incomplete() {
        assert_eq!(completion("stop").outcome(), Outcome::Completed);
        assert_eq!(completion("tool_calls").outcome(), Outcome::Completed);
        assert_eq!(completion("end_turn").outcome(), Outcome::Completed);
        assert_eq!(completion("length").outcome(), Outcome::Incomplete(IncompleteReason::MaxOutputTokens));
        assert_eq!(completion("content_filter").outcome(), Outcome::Incomplete(IncompleteReason::ContentFilter));
    }
}
