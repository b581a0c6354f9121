//! This program once more, as a process that something is compared with, or that the server needs.
//!
//! A process of its own, so that its processor time is not the server's.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::harness::{
    process::{self, Signal},
    scratch,
};

/// The process. It ends with this value.
#[derive(Debug)]
pub struct Peer {
    process: Child,
    address: String,
    _dir: TempDir,
}

impl Peer {
    /// Starts this program with `argument`, and a file of `frames` as its value.
    pub fn start(argument: &str, frames: &[u8]) -> Self {
        let dir = scratch::dir("peer-");
        let path = dir.path().join("frames");
        std::fs::write(&path, frames).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(argument).arg(path).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = process::spawn(command, Signal::KILL).unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { process, address: address.trim().to_owned(), _dir: dir }
    }

    /// Where it listens: the first line that it writes.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        process::signal(&self.process, Signal::KILL);
        let _ = self.process.wait();
    }
}
