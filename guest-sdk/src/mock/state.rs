//! State that is kept as long as the test holds it.

use std::collections::BTreeMap;

use super::{Mock, with};
use crate::bindings::Failure as HostFailure;

pub use crate::bindings::outlast::agent::state::Scope;

/// The most keys at once.
const PAGE: usize = 1_000;

/// What is kept: values by scope and key.
#[derive(Debug, Default)]
pub(super) struct State(BTreeMap<(u8, String), Vec<u8>>);

fn place(scope: Scope, key: &str) -> (u8, String) {
    (scope as u8, key.to_owned())
}

impl Mock {
    /// Keeps a value, as JSON, before the run.
    ///
    /// # Panics
    ///
    /// The value cannot be written as JSON.
    pub fn state(mut self, scope: crate::state::Scope, key: &str, value: &impl serde::Serialize) -> Self {
        let value = serde_json::to_vec(value).unwrap_or_else(|error| panic!("no JSON: {error}"));
        self.state.state.0.insert(place(scope, key), value);
        self
    }
}

pub(crate) fn get(scope: Scope, key: &str) -> Result<Option<Vec<u8>>, HostFailure> {
    with("state::get", |host| Ok(host.state.0.get(&place(scope, key)).cloned()))
}

pub(crate) fn set(scope: Scope, key: &str, value: &[u8]) -> Result<(), HostFailure> {
    with("state::set", |host| host.state.0.insert(place(scope, key), value.to_vec()));
    Ok(())
}

pub(crate) fn delete(scope: Scope, key: &str) -> Result<(), HostFailure> {
    with("state::delete", |host| host.state.0.remove(&place(scope, key)));
    Ok(())
}

pub(crate) fn replace(
    scope: Scope,
    key: &str,
    expected: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Result<bool, HostFailure> {
    with("state::replace", |host| {
        let place = place(scope, key);
        if host.state.0.get(&place).map(Vec::as_slice) != expected {
            return Ok(false);
        }
        match value {
            Some(value) => host.state.0.insert(place, value.to_vec()),
            None => host.state.0.remove(&place),
        };
        Ok(true)
    })
}

pub(crate) fn list_keys(scope: Scope, prefix: &str, after: Option<&str>) -> Result<Vec<String>, HostFailure> {
    with("state::keys", |host| {
        let keys = host.state.0.keys().filter(|(of, key)| *of == scope as u8 && key.starts_with(prefix));
        let keys = keys.filter(|(_, key)| after.is_none_or(|after| key.as_str() > after));
        Ok(keys.map(|(_, key)| key.clone()).take(PAGE).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state;

    #[test]
    fn what_is_written_is_read() {
        let run = Mock::new().state(Scope::Principal, "count", &41).call(|| {
            state::update(Scope::Principal, "count", |count: Option<u32>| count.map(|count| count + 1)).unwrap();
            state::set(Scope::Run, "other", "x").unwrap();
            (state::get::<u32>(Scope::Principal, "count").unwrap(), state::keys(Scope::Principal, "").unwrap())
        });
        assert_eq!(run.result, (Some(42), vec!["count".to_owned()]));
    }
}
