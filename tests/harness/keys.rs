//! API keys for tests: the key of `name` is `key-name`.

use sha2::{Digest as _, Sha256};

use super::{client::Client, server::Server};

/// The lines of a configuration that make a key for the principal `name`.
pub fn entry(name: &str) -> String {
    let digest = hex::encode(Sha256::digest(format!("key-{name}")));
    format!("[[keys]]\nname = \"{name}\"\nsha256 = \"{digest}\"")
}

/// A client with the key of `name`.
pub fn client(server: &Server, name: &str) -> Client {
    server.client().with_key(&format!("key-{name}"))
}
