//! Write agents for the Outlast server.
//!
//! An agent is a WebAssembly component. It says what happens next; the server does everything around it:
//! HTTP, streaming to any number of clients, persistence, the upstream models and their keys. This crate is
//! the whole of what an agent needs: implement [`Agent`], name the type in [`agent!`].
//!
//! # A complete agent
//!
//! ```
//! use outlast_guest::{Agent, Failure, Outcome, Turn, respond};
//!
//! struct Shout;
//!
//! impl Agent for Shout {
//!     const NAME: &'static str = "shout";
//!     const ABOUT: &'static str = "Says it again, louder.";
//!
//!     fn run(turn: Turn) -> Result<Outcome, Failure> {
//!         respond::text(&turn.user_text().to_uppercase());
//!         Ok(Outcome::Completed)
//!     }
//! }
//!
//! outlast_guest::agent!(Shout);
//!
//! # let run = outlast_guest::mock::Mock::new().input("hello").run::<Shout>();
//! # assert_eq!(run.text(), "HELLO");
//! ```
//!
//! The crate that holds it is a library that links like a program:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! outlast-guest = "0.1"
//! ```
//!
//! Build it, and put the component where the server looks for plugins:
//!
//! ```sh
//! rustup target add wasm32-wasip2
//! cargo build --release --target wasm32-wasip2
//! mkdir -p plugins && cp target/wasm32-wasip2/release/shout.wasm plugins/
//! outlast serve --plugins plugins
//! ```
//!
//! Clients now reach it as `"model": "shout"`.
//!
//! # What an agent can do
//!
//! | to | use |
//! |---|---|
//! | read the input of this turn | [`Turn`], [`item`] |
//! | read the request, the earlier turns, the configuration | [`context`] |
//! | say something to the client | [`respond`] |
//! | call a language model | [`model`] |
//! | give a model tools, its own and granted ones | [`ToolLoop`], [`tools`] |
//! | send HTTP requests, several in parallel | [`http`] |
//! | know the time, wait for whatever comes first | [`clock`], [`tasks`] |
//! | keep something beyond the run | [`state`] |
//! | tell the operator something | [`log`] |
//! | fail | [`Failure`] |
//!
//! Every function blocks the agent and nothing else: the server sets the instance aside and runs others
//! meanwhile. Write straight-line code.
//!
//! # Tools for all agents
//!
//! A [`ToolComponent`] is a component whose functions any agent may call, where the operator grants it: see there.
//!
//! # The sandbox
//!
//! There are no files, no sockets, no arguments and no environment. Clocks are logical and random numbers
//! are seeded from the response id, so that the same run takes the same path again. What is printed goes to
//! the log of the run. A panic ends the response as `failed`; its text is for the operator's log only.
//!
//! # Testing
//!
//! `cargo test` runs an agent natively, in a [`mock`] of the server with scripted models, HTTP answers, tools and clock.
//! Outside a mock, the functions of [`respond`], [`model`], [`http`], [`tools`], [`context`], [`clock`], [`tasks`],
//! [`state`] and [`log`] panic.
//!
//! `outlast plugin run` and `outlast plugin test` run the component itself, without a server.

mod agent;
#[doc(hidden)]
pub mod bindings;
pub mod clock;
pub mod context;
mod failure;
mod granted;
mod host;
pub mod http;
pub mod item;
pub mod log;
#[cfg(not(target_arch = "wasm32"))]
pub mod mock;
pub mod model;
pub mod respond;
mod schema;
pub mod state;
pub mod tasks;
mod tool_component;
mod tool_loop;
pub mod tools;
mod wants;

pub use agent::{Agent, IncompleteReason, Outcome, Turn};
#[doc(inline)]
pub use bindings::outlast::agent::types::{FailureKind, Usage};
pub use failure::Failure;
pub use item::Item;
pub use schema::schema;
pub use tool_component::ToolComponent;
pub use tool_loop::ToolLoop;
pub use wants::Wants;

// For crates that do not want to depend on them.
#[doc(no_inline)]
pub use {schemars, serde, serde_json};

/// What the expansions of [`agent!`] and [`tool_component!`] refer to.
#[doc(hidden)]
pub mod export {
    pub use crate::agent::{check, describe, run};
    pub use crate::tool_component::{call, check as check_tool, describe as describe_tool};
}

/// Makes a crate the component of one [`Agent`]. Call it once, at the top level.
///
/// The component's version is the crate's own, from `Cargo.toml`. A name, a version or a description that
/// the server would refuse is an error of compilation.
#[macro_export]
macro_rules! agent {
    ($agent:ty) => {
        const _: () = {
            const VERSION: &str = env!("CARGO_PKG_VERSION");
            const _: () = $crate::export::check::<$agent>(VERSION);

            struct Component;

            impl $crate::bindings::Guest for Component {
                fn describe() -> $crate::bindings::Description {
                    $crate::export::describe::<$agent>(VERSION)
                }

                fn run(turn: $crate::bindings::Turn) -> Result<$crate::bindings::Outcome, $crate::bindings::Failure> {
                    $crate::export::run::<$agent>(turn)
                }
            }

    $crate::bindings::export!(Component with_types_in $crate::bindings);
        };
    };
}

/// Makes a crate the component of one [`ToolComponent`]. Call it once, at the top level, in the place of [`agent!`].
///
/// The component's version is the crate's own, from `Cargo.toml`. A name, a version or a description that the server
/// would refuse is an error of compilation.
#[macro_export]
macro_rules! tool_component {
    ($component:ty) => {
        const _: () = {
            const VERSION: &str = env!("CARGO_PKG_VERSION");
            const _: () = $crate::export::check_tool::<$component>(VERSION);

            struct Component;

            impl $crate::bindings::tool::Guest for Component {
                fn describe() -> $crate::bindings::tool::ToolDescription {
                    $crate::export::describe_tool::<$component>(VERSION)
                }

                fn call(
                    name: ::std::string::String,
                    arguments: ::std::string::String,
                ) -> Result<::std::string::String, $crate::bindings::tool::Failure> {
                    $crate::export::call::<$component>(&name, &arguments)
                }
            }

    $crate::bindings::tool::export!(Component with_types_in $crate::bindings::tool);
        };
    };
}
