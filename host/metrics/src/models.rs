//! Calls of upstream models: how many, how they end, how long they take, what they cost.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{Durations, Held, durations};

/// The label of a model that the configuration does not list: clients may invent as many as they like.
const OTHER: &str = "other";

/// Model calls, by provider.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    live: Family<Provider, Gauge>,
    ended: Family<Outcome, Counter>,
    failures: Family<Failure, Counter>,
    duration: Durations<Provider>,
    first_token: Durations<Provider>,
    retries: Family<Provider, Counter>,
    input_tokens: Family<Model, Counter>,
    output_tokens: Family<Model, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Provider {
    provider: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    provider: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    provider: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    provider: String,
    model: String,
}

impl Default for ModelMetrics {
    fn default() -> Self {
        Self {
            live: Family::default(),
            ended: Family::default(),
            failures: Family::default(),
            duration: Family::new_with_constructor(durations),
            first_token: Family::new_with_constructor(durations),
            retries: Family::default(),
            input_tokens: Family::default(),
            output_tokens: Family::default(),
        }
    }
}

impl ModelMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("model_calls_live", "Active calls of upstream models", self.live.clone());
        registry.register(
            "model_calls_ended",
            "Calls that ended: completed, incomplete (cut short by a length or a filter), failed, cancelled",
            self.ended.clone(),
        );
        registry.register("model_call_failures", "Calls that failed, by the error's code", self.failures.clone());
        registry.register(
            "model_call_duration_seconds",
            "From the first attempt of a call to its end",
            self.duration.clone(),
        );
        registry.register(
            "model_first_token_seconds",
            "From the first attempt of a call to the first piece of its answer",
            self.first_token.clone(),
        );
        registry.register("model_retries", "Attempts that followed a failed one", self.retries.clone());
        registry.register(
            "model_input_tokens",
            "Tokens that providers counted as input; models that the configuration does not list are other",
            self.input_tokens.clone(),
        );
        registry.register(
            "model_output_tokens",
            "Tokens that providers counted as output; models that the configuration does not list are other",
            self.output_tokens.clone(),
        );
    }

    /// The metrics of a provider. `listed` are the models that get a label of their own.
    pub fn provider(&self, name: &str, listed: &BTreeSet<&str>) -> Arc<ProviderMetrics> {
        let provider = Provider { provider: name.to_owned() };
        let outcome = |outcome| self.ended.get_or_create_owned(&Outcome { provider: name.to_owned(), outcome });
        let tokens = |model: &str| {
            let labels = Model { provider: name.to_owned(), model: model.to_owned() };
            let input = self.input_tokens.get_or_create_owned(&labels);
            Tokens { model: model.to_owned(), input, output: self.output_tokens.get_or_create_owned(&labels) }
        };
        Arc::new(ProviderMetrics {
            name: name.to_owned(),
            live: self.live.get_or_create_owned(&provider),
            completed: outcome("completed"),
            incomplete: outcome("incomplete"),
            failed: outcome("failed"),
            cancelled: outcome("cancelled"),
            failures: self.failures.clone(),
            duration: self.duration.get_or_create_owned(&provider),
            first_token: self.first_token.get_or_create_owned(&provider),
            retries: self.retries.get_or_create_owned(&provider),
            listed: listed.iter().copied().map(tokens).collect(),
            other: tokens(OTHER),
        })
    }
}

/// The metrics of one provider.
#[derive(Debug)]
pub struct ProviderMetrics {
    name: String,
    live: Gauge,
    completed: Counter,
    incomplete: Counter,
    failed: Counter,
    cancelled: Counter,
    failures: Family<Failure, Counter>,
    duration: Histogram,
    first_token: Histogram,
    /// Attempts that followed a failed one.
    pub retries: Counter,
    listed: Vec<Tokens>,
    other: Tokens,
}

/// The tokens of a model.
#[derive(Debug)]
struct Tokens {
    model: String,
    input: Counter,
    output: Counter,
}

/// A call that goes on. One that is dropped before its end is cancelled.
#[derive(Debug)]
pub struct LiveCall {
    provider: Arc<ProviderMetrics>,
    since: Instant,
    /// None when the call has ended.
    live: Option<Held>,
}

impl LiveCall {
    /// A call that begins.
    pub fn new(provider: Arc<ProviderMetrics>) -> Self {
        let live = Some(Held::new(&provider.live));
        Self { provider, since: Instant::now(), live }
    }

    /// The answer begins.
    pub fn first_token(&self) {
        self.provider.first_token.observe(self.since.elapsed().as_secs_f64());
    }

    /// The model has finished; it was cut short when the answer is not `whole`.
    pub fn finish(&mut self, model: &str, whole: bool, input_tokens: u64, output_tokens: u64) {
        let provider = self.provider.clone();
        self.end(if whole { &provider.completed } else { &provider.incomplete });
        let tokens = provider.listed.iter().find(|tokens| tokens.model == model).unwrap_or(&provider.other);
        tokens.input.inc_by(input_tokens);
        tokens.output.inc_by(output_tokens);
    }

    /// The call has failed with an error of this code.
    pub fn fail(&mut self, code: &'static str) {
        let provider = self.provider.clone();
        provider.failures.get_or_create(&Failure { provider: provider.name.clone(), code }).inc();
        self.end(&provider.failed);
    }

    fn end(&mut self, outcome: &Counter) {
        if self.live.take().is_some() {
            outcome.inc();
            self.provider.duration.observe(self.since.elapsed().as_secs_f64());
        }
    }
}

impl Drop for LiveCall {
    fn drop(&mut self) {
        let provider = self.provider.clone();
        self.end(&provider.cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_once() {
        let up = ModelMetrics::default().provider("up", &BTreeSet::new());
        let mut call = LiveCall::new(up.clone());
        assert_eq!(up.live.get(), 1);
        call.finish("m", true, 3, 4);
        assert_eq!(up.live.get(), 0);
        drop(call);
        assert_eq!((up.completed.get(), up.cancelled.get(), up.duration.count()), (1, 0, 1));
        drop(LiveCall::new(up.clone()));
        assert_eq!((up.cancelled.get(), up.live.get()), (1, 0));
    }

    #[test]
    fn a_model_that_is_not_listed_makes_no_label() {
        let metrics = ModelMetrics::default();
        let up = metrics.provider("up", &BTreeSet::from(["listed"]));
        for (model, tokens) in [("listed", 1), ("invented", 10), ("invented-too", 100)] {
            LiveCall::new(up.clone()).finish(model, true, tokens, 0);
        }
        assert_eq!((up.listed[0].input.get(), up.other.input.get()), (1, 110));
        assert_eq!(metrics.input_tokens.len(), 2);
    }
}
