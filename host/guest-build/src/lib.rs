//! Builds packages of the workspace to components, for the server that embeds them and for the tests.
//!
//! A component is built for another target and with another profile, which stable cargo cannot express as a
//! dependency, so this calls cargo once more, in a target folder of its own: it must not wait for the lock that
//! an outer cargo holds.
//!
//! - [`toolchain`]: the compiler in use, and whether it has the target of components. Where it has not, rustup is asked
//!   to install it.
//! - [`Build`]: the call of cargo.

mod build;
pub mod toolchain;

pub use build::{Build, BuildError};
pub use toolchain::{TARGET, Toolchain, ToolchainError};
