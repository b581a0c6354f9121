//! What comes from outside, as bytes that nobody would send.
//!
//! A target takes bytes and panics when something does not hold. `fuzz/run` builds all of them with libFuzzer, which looks
//! for bytes that take another way through the code. The seeds in `fuzz/seeds` are run by `cargo test`, so what has been
//! found once stays mended.

#![deny(unsafe_code)]

mod conversation;
mod fold;
mod journal;
mod recorder;
mod request;
mod upstream;

/// What is done with bytes.
pub type Target = fn(&[u8]);

/// Every target, by its name.
pub const TARGETS: [(&str, Target); 6] = [
    ("conversation", conversation::target),
    ("fold", fold::target),
    ("journal", journal::target),
    ("recorder", recorder::target),
    ("request", request::target),
    ("upstream", upstream::target),
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::TARGETS;

    #[test]
    fn every_seed_passes() {
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
            let seeds: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(!seeds.is_empty(), "{name} has no seeds");
            for seed in seeds {
                target(&fs::read(&seed).unwrap());
            }
        }
    }
}
