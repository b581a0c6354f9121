//! Which component may have a name.

use serde::Deserialize;

use super::section::Section;
use crate::refused::Refused;

/// The sha256 of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pin([u8; 32]);

impl Pin {
    /// Whether it is this sha256.
    pub(crate) fn is(self, sha256: [u8; 32]) -> bool {
        self.0 == sha256
    }

    /// Whether it is the sha256 that this section pins.
    pub(crate) fn check(self, section: &Section, sha256: &str) -> Result<(), Refused> {
        let pinned = hex::encode(self.0);
        match pinned == sha256 {
            true => Ok(()),
            false => Err(Refused(format!(
                "its sha256 is {sha256}, and `{}.sha256` in the configuration pins {} to {pinned}",
                section.key(),
                section.whose(),
            ))),
        }
    }
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut digest = [0; 32];
        let wrong = |_| format!("`{text}` is not a sha256: it has 64 hexadecimal digits, as `sha256sum` prints them");
        hex::decode_to_slice(&text, &mut digest).map_err(wrong)?;
        Ok(Self(digest))
    }
}
