//! What a component keeps for its run alone: the scope `run` of the interface `state`.

use std::{collections::BTreeMap, sync::Arc};

use super::port::{STATE_ENTRY, StateError};
use crate::meter::{Held, Meter};

/// The most keys of one answer.
pub(crate) const PAGE: usize = 1_000;

/// What is kept for the run alone.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) values: BTreeMap<String, Vec<u8>>,
    bytes: usize,
    held: Held,
}

impl Scratch {
    pub(crate) fn new(meter: &Arc<Meter>) -> Self {
        Self { values: BTreeMap::new(), bytes: 0, held: meter.hold(0) }
    }

    pub(crate) fn apply(&mut self, key: String, value: Option<Vec<u8>>) {
        self.bytes = self.after(&key, value.as_deref());
        self.held.resize(self.bytes);
        match value {
            Some(value) => self.values.insert(key, value),
            None => self.values.remove(&key),
        };
    }

    /// How much there would be with this.
    pub(crate) fn after(&self, key: &str, value: Option<&[u8]>) -> usize {
        let size = |value: &[u8]| key.len() + value.len() + STATE_ENTRY as usize;
        let before = self.values.get(key).map_or(0, |value| size(value));
        self.bytes - before + value.map_or(0, size)
    }

    pub(crate) fn change(
        &mut self,
        key: &str,
        expected: Option<Option<&[u8]>>,
        value: Option<&[u8]>,
        most: usize,
    ) -> Result<bool, StateError> {
        if expected.is_some_and(|expected| expected != self.values.get(key).map(Vec::as_slice)) {
            return Ok(false);
        }
        let after = self.after(key, value);
        if after > self.bytes && after > most {
            return Err(StateError::Full { used: after, most });
        }
        self.apply(key.to_owned(), value.map(<[u8]>::to_vec));
        Ok(true)
    }

    pub(crate) fn keys(&self, prefix: &str, after: &str) -> Vec<String> {
        let keys = self.values.keys().filter(|key| key.starts_with(prefix) && key.as_str() > after);
        keys.take(PAGE).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_the_run_is_counted() {
        let meter = Arc::<Meter>::default();
        let mut scratch = Scratch::new(&meter);
        let most = 2 * (1 + 10 + STATE_ENTRY as usize);
        assert!(scratch.change("a", None, Some(&[0; 10]), most).unwrap());
        assert!(scratch.change("b", None, Some(&[0; 10]), most).unwrap());
        let full = scratch.change("b", None, Some(&[0; 11]), most).unwrap_err();
        assert!(matches!(full, StateError::Full { used, .. } if used == most + 1));
        assert!(scratch.change("b", None, Some(&[0; 9]), 0).unwrap(), "less is always right");
        assert!(!scratch.change("a", Some(None), Some(&[1]), most).unwrap());
        assert!(scratch.change("a", Some(Some(&[0; 10])), None, most).unwrap());
        assert_eq!(scratch.keys("", ""), ["b"]);
        assert!(scratch.keys("", "b").is_empty() && scratch.keys("c", "").is_empty());
        scratch.apply("b".to_owned(), None);
        assert_eq!((scratch.bytes, meter.used().memory), (0, most as u64));
    }
}
