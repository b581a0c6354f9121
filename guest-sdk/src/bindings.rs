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
