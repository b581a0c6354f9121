//! Upstream language models.
//!
//! An operator configures providers by name; an agent asks for `provider/model` and never sees a key. What happens
//! when a provider fails is decided here, once for all of them: calls are repeated, a bounded number of times and
//! only before the first token, every wait has a limit, every buffer has a limit, and a stream that ends without
//! saying that it is finished is an error, not an answer.
//!
//! The way of a call:
//!
//! ```text
//! models        whose model is it? → provider
//! conversation  items of the Responses API → turns          (refused here: nothing was sent)
//! settings      options of the Responses API → settings     (refused here: nothing was sent)
//! offer         tools of the Responses API → functions, and back
//! truncate      what is too long is made shorter at its beginning, if the caller wants that
//! provider      sends it, repeats it, gives up
//!   chat          the Chat Completions API: most providers, gateways and local servers; our own client
//!                 (`order` and `request` write what is sent, `answer` reads what comes)
//!   native        Anthropic and Gemini in their own words, through `genai`
//!   script        what a test says, in place of a provider
//! upstream      what comes, within the limits of time
//! generation    the pieces, and the whole answer at the end
//! ```
//!
//! The Chat Completions client is our own because `genai`'s rewrites model names that end in `-low`, `-high` or `-max`
//! (`qwen-max` becomes `qwen`), rewrites the arguments of function calls, sends parallel calls as separate messages,
//! always sends a key, and buffers errors and events without a limit.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod activity;
mod answer;
mod calls;
mod chat;
mod config;
mod conversation;
mod error;
mod finish;
mod generation;
mod halves;
mod incoming;
mod logprobs;
mod meaning;
mod models;
mod native;
mod offer;
mod order;
mod parameter;
mod piece;
mod plain;
mod provider;
mod reported;
mod request;
mod script;
mod settings;
mod truncate;
mod upstream;
mod usage;

pub use config::{ModelConfigError, ModelsConfig, OnInterrupt, ProviderConfig, ProviderKind, Secret};
pub use conversation::Call;
pub use error::{ModelError, ModelErrorKind};
pub use generation::{Completion, Delta, Generation, message_item, reasoning_item, tool_call_item};
pub use models::{Models, Target};
pub use offer::restored;
pub use parameter::Parameter;
pub use piece::{CallDelta, Usage};
pub use script::{Script, ScriptedAnswer};

/// Makes `ring` the cryptography of every TLS connection of this process, unless there is a choice already.
pub fn install_tls() {
    // Fails when there is one already, which is just as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests;
