//! The configuration of a tool component: what the test says.

pub(crate) fn get() -> String {
    super::context::config()
}
