//! Conversations that are compacted automatically, once they are long enough.
//!
//! A request may say with `context_management` how many tokens a conversation may have. A run whose conversation has more
//! compacts it before its agent begins, as [`compaction`](super::compaction) does, and shows the item in its output. The item
//! stands for everything before it: what the run goes on from, and its input. So whoever goes on from the run, or sends its
//! items back, goes on from there.
//!
//! The messages of the user, and instructions, stay as they are, and so does what the model has to answer now: the last
//! messages, or the last calls with their outputs. What is between them becomes a summary.
//!
//! When there is none, because nobody could make it or it is too large, the run goes on without, and its log says why. A
//! run that is executed again finds the item in its events.

use std::{collections::HashSet, sync::Arc};

use outlast_plugin::{Agent, RunContext};
use outlast_protocol::{
    AllOf, ApiError, Emission, Usage, compact_threshold, input_tokens, is_standing, summary_message, summary_request,
};
use serde_json::{Map, Value};

use super::{Ending, Manager, Refusal, Run, replay::not_resumed, to_json};

/// What is summarised has at least this part of the threshold: less is not worth a call of a model each time.
const PART: u64 = 10;

impl Manager {
    /// Compacts what `context` has, if the run's request asks for that and there is enough.
    ///
    /// # Errors
    ///
    /// The run has done so already, and what it made can no longer be opened.
    pub(super) async fn shorten(
        self: &Arc<Self>,
        run: &Arc<Run>,
        agent: &Arc<Agent>,
        context: &mut RunContext,
    ) -> Result<(), Ending> {
        if !context.request.contains("context_management") {
            return Ok(());
        }
        let fields: Map<String, Value> = serde_json::from_str(&context.request).unwrap_or_default();
        let Some(threshold) = compact_threshold(&fields) else { return Ok(()) };
        if let Some(sealed) = run.recorder(|recorder| recorder.recorded_compaction()).flatten() {
            let opened = self.seal().open(&run.principal, &sealed).and_then(AllOf::read);
            let all =
                opened.ok_or_else(|| not_resumed("its conversation was compacted, and can no longer be opened"))?;
            show(run, &sealed, all.usage).map_err(|error| not_resumed(error.to_string().trim_end_matches('.')))?;
            put(context, all);
            return Ok(());
        }
        // It has begun without.
        if !context.entries.is_empty() || run.recorder(|recorder| recorder.has_begun()).unwrap_or(true) {
            return Ok(());
        }
        let conversation = Conversation::of(context);
        if input_tokens(conversation.items.iter(), &fields) <= threshold || !conversation.is_worth(threshold) {
            return Ok(());
        }
        let made = run.stopping().run_until_cancelled(self.compacted(run, agent, &fields, conversation)).await;
        // Otherwise the run is over, or suspended before it has begun.
        let Some(made) = made else { return Ok(()) };
        let shown = made.and_then(|(all, sealed)| match show(run, &sealed, all.usage) {
            Ok(()) => Ok(all),
            Err(error) => Err(error.to_string()),
        });
        match shown {
            Ok(all) => {
                run.meter.tokens(all.usage.input_tokens, all.usage.output_tokens);
                put(context, all);
            }
            Err(why) => run.note("warn", &format!("the conversation is not compacted: {why}")),
        }
        Ok(())
    }

    /// What a conversation is compacted to, open and sealed.
    async fn compacted(
        self: &Arc<Self>,
        run: &Run,
        agent: &Arc<Agent>,
        fields: &Map<String, Value>,
        conversation: Conversation,
    ) -> Result<(AllOf, String), String> {
        let Conversation { mut items, history, open } = conversation;
        let input = items.split_off(open.max(history));
        let last = items.split_off(open.min(items.len()));
        let (mut before, mut usage) = (items, Usage::default());
        if agent.uses_models {
            let standing: Vec<Value> = before.iter().filter(|item| is_standing(item)).cloned().collect();
            let model = run.recorder(|recorder| recorder.response().model.clone()).unwrap_or_default();
            let request = summary_request(&model, fields.get("instructions").and_then(Value::as_str));
            let summarised = self.summarise(&run.principal, request, before, agent.clone()).await;
            let (_, text, used) = summarised.map_err(|refusal: Refusal| ApiError::from(refusal).message)?;
            before = standing;
            before.push(summary_message(&text));
            usage = used;
        }
        before.extend(last);
        let all = AllOf { history: before, input, usage };
        let sealed = self.seal().seal(&run.principal, &all.write()).map_err(|_| "it cannot be encrypted".to_owned())?;
        let most = self.limits().output.event_bytes;
        if sealed.len() > most {
            return Err(format!("it still has {} bytes, limit {most} (limits.event_bytes)", sealed.len()));
        }
        Ok((all, sealed))
    }
}

/// Puts the item into the output of the run.
fn show(run: &Arc<Run>, sealed: &str, usage: Usage) -> Result<(), outlast_protocol::EmitError> {
    run.begin();
    run.emit(Emission::Compaction(sealed))?;
    run.emit(Emission::Usage(usage)).map(drop)
}

fn put(context: &mut RunContext, AllOf { history, input, .. }: AllOf) {
    (context.history, context.input) = (to_json(&history), to_json(&input));
}

/// What a run goes on from, and its input.
#[derive(Debug)]
struct Conversation {
    items: Vec<Value>,
    /// How many of them come before the input.
    history: usize,
    /// The first of those that stay, because the model has to answer them.
    open: usize,
}

impl Conversation {
    fn of(context: &RunContext) -> Self {
        let read = |json: &str| serde_json::from_str::<Vec<Value>>(json).unwrap_or_default();
        let mut items = read(&context.history);
        let history = items.len();
        items.extend(read(&context.input));
        let open = open(&items);
        Self { items, history, open }
    }

    /// Whether there is enough to summarise.
    fn is_worth(&self, threshold: u64) -> bool {
        let rest = self.items[..self.open].iter().filter(|item| !is_standing(item));
        input_tokens(rest, &Map::new()) >= threshold / PART
    }
}

/// The first item of what the model has to answer: the last messages that are not its own, and outputs, with their calls.
fn open(items: &[Value]) -> usize {
    let kind = |item: &Value| item["type"].as_str().unwrap_or_default().to_owned();
    let is_asked =
        |item: &Value| kind(item).ends_with("_output") || (kind(item) == "message" && item["role"] != "assistant");
    let mut open = items.iter().rposition(|item| !is_asked(item)).map_or(0, |said| said + 1);
    loop {
        let ids: HashSet<&str> = items[open..].iter().filter_map(|item| item["call_id"].as_str()).collect();
        let first = items[..open].iter().position(|item| item["call_id"].as_str().is_some_and(|id| ids.contains(id)));
        match first {
            Some(first) => open = first,
            None => break,
        }
    }
    while open > 0 && kind(&items[open - 1]) == "reasoning" && open < items.len() {
        open -= 1;
    }
    open
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn opened(kinds: &[&str]) -> usize {
        let item = |kind: &&str| match kind.split_once(' ') {
            Some((kind, id)) => json!({"type": kind, "call_id": id}),
            None if ["user", "assistant", "system"].contains(kind) => json!({"type": "message", "role": kind}),
            None => json!({"type": kind}),
        };
        open(&kinds.iter().map(item).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_to_be_answered_stays() {
        assert_eq!(opened(&["user", "assistant", "user"]), 2);
        assert_eq!(opened(&["user", "assistant", "system", "user"]), 2);
        assert_eq!(opened(&["user"]), 0);
        assert_eq!(opened(&["user", "assistant"]), 2);
        assert_eq!(opened(&["user", "function_call a", "function_call_output a"]), 1);
        assert_eq!(opened(&["user", "reasoning", "function_call a", "function_call_output a", "user"]), 1);
        assert_eq!(
            opened(&["user", "function_call a", "function_call_output a", "shell_call b", "shell_call_output b"]),
            3
        );
        // Two calls at once.
        let two = ["user", "function_call a", "function_call b", "function_call_output a", "function_call_output b"];
        assert_eq!(opened(&two), 1);
        // One of them was answered late.
        assert_eq!(opened(&["user", "function_call a", "assistant", "user", "function_call_output a"]), 1);
    }
}
