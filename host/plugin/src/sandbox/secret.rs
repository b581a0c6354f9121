//! What makes the random numbers and the keys of a run: the same ones whenever the run is executed again, and known to
//! nobody who knows its id.
//!
//! A client, a log and every server that is told an idempotency key know ids. So all of it comes from a secret of the
//! server, by HMAC-SHA256. Only runs that began before servers had such a secret go on with what their ids make, because
//! their journals hold them to it.

use ring::hmac;
use sha2::{Digest as _, Sha256};

/// How much of a code is used as a key, in bytes: enough that none is met twice.
const KEY_BYTES: usize = 16;

/// What makes the random numbers and the keys of one run, or of one call of a tool.
#[derive(Clone)]
pub struct RunSecret(Made);

#[derive(Clone)]
enum Made {
    ById(String),
    BySecret(hmac::Key),
}

impl RunSecret {
    /// Of the run with this id, by the server's secret.
    pub fn new(server: &hmac::Key, id: &str) -> Self {
        Self(Made::BySecret(derived(server, &format!("run {id}"))))
    }

    /// Of a run that began when there was no secret yet, and of what is no run and has nothing to hide.
    pub fn by_id(id: &str) -> Self {
        Self(Made::ById(id.to_owned()))
    }

    /// What its random numbers begin with.
    pub(crate) fn seed(&self) -> [u8; 32] {
        match &self.0 {
            Made::ById(id) => Sha256::digest(id.as_bytes()).into(),
            Made::BySecret(key) => code(key, "random"),
        }
    }

    /// What tells its request or call of this number apart from all others, also when it is made again: 32 hexadecimal
    /// digits.
    pub(crate) fn key(&self, number: u64) -> String {
        match &self.0 {
            Made::ById(id) => format!("{id}-{number}"),
            Made::BySecret(key) => hex::encode(&code(key, &format!("key {number}"))[..KEY_BYTES]),
        }
    }

    /// The secret of its call of a tool of this number. Who knows the call's key knows nothing of it.
    pub(crate) fn of_call(&self, number: u64) -> Self {
        match &self.0 {
            Made::ById(_) => Self::by_id(&self.key(number)),
            Made::BySecret(key) => Self(Made::BySecret(derived(key, &format!("call {number}")))),
        }
    }
}

fn code(key: &hmac::Key, what: &str) -> [u8; 32] {
    let mut code = [0; 32];
    // An HMAC-SHA256 has 32 bytes.
    code.copy_from_slice(hmac::sign(key, what.as_bytes()).as_ref());
    code
}

fn derived(key: &hmac::Key, what: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &code(key, what))
}

impl std::fmt::Debug for RunSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn server(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    #[test]
    fn a_run_has_the_same_numbers_and_keys_again_and_no_other_has_them() {
        let secrets =
            [RunSecret::new(&server(1), "a"), RunSecret::new(&server(1), "b"), RunSecret::new(&server(2), "a")];
        let all: Vec<_> = secrets.iter().flat_map(|it| [it.clone(), it.of_call(1), it.of_call(2)]).collect();
        let seeds: HashSet<_> = all.iter().map(RunSecret::seed).collect();
        let keys: HashSet<_> = all.iter().flat_map(|it| [it.key(1), it.key(2)]).collect();
        assert_eq!((seeds.len(), keys.len()), (9, 18));
        let again = RunSecret::new(&server(1), "a");
        assert_eq!((again.seed(), again.key(7)), (secrets[0].seed(), secrets[0].key(7)));
        assert!(keys.iter().all(|key| key.len() == 32));
    }

    #[test]
    fn a_run_from_before_keeps_what_its_id_makes() {
        let old = RunSecret::by_id("resp_1");
        assert_eq!(old.seed(), <[u8; 32]>::from(Sha256::digest(b"resp_1")));
        assert_eq!((old.key(3), old.of_call(3).key(4)), ("resp_1-3".to_owned(), "resp_1-3-4".to_owned()));
        assert_eq!(old.of_call(3).seed(), <[u8; 32]>::from(Sha256::digest(b"resp_1-3")));
    }
}
