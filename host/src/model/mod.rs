//! Upstream language models.
//!
//! An operator configures providers by name; an agent asks for `provider/model` and never sees a key. What the
//! providers speak is the business of `genai`; what happens when they fail is ours: calls are repeated, a bounded
//! number of times and only before the first token, every wait has a limit, and a stream that ends without saying
//! that it is finished is an error, not an answer.

mod config;
mod error;
mod generation;
mod models;
mod request;

pub use config::{ModelConfigError, ModelsConfig, ProviderConfig, ProviderKind, Secret};
pub use error::{ModelError, ModelErrorKind};
pub use generation::{Completion, Delta, Generation, Usage};
pub use models::Models;
pub use request::Call;

#[cfg(test)]
mod tests;
