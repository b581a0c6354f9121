//! Signatures of component files.
//!
//! A signature is Ed25519 over the bytes of the file, in a file of its own beside it: `shout.wasm.sig` for `shout.wasm`,
//! one `ed25519:BASE64` a line. One of the signatures must be of one of the keys that are trusted.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::Deserialize;

use crate::refused::Refused;

/// Stands before a key and a signature.
const SCHEME: &str = "ed25519:";
/// What stands before the seed in the PKCS #8 form of a key (RFC 8410).
const PKCS8: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// The largest file of signatures, in bytes.
const SIGNATURE_BYTES: u64 = 4_096;

/// A key whose signatures are trusted: `ed25519:BASE64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicKey([u8; 32]);

/// Which files are trusted.
#[derive(Clone, Debug, Default)]
pub struct Signatures {
    /// Whether a file without a signature is refused.
    pub required: bool,
    /// Whose signatures are trusted. Without any, none are looked at.
    pub trusted: Vec<PublicKey>,
    /// Whether a version may take the place of a later one.
    pub rollback: bool,
}

/// A key that signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl Signatures {
    /// Checks the signature beside a file with these bytes.
    pub(super) async fn check(&self, path: &Path, wasm: &[u8]) -> Result<(), Refused> {
        // Where nobody is trusted, it is not even read.
        if self.trusted.is_empty() && !self.required {
            return Ok(());
        }
        let signature = read_signature(path).await?;
        self.check_text(&signature_path(path).display().to_string(), signature.as_deref(), wasm)
    }

    /// Checks a signature over these bytes; `shown` is where it is, or would be.
    pub(super) fn check_text(&self, shown: &str, text: Option<&str>, wasm: &[u8]) -> Result<(), Refused> {
        if self.trusted.is_empty() && !self.required {
            return Ok(());
        }
        let text = match text {
            Some(text) => text,
            None if !self.required => return Ok(()),
            None => {
                return Err(Refused(format!(
                    "it has no signature, which `require_signature` asks for: there is no {shown} (`outlast plugin sign` \
                     makes one)"
                )));
            }
        };
        let mut signatures = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let signature: Option<[u8; 64]> = decoded(line);
            signatures.push(signature.ok_or_else(|| {
                Refused(format!("its signature {shown} is damaged: every line must be {SCHEME} and 64 bytes in base64"))
            })?);
        }
        let valid = |key: &PublicKey| {
            let key = UnparsedPublicKey::new(&ED25519, key.0);
            signatures.iter().any(|signature| key.verify(wasm, signature).is_ok())
        };
        if self.trusted.iter().any(valid) {
            return Ok(());
        }
        Err(Refused(format!(
            "its signature {shown} is not one of `trusted_keys` over these bytes: the file was changed after it was \
             signed, or somebody else signed it"
        )))
    }
}

/// The signature beside a file, if there is one.
///
/// # Errors
///
/// It cannot be read, or is too large for one.
pub async fn read_signature(file: &Path) -> Result<Option<String>, Refused> {
    let beside = signature_path(file);
    let shown = beside.display();
    let cannot = |error: std::io::Error| Refused(format!("its signature {shown} cannot be read: {error}"));
    match tokio::fs::metadata(&beside).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot(error)),
        Ok(metadata) if !metadata.is_file() || metadata.len() > SIGNATURE_BYTES => {
            Err(Refused(format!("its signature {shown} is not a file of at most {SIGNATURE_BYTES} bytes")))
        }
        Ok(_) => tokio::fs::read_to_string(&beside).await.map(Some).map_err(cannot),
    }
}

/// Where the signature of a file is.
pub fn signature_path(file: &Path) -> PathBuf {
    let mut path = OsString::from(file);
    path.push(".sig");
    path.into()
}

impl SigningKey {
    /// A new key; none when the operating system's random number generator failed.
    pub fn generate() -> Option<Self> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).ok()?;
        Self::from_der([PKCS8, &seed].concat())
    }

    /// A key from its PEM form, PKCS #8, as [`SigningKey::to_pem`] and `openssl genpkey -algorithm ed25519` write it.
    pub fn from_pem(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(BEGIN)?;
        let (body, _) = rest.split_once(END)?;
        let body: String = body.split_whitespace().collect();
        Self::from_der(STANDARD.decode(body).ok()?)
    }

    fn from_der(pkcs8: Vec<u8>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).ok()?;
        Some(Self { pair, pkcs8 })
    }

    /// The key as PEM. It is secret.
    pub fn to_pem(&self) -> String {
        format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(&self.pkcs8))
    }

    /// What goes into `trusted_keys`.
    pub fn public(&self) -> String {
        format!("{SCHEME}{}", STANDARD.encode(self.pair.public_key()))
    }

    /// A line for the file of signatures.
    pub fn sign(&self, bytes: &[u8]) -> String {
        format!("{SCHEME}{}\n", STANDARD.encode(self.pair.sign(bytes)))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a key: {SCHEME} and 32 bytes in base64; `outlast plugin keygen` prints it");
        decoded(&text).map(Self).ok_or_else(wrong)
    }
}

fn decoded<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text.strip_prefix(SCHEME)?).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WASM: &[u8] = b"\0asm and so on";

    /// What a check says of a file with this signature.
    async fn check(required: bool, trusted: &[&SigningKey], signature: Option<&str>) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wasm");
        if let Some(signature) = signature {
            std::fs::write(dir.path().join("x.wasm.sig"), signature).unwrap();
        }
        let trusted = trusted.iter().map(|key| PublicKey::try_from(key.public()).unwrap()).collect();
        Signatures { required, trusted, rollback: false }.check(&path, WASM).await.map_err(|Refused(why)| why)
    }

    #[tokio::test]
    async fn a_signature_of_a_trusted_key_is_accepted() {
        let (one, two) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        assert_eq!(check(true, &[&one, &two], Some(&two.sign(WASM))).await, Ok(()));
        let both = format!("{}\n{}", one.sign(WASM), two.sign(WASM));
        assert_eq!(check(true, &[&two], Some(&both)).await, Ok(()), "keys are exchanged with two signatures");
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let (one, two) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        for (signature, words) in [
            (None, "require_signature"),
            (Some(two.sign(WASM)), "trusted_keys"),
            (Some(one.sign(b"\0asm and other")), "trusted_keys"),
            (Some(String::new()), "trusted_keys"),
            (Some("ed25519:AAAA".to_owned()), "damaged"),
            (Some("x".repeat(5_000)), "at most"),
        ] {
            let why = check(true, &[&one], signature.as_deref()).await.unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[tokio::test]
    async fn a_bad_signature_is_refused_also_where_none_is_needed() {
        let (one, two) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        assert_eq!(check(false, &[&one], None).await, Ok(()));
        assert!(check(false, &[&one], Some(&two.sign(WASM))).await.is_err());
        assert_eq!(check(false, &[], Some("nonsense")).await, Ok(()), "nobody is trusted: none are looked at");
    }

    #[test]
    fn a_key_has_two_forms() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(&format!("a comment\n{}", key.to_pem())).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(SigningKey::from_pem("no key").is_none());
        // RFC 8410, 10.3, made by another program.
        let foreign = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                       -----END PRIVATE KEY-----\n";
        let foreign = SigningKey::from_pem(foreign).unwrap();
        assert_eq!(foreign.public(), "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
        assert!(!format!("{key:?}").contains(&key.to_pem()[30..60]));
    }
}
