//! What an agent asks the host, call by call.
//!
//! The generated bindings open a span for every call of an import, with an event for its arguments and one for its
//! answer. This reads them, so that it knows every interface there is.

use std::{
    fmt::{self, Write as _},
    time::{Duration, Instant},
};

use outlast_plugin::BINDINGS;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::Context,
    registry::LookupSpan,
};

/// How many characters of arguments and of an answer are shown.
const SHOWN: usize = 200;

/// One call of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The import: `model.forward`, `respond.message.write`.
    pub import: String,
    /// By name, as text, whole.
    pub arguments: Vec<(String, String)>,
    /// None when it was not answered: it trapped, or the run ended before.
    pub answer: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut arguments = String::new();
        for (name, value) in &self.arguments {
            let comma = if arguments.is_empty() { "" } else { ", " };
            match name.starts_with("self") {
                true => write!(arguments, "{comma}{}", handle(value))?,
                false => write!(arguments, "{comma}{name}: {value}")?,
            }
        }
        write!(f, "{:>9}  {}({})", milliseconds(self.took), self.import, shortened(&arguments))?;
        match self.answer.as_deref() {
            Some("()") => Ok(()),
            Some(answer) => write!(f, " → {}", shortened(&handle(answer))),
            None => f.write_str(" was not answered"),
        }
    }
}

/// `Resource { rep: 3, … }` is handle `#3`.
fn handle(value: &str) -> String {
    let number = value.strip_prefix("Resource { rep: ").or_else(|| value.strip_prefix("Ok(Resource { rep: "));
    match number.and_then(|rest| rest.split_once(',')) {
        Some((number, _)) => format!("#{number}"),
        None => value.to_owned(),
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// JSON in text is easier to read without the strokes before its quotes.
fn shortened(text: &str) -> String {
    let text = text.replace("\\\"", "\"");
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
    }
}

/// A layer that gives every call to `sink` when it has been answered.
pub(super) fn layer<S>(sink: impl Fn(Call) + Send + Sync + 'static) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Calls(sink).with_filter(Targets::new().with_target(BINDINGS, LevelFilter::TRACE))
}

/// Makes this the subscriber of the process. Not `init`: that would also take in what the compiler of components writes with
/// `log`, line by line, to drop it; it makes compiling many times slower.
pub(super) fn subscribe(subscriber: impl Subscriber + Send + Sync) -> Result<(), String> {
    tracing::subscriber::set_global_default(subscriber).map_err(|error| format!("cannot start the log: {error}"))
}

struct Calls<F>(F);

/// What is kept with a span.
struct Pending {
    call: Call,
    since: Instant,
}

impl<S, F> Layer<S> for Calls<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: Fn(Call) + Send + Sync + 'static,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if attributes.metadata().name() != "wit-bindgen import" {
            return;
        }
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let import = format!("{}.{}", fields.take("module"), function(&fields.take("function")));
        let call = Call { import, arguments: Vec::new(), answer: None, took: Duration::ZERO };
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Pending { call, since: Instant::now() });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(span) = context.event_span(event) else { return };
        let mut extensions = span.extensions_mut();
        let Some(pending) = extensions.get_mut::<Pending>() else { return };
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.take("message") == "call" {
            pending.call.arguments = fields.0;
        } else {
            // A call that traps has no answer.
            pending.call.answer = inner(&fields.take("result")).map(str::to_owned);
            pending.call.took = pending.since.elapsed();
        }
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Pending { mut call, since }) = span.extensions_mut().remove::<Pending>() else { return };
        if call.answer.is_none() {
            call.took = since.elapsed();
        }
        (self.0)(call);
    }
}

/// `[method]message.write` is `message.write`, `[constructor]message` is `message`.
fn function(name: &str) -> &str {
    name.split_once(']').map_or(name, |(_, name)| name)
}

/// What is in the `Ok(…)` of a call that did not trap.
fn inner(result: &str) -> Option<&str> {
    result.strip_prefix("Ok(")?.strip_suffix(')')
}

#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn take(&mut self, name: &str) -> String {
        let at = self.0.iter().position(|(known, _)| known == name);
        at.map(|at| self.0.remove(at).1).unwrap_or_default()
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name().to_owned(), format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name().to_owned(), value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_one_short_line() {
        let call = |import: &str, arguments: &[(&str, &str)], answer: Option<&str>| Call {
            import: import.to_owned(),
            arguments: arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            answer: answer.map(str::to_owned),
            took: Duration::from_micros(1_250),
        };
        let write = call(
            "respond.message.write",
            &[("self_", "Resource { rep: 3, state: \"own\" }"), ("text", r#""say \"hi\"""#)],
            Some("()"),
        );
        assert_eq!(write.to_string(), r#"   1.2 ms  respond.message.write(#3, text: "say "hi"")"#);
        let long = call("context.config", &[], Some(&"x".repeat(300))).to_string();
        assert!(long.ends_with("x… (300 characters)") && long.len() < 300, "{long}");
        assert!(call("tasks.sleep", &[], None).to_string().ends_with("tasks.sleep() was not answered"));
    }

    #[test]
    fn the_names_are_those_of_the_contract() {
        assert_eq!(function("[method]message.write"), "message.write");
        assert_eq!(function("[constructor]message"), "message");
        assert_eq!(function("forward"), "forward");
    }
}
