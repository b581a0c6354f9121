//! The agents that come with the server.

/// The agents that come with the server: name and component.
pub const BUNDLED: [(&str, &[u8]); 2] =
    [("echo", include_bytes!(env!("BUNDLED_ECHO_WASM"))), ("chat", include_bytes!(env!("BUNDLED_CHAT_WASM")))];

/// Whether an agent comes with the server.
pub(crate) fn is_bundled(name: &str) -> bool {
    BUNDLED.iter().any(|(bundled, _)| *bundled == name)
}
