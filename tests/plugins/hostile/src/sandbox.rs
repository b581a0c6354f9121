//! What can be seen from inside. The text is one line per finding, so that two runs can be compared.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::TcpStream;
use std::time::{Instant, SystemTime};
use std::{env, fs};

use outlast_guest::{Failure, context};

/// Everything that would differ between two runs if the sandbox let it.
pub fn clock() -> String {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let start = Instant::now();
    let words = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
    let order: Vec<_> = words.map(|word| (word, ())).into_iter().collect::<HashMap<_, _>>().into_keys().collect();
    // Each `RandomState` of a thread differs from the one before it: the seed is random, the step is one.
    let random = [(); 2].map(|()| RandomState::new().hash_one(0));
    format!(
        "time {}.{:09}\nelapsed {}ns\nhash order {}\nrandom {random:x?}",
        time.as_secs(),
        time.subsec_nanos(),
        start.elapsed().as_nanos(),
        order.join(" ")
    )
}

/// Who said what in the earlier turns, a line for each message.
pub fn history() -> Result<String, Failure> {
    let history = context::history()?;
    let lines = history
        .iter()
        .filter_map(|item| item.as_message())
        .map(|message| format!("{}: {}", format!("{:?}", message.role).to_lowercase(), message.text()));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Everything that should not be there.
pub fn environment() -> String {
    format!(
        "args {}\nvars {}\nfile {}\nsocket {}",
        env::args().count(),
        env::vars().count(),
        verdict(fs::read_to_string("/etc/passwd").is_ok()),
        verdict(TcpStream::connect("127.0.0.1:22").is_ok())
    )
}

fn verdict(worked: bool) -> &'static str {
    if worked { "worked" } else { "refused" }
}
