//! What an agent keeps beyond its run: values under keys, for a conversation or for a principal.
//!
//! ```no_run
//! use outlast_guest::{Failure, Outcome, Turn, respond, state};
//! use state::Scope::Principal;
//!
//! fn run(turn: Turn) -> Result<Outcome, Failure> {
//!     let name: Option<String> = state::get(Principal, "name")?;
//!     let visits = state::update(Principal, "visits", |visits: Option<u64>| Some(visits.unwrap_or(0) + 1))?;
//!     match name {
//!         Some(name) => respond::text(&format!("Hello {name}, this is visit {}.", visits.unwrap_or(0))),
//!         None => state::set(Principal, "name", &turn.user_text())?,
//!     }
//!     Ok(Outcome::Completed)
//! }
//! ```
//!
//! Whose it is, is no argument: it belongs to this agent and to the principal whose run this is, and nobody else sees it.
//! What is written is committed together with what the agent said until then, and never twice, also when the server is
//! killed in the middle. Of runs that write the same key the last one wins; [`update`] and [`replace`] are for values
//! that must not be lost that way.
//!
//! Values are JSON of any type that serde knows. The functions with `bytes` in their names take them as they are.
//!
//! Every function fails with `denied` where the operator has not granted `state` to the agent, and with `not-found`
//! (`no_conversation`) for [`Scope::Conversation`] in a turn that belongs to no conversation; those that write, with
//! `limit` when there would be more than is granted (`state_full`) or a value is too large (`value_too_large`).

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;
use crate::host::state as host;

#[doc(inline)]
pub use host::Scope;

/// The most keys that the server gives at once.
const PAGE: usize = 1_000;

/// The value of a key; none when there is none.
///
/// # Errors
///
/// Those of the module; `invalid` (`invalid_state`) when what is there is no `T`.
pub fn get<T: DeserializeOwned>(scope: Scope, key: &str) -> Result<Option<T>, Failure> {
    read(key, get_bytes(scope, key)?.as_deref())
}

/// Sets the value of a key.
///
/// # Errors
///
/// Those of the module; `invalid_json` when the value cannot be written as JSON.
pub fn set<T: Serialize + ?Sized>(scope: Scope, key: &str, value: &T) -> Result<(), Failure> {
    set_bytes(scope, key, &serde_json::to_vec(value)?)
}

/// Removes a key and its value. One that does not exist is not a failure.
///
/// # Errors
///
/// Those of the module.
pub fn delete(scope: Scope, key: &str) -> Result<(), Failure> {
    Ok(host::delete(scope, key)?)
}

/// Changes the value of a key and returns the new one; none stands for no value. When another run changes it in the
/// same moment, `change` is called again, with what that one wrote.
///
/// # Errors
///
/// Those of the module; `invalid` (`invalid_state`) when what is there is no `T`.
pub fn update<T: Serialize + DeserializeOwned>(
    scope: Scope,
    key: &str,
    mut change: impl FnMut(Option<T>) -> Option<T>,
) -> Result<Option<T>, Failure> {
    loop {
        let before = get_bytes(scope, key)?;
        let after = change(read(key, before.as_deref())?);
        let bytes = after.as_ref().map(serde_json::to_vec).transpose()?;
        if replace_bytes(scope, key, before.as_deref(), bytes.as_deref())? {
            return Ok(after);
        }
    }
}

/// Sets the value of a key, or removes it, if its value is still the `expected` one, byte for byte as JSON; none stands
/// for no value. Returns whether it was. [`update`] is shorter.
///
/// # Errors
///
/// Those of the module; `invalid_json` when a value cannot be written as JSON.
pub fn replace<T: Serialize + ?Sized>(
    scope: Scope,
    key: &str,
    expected: Option<&T>,
    value: Option<&T>,
) -> Result<bool, Failure> {
    let json = |value: Option<&T>| value.map(serde_json::to_vec).transpose();
    replace_bytes(scope, key, json(expected)?.as_deref(), json(value)?.as_deref())
}

/// All keys that begin with `prefix`, in the order of their bytes.
///
/// # Errors
///
/// Those of the module.
pub fn keys(scope: Scope, prefix: &str) -> Result<Vec<String>, Failure> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let page = host::list_keys(scope, prefix, keys.last().map(String::as_str))?;
        let last = page.len() < PAGE;
        keys.extend(page);
        if last {
            return Ok(keys);
        }
    }
}

/// The value of a key, as it is.
///
/// # Errors
///
/// Those of the module.
pub fn get_bytes(scope: Scope, key: &str) -> Result<Option<Vec<u8>>, Failure> {
    Ok(host::get(scope, key)?)
}

/// Sets the value of a key, as it is.
///
/// # Errors
///
/// Those of the module.
pub fn set_bytes(scope: Scope, key: &str, value: &[u8]) -> Result<(), Failure> {
    Ok(host::set(scope, key, value)?)
}

/// The same as [`replace`], with values as they are.
///
/// # Errors
///
/// Those of the module.
pub fn replace_bytes(scope: Scope, key: &str, expected: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool, Failure> {
    Ok(host::replace(scope, key, expected, value)?)
}

fn read<T: DeserializeOwned>(key: &str, bytes: Option<&[u8]>) -> Result<Option<T>, Failure> {
    let wrong = |error| Failure::invalid("invalid_state", format!("the value of {key:?} does not fit: {error}"));
    bytes.map(serde_json::from_slice).transpose().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn what_does_not_fit_is_named() {
        assert_eq!(read::<u64>("k", None), Ok(None));
        assert_eq!(read("k", Some(b"7")), Ok(Some(7_u64)));
        let failure = read::<u64>("visits", Some(b"\"x\"")).unwrap_err();
        assert_eq!(failure.code, "invalid_state");
        assert!(failure.message.contains("\"visits\""), "{failure}");
    }
}
