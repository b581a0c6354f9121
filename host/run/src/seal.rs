//! Sealing what clients carry for the server.
//!
//! The content of a `compaction` item is the server's, and the client keeps it: it must not be read, changed or made by
//! anybody else. It is encrypted and authenticated (AES-256-GCM with a random nonce), with a key that is kept in the
//! database, so that it can be opened after a restart, and bound to its principal, so that nobody else can use it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use outlast_store::{Store, StoreError};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use serde_json::Value;

/// The name of the key in the database.
const SECRET: &str = "compaction";
/// The first byte of what is sealed: how it is to be read.
const VERSION: u8 = 1;

/// Seals and opens.
#[derive(Debug)]
pub struct Seal {
    key: LessSafeKey,
    random: SystemRandom,
}

/// The system has no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

impl Seal {
    /// The seal of the server that owns this database. The key is made at the first start.
    pub async fn of(store: &Store) -> Result<Self, StoreError> {
        let random = SystemRandom::new();
        let mut new = [0; 32];
        random.fill(&mut new).map_err(|_| StoreError::Damaged(NoRandomness.to_string()))?;
        let secret = store.secret(SECRET, &new).await?;
        let key = UnboundKey::new(&AES_256_GCM, &secret)
            .map_err(|_| StoreError::Damaged(format!("the secret `{SECRET}` must have 32 bytes")))?;
        Ok(Self { key: LessSafeKey::new(key), random })
    }

    /// Seals items for a principal.
    pub fn seal(&self, principal: &str, items: &[Value]) -> Result<String, NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| NoRandomness)?;
        // Strings, numbers and lists: they always serialize.
        let mut content = serde_json::to_vec(items).unwrap_or_default();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(principal), &mut content)
            .map_err(|_| NoRandomness)?;
        let sealed: Vec<u8> = std::iter::once(VERSION).chain(nonce).chain(content).collect();
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens what was sealed for a principal; none when it was not, or not by this server.
    pub fn open(&self, principal: &str, sealed: &str) -> Option<Vec<Value>> {
        let mut sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (version, rest) = sealed.split_first_mut()?;
        let (nonce, content) = rest.split_first_chunk_mut::<NONCE_LEN>().filter(|_| *version == VERSION)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let content = self.key.open_in_place(nonce, aad(principal), content).ok()?;
        serde_json::from_slice(content).ok()
    }
}

fn aad(principal: &str) -> Aad<String> {
    Aad::from(format!("outlast compaction\n{principal}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seal(byte: u8) -> Seal {
        let key = UnboundKey::new(&AES_256_GCM, &[byte; 32]).unwrap();
        Seal { key: LessSafeKey::new(key), random: SystemRandom::new() }
    }

    #[test]
    fn what_was_sealed_is_opened_by_the_same_key_for_the_same_principal() {
        let items = [json!({"type": "message"}), json!("größer")];
        let sealed = seal(1).seal("ann", &items).unwrap();
        assert_eq!(seal(1).open("ann", &sealed).as_deref(), Some(&items[..]));
        assert_eq!(seal(1).open("bob", &sealed), None);
        assert_eq!(seal(2).open("ann", &sealed), None);
        assert_ne!(seal(1).seal("ann", &items).unwrap(), sealed, "no nonce comes twice");
    }

    #[test]
    fn whatever_was_changed_or_is_no_seal_is_not_opened() {
        let seal = seal(1);
        let sealed = seal.seal("ann", &[json!("secret")]).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(seal.open("ann", &URL_SAFE_NO_PAD.encode(&changed)), None, "{at}");
            assert_eq!(seal.open("ann", &URL_SAFE_NO_PAD.encode(&bytes[..at])), None, "{at}");
        }
        for wrong in ["", "A", "not base64!", "größer"] {
            assert_eq!(seal.open("ann", wrong), None);
        }
    }
}
