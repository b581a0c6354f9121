//! The contract of `wit/`, as generated Rust.
//!
//! No part of the public interface: it changes with the generator. Only tests that break the rules on
//! purpose call it directly.

#![allow(missing_docs, clippy::all)]

wit_bindgen::generate!({
    world: "agent",
    pub_export_macro: true,
    generate_unused_types: true,
    additional_type_attributes: {
        "outlast:agent/types@0.1.0/usage": [#[derive(Default, PartialEq, Eq)]],
    },
});

/// The world `tool`. What it shares with the world `agent` is the same Rust.
pub mod tool {
    wit_bindgen::generate!({
        world: "tool",
        pub_export_macro: true,
        with: {
            "outlast:agent/types@0.1.0": crate::bindings::outlast::agent::types,
            "outlast:agent/tasks@0.1.0": crate::bindings::outlast::agent::tasks,
            "outlast:agent/http@0.1.0": crate::bindings::outlast::agent::http,
            "outlast:agent/log@0.1.0": crate::bindings::outlast::agent::log,
        },
    });
}
