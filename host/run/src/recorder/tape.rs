//! Events as they become frames.
//!
//! While a run is executed again, what was recorded before is expected again, byte for byte, and goes nowhere.

use bytes::{Buf as _, Bytes};
use outlast_protocol::{Event, Segment, encode, skip_frames};

#[derive(Debug, Default)]
pub(super) struct Tape {
    /// The number of the next event.
    pub(super) next: u64,
    /// The number of the first event in `frames`.
    pub(super) first: u64,
    /// Frames that were not taken yet.
    pub(super) frames: Vec<u8>,
    /// The frames that were recorded before and are still to come.
    pub(super) recorded: Bytes,
    /// While there are any: all frames that were recorded before, and how many they are.
    pub(super) log: (Bytes, u64),
    /// The first event that was another one than before.
    pub(super) diverged: Option<String>,
}

impl Tape {
    pub(super) fn record(&mut self, event: &Event<'_>) {
        encode(event, self.next, &mut self.frames);
        self.next += 1;
        if self.recorded.is_empty() {
            return;
        }
        if self.recorded.starts_with(&self.frames) {
            self.advance(self.frames.len());
        } else {
            let number = self.next - 1;
            let expected = skip_frames(&self.recorded, 1);
            let (expected, got) = (shown(&self.recorded[..expected]), shown(&self.frames));
            self.diverged.get_or_insert_with(|| format!("diverged at event {number}: expected {expected}, got {got}"));
        }
        self.frames.clear();
        self.first = self.next;
    }

    pub(super) fn skip(&mut self, next: u64) {
        self.advance(skip_frames(&self.recorded, next - self.next));
        self.next = next;
        self.first = next;
    }

    /// So many bytes have come again.
    fn advance(&mut self, bytes: usize) {
        self.recorded.advance(bytes);
        if self.recorded.is_empty() {
            self.recorded = Bytes::new();
            self.log = (Bytes::new(), 0);
        }
    }

    pub(super) fn take(&mut self) -> Option<Segment> {
        if self.frames.is_empty() {
            return None;
        }
        let mut frames = std::mem::take(&mut self.frames);
        // Frames stay in memory while somebody may read them: what they do not need, they do not hold.
        frames.shrink_to_fit();
        let segment = Segment { first: self.first, last: self.next - 1, frames: frames.into() };
        self.first = self.next;
        Some(segment)
    }
}

/// A frame, short enough for a message.
fn shown(frame: &[u8]) -> String {
    let text = String::from_utf8_lossy(frame);
    let data = text.split_once("data: ").map_or(&*text, |(_, data)| data);
    data.trim_end().chars().take(200).collect()
}
