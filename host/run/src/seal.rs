//! Sealing what clients carry for the server.
//!
//! The content of a `compaction` item, and that of a `reasoning` item whose client asks for it, is the server's, and the
//! client keeps it: it must not be read, changed or made by anybody else. It is encrypted and authenticated (AES-256-GCM),
//! with a key that is kept in the database, so that it can be opened after a restart, and bound to its principal, so that
//! nobody else can use it. The same key seals what the database keeps and nobody may read there: the secrets of webhooks.
//!
//! The nonce of a compaction is random. That of reasoning is made of what is sealed: a run that is executed again must
//! say the same bytes.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use outlast_store::{Store, StoreError};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use serde_json::{Map, Value, json};

use super::request::StoredRequest;

/// What a request asks with `include` for reasoning to be sealed.
const INCLUDE: &str = "reasoning.encrypted_content";
/// The name of the key in the database.
const SECRET: &str = "compaction";
/// The first byte of what is sealed: how it is to be read.
const VERSION: u8 = 1;

/// Seals and opens.
#[derive(Clone, Debug)]
pub struct Seal {
    key: LessSafeKey,
    nonces: hmac::Key,
    random: SystemRandom,
}

/// Seals the reasoning of one run.
#[derive(Clone, Debug)]
pub struct ReasoningSeal {
    seal: Seal,
    principal: String,
}

impl ReasoningSeal {
    /// For a request with these fields, if it asks for that.
    pub fn asked(seal: &Seal, principal: &str, fields: &Map<String, Value>) -> Option<Self> {
        let include = fields.get("include").and_then(Value::as_array)?;
        let asked = include.iter().any(|what| what == INCLUDE);
        asked.then(|| Self { seal: seal.clone(), principal: principal.to_owned() })
    }

    /// The same for a request as it is stored.
    pub(super) fn stored(seal: &Seal, principal: &str, request: &str) -> Option<Self> {
        if !request.contains(INCLUDE) {
            return None;
        }
        let request = StoredRequest::read(request).ok()?.into_request(None, None);
        Self::asked(seal, principal, &request.fields)
    }

    /// Seals the text of an item.
    pub fn seal(&self, item: &str, text: &str) -> Option<String> {
        let content = json!({"id": item, "text": text}).to_string();
        let aad = format!("outlast reasoning\n{}", self.principal);
        let mut nonce = hmac::Context::with_key(&self.seal.nonces);
        nonce.update(aad.as_bytes());
        nonce.update(content.as_bytes());
        let nonce = *nonce.sign().as_ref().first_chunk()?;
        self.seal.close(nonce, aad, content.into_bytes()).ok()
    }
}

/// The system has no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random number generator failed")]
pub struct NoRandomness;

impl Seal {
    /// The seal of the server that owns this database. The key is made at the first start.
    pub async fn of(store: &Store) -> Result<Self, StoreError> {
        let random = SystemRandom::new();
        let mut new = [0; 32];
        random.fill(&mut new).map_err(|_| StoreError::Damaged(NoRandomness.to_string()))?;
        let secret = store.secret(SECRET, &new).await?;
        Self::new(&secret).ok_or_else(|| StoreError::Damaged(format!("the secret `{SECRET}` must have 32 bytes")))
    }

    fn new(secret: &[u8]) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).ok()?);
        let nonces = hmac::Key::new(hmac::HMAC_SHA256, &[b"outlast nonces\n", secret].concat());
        Some(Self { key, nonces, random: SystemRandom::new() })
    }

    /// Seals items for a principal.
    pub fn seal(&self, principal: &str, items: &[Value]) -> Result<String, NoRandomness> {
        // Strings, numbers and lists: they always serialize.
        let content = serde_json::to_vec(items).unwrap_or_default();
        self.close(self.random()?, aad(principal), content)
    }

    fn close(&self, nonce: [u8; NONCE_LEN], aad: String, mut content: Vec<u8>) -> Result<String, NoRandomness> {
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut content)
            .map_err(|_| NoRandomness)?;
        let sealed: Vec<u8> = std::iter::once(VERSION).chain(nonce).chain(content).collect();
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens what was sealed for a principal; none when it was not, or not by this server.
    pub fn open(&self, principal: &str, sealed: &str) -> Option<Vec<Value>> {
        serde_json::from_slice(&self.opened(aad(principal), sealed)?).ok()
    }

    /// Opens the reasoning of an item.
    pub fn open_reasoning(&self, principal: &str, sealed: &str) -> Option<String> {
        let content: Value =
            serde_json::from_slice(&self.opened(format!("outlast reasoning\n{principal}"), sealed)?).ok()?;
        content["text"].as_str().map(str::to_owned)
    }

    /// Seals what is kept in the database and must not be read there. `place` is where it stands, and nowhere else can it be
    /// opened.
    pub(super) fn seal_secret(&self, place: &str, content: Vec<u8>) -> Result<String, NoRandomness> {
        self.close(self.random()?, format!("outlast secret\n{place}"), content)
    }

    /// Opens what was sealed for this place.
    pub(super) fn open_secret(&self, place: &str, sealed: &str) -> Option<Vec<u8>> {
        self.opened(format!("outlast secret\n{place}"), sealed)
    }

    /// Random bytes.
    pub(super) fn random<const LENGTH: usize>(&self) -> Result<[u8; LENGTH], NoRandomness> {
        let mut bytes = [0; LENGTH];
        self.random.fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(bytes)
    }

    fn opened(&self, aad: String, sealed: &str) -> Option<Vec<u8>> {
        let mut sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (version, rest) = sealed.split_first_mut()?;
        let (nonce, content) = rest.split_first_chunk_mut::<NONCE_LEN>().filter(|_| *version == VERSION)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.key.open_in_place(nonce, Aad::from(aad), content).ok().map(|content| content.to_vec())
    }
}

fn aad(principal: &str) -> String {
    format!("outlast compaction\n{principal}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seal(byte: u8) -> Seal {
        Seal::new(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_secret_is_opened_at_its_place_alone() {
        let sealed = seal(1).seal_secret("a", b"hush".to_vec()).unwrap();
        assert_eq!(seal(1).open_secret("a", &sealed).as_deref(), Some(&b"hush"[..]));
        assert_eq!(seal(1).open_secret("b", &sealed), None);
        assert_eq!(seal(2).open_secret("a", &sealed), None);
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
    fn reasoning_is_sealed_the_same_again_and_for_its_principal() {
        let fields = json!({"include": ["reasoning.encrypted_content"]});
        let of = |principal: &str| ReasoningSeal::asked(&seal(1), principal, fields.as_object().unwrap()).unwrap();
        let sealed = of("ann").seal("rs_1", "hm").unwrap();
        assert_eq!(of("ann").seal("rs_1", "hm").unwrap(), sealed);
        assert_ne!(of("ann").seal("rs_2", "hm").unwrap(), sealed);
        assert_eq!(seal(1).open_reasoning("ann", &sealed).as_deref(), Some("hm"));
        assert_eq!(seal(1).open_reasoning("bob", &sealed), None);
        assert_eq!(seal(1).open("ann", &sealed), None, "it is no compaction");
        assert!(ReasoningSeal::asked(&seal(1), "ann", &Map::new()).is_none());
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
