//! stub
use std::{collections::BTreeMap, time::Duration};
use serde::Deserialize;
use serde_json::{Map, Value};
#[derive(Clone, Debug, Default, Deserialize)] pub struct ProviderConfig {}
#[derive(Clone, Debug, Default)] pub struct ModelsConfig { pub default_model: Option<String>, pub providers: BTreeMap<String, ProviderConfig> }
impl ModelsConfig { pub fn with_environment(self, _l: impl Fn(&str) -> Option<String>) -> Self { self } }
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct ModelConfigError;
#[derive(Debug)] pub struct Models;
pub struct Call { pub model: Option<String>, pub instructions: Option<String>, pub input: Vec<Value>, pub options: Map<String, Value> }
pub struct Generation;
pub enum Delta { Text(String), Reasoning(String), Other(Value) }
pub struct Usage { pub input_tokens: u64, pub cached_tokens: u64, pub cache_write_tokens: u64, pub output_tokens: u64, pub reasoning_tokens: u64 }
pub struct Completion { pub items: Vec<Value>, pub finish_reason: String, pub usage: Usage, pub model: String }
#[derive(Clone, Copy)] pub enum ModelErrorKind { Invalid, Denied, NotFound, Limit, RateLimited, Timeout, Unavailable, Cancelled, Other }
pub struct ModelError { pub kind: ModelErrorKind, pub code: &'static str, pub message: String, pub retry_after: Option<Duration> }
impl Models {
  pub fn new(_c: &ModelsConfig) -> Result<Self, ModelConfigError> { Ok(Self) }
  pub fn names(&self) -> Vec<String> { vec![] }
  pub fn providers(&self) -> Vec<String> { vec![] }
  pub fn is_empty(&self) -> bool { true }
  pub async fn start(&self, _c: Call) -> Result<Generation, ModelError> { Ok(Generation) }
}
impl Generation { pub async fn next(&mut self) -> Result<Option<Delta>, ModelError> { Ok(None) } pub fn completion(self) -> Result<Completion, ModelError> { unreachable!() } }
