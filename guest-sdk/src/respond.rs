//! What the agent says to the client.
//!
//! The server makes the protocol's events of it: ids, indexes and numbers are its own, so an agent cannot
//! write an ill-formed stream. What is written is committed before a client sees it. A call may wait when
//! the client or the database is slower than the agent.
//!
//! ```
//! use outlast_guest::{Failure, respond, tasks};
//! use std::fmt::Write;
//! use std::time::Duration;
//!
//! fn count_down() -> Result<(), Failure> {
//!     let mut message = respond::Message::open();
//!     for n in (1..=3).rev() {
//!         write!(message, "{n}… ")?;
//!         tasks::sleep(Duration::from_secs(1))?;
//!     }
//!     message.write("now");
//!     message.finish();
//!     Ok(())
//! }
//! # let run = outlast_guest::mock::Mock::new().call(count_down);
//! # assert_eq!(run.text(), "3… 2… 1… now");
//! ```
//!
//! A message that is not finished, because `?` left the function for example, is closed when it goes out of
//! scope, and the client sees it as `incomplete`.

use std::fmt;

use crate::Usage;
use crate::host::respond as host;

/// Says one whole message.
pub fn text(text: &str) {
    let mut message = Message::open();
    message.write(text);
    message.finish();
}

/// Hands a function call to the client and returns the call id that its `function_call_output` will carry
/// in a later turn. `arguments` is JSON text.
pub fn call_function(name: &str, arguments: &str) -> String {
    host::call_function(name, arguments)
}

/// Adds to the usage of this response. The sum of all calls is shown with the final response.
pub fn report_usage(usage: Usage) {
    host::report_usage(usage);
}

/// A message item of the assistant, open for writing.
///
/// `write!` works on it; each `write!` is one delta, however many pieces its format has.
#[derive(Debug)]
#[must_use = "a message that is dropped without `finish` is incomplete"]
pub struct Message(host::Message);

impl Message {
    /// Opens a new message at the end of the output. The client sees the new item.
    pub fn open() -> Self {
        Self(host::Message::new())
    }

    /// Adds text. The client receives it as one delta, exactly as written. Empty text is nothing.
    pub fn write(&mut self, text: &str) {
        self.0.write(text);
    }

    /// Adds to a refusal: the model's own words on why it does not answer. Empty text is nothing.
    pub fn refuse(&mut self, text: &str) {
        self.0.refuse(text);
    }

    /// Closes the message as `completed`.
    pub fn finish(self) {
        self.0.finish();
    }
}

impl fmt::Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text);
        Ok(())
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> fmt::Result {
        self.write_str(&fmt::format(text))
    }
}

/// A reasoning item, open for writing: a summary of the thoughts behind the answer.
#[derive(Debug)]
#[must_use = "a reasoning item that is dropped without `finish` is incomplete"]
pub struct Reasoning(host::Reasoning);

impl Reasoning {
    /// Opens a new reasoning item at the end of the output.
    pub fn open() -> Self {
        Self(host::Reasoning::new())
    }

    /// Adds text to the summary. Empty text is nothing.
    pub fn write(&mut self, summary: &str) {
        self.0.write(summary);
    }

    /// Closes the item as `completed`.
    pub fn finish(self) {
        self.0.finish();
    }
}

impl fmt::Write for Reasoning {
    fn write_str(&mut self, summary: &str) -> fmt::Result {
        self.write(summary);
        Ok(())
    }

    fn write_fmt(&mut self, summary: fmt::Arguments<'_>) -> fmt::Result {
        self.write_str(&fmt::format(summary))
    }
}
