//! Ids of responses and of the items in them.

use std::fmt;

use uuid::Uuid;

/// The id of a response, and of its run: `resp_` and 32 lower-case hexadecimal digits.
///
/// The digits are a version 7 UUID: rows made one after the other lie side by side in the database, and 74
/// random bits keep an id from being guessed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseId(String);

impl ResponseId {
    /// The id for `uuid`.
    pub fn new(uuid: Uuid) -> Self {
        Self(format!("resp_{}", uuid.simple()))
    }

    /// Reads an id that a client or the database gave; none when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("resp_")?;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (digits.len() == 32 && digits.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    /// The id as it stands in JSON and SQL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of something that belongs to this response: `prefix_`, this response's digits and `index`.
    ///
    /// It is a function of its arguments, so that a run which is executed again makes the same ids.
    pub fn child(&self, prefix: &str, index: usize) -> String {
        format!("{prefix}_{}{index:04x}", &self.0["resp_".len()..])
    }
}

impl ResponseId {
    /// The id of an input item of this response.
    pub fn input_child(&self, prefix: &str, index: usize) -> String {
        self.child(&format!("{prefix}_in"), index)
    }

    /// The response that an id of an item tells of; none when its item was named by somebody else.
    pub fn of_child(id: &str) -> Option<Self> {
        let digits = id.rsplit_once('_')?.1;
        Self::parse(&format!("resp_{}", digits.get(..32)?))
    }
}

impl fmt::Display for ResponseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_anything_else_is_not() {
        let id = ResponseId::new(Uuid::from_u128(7));
        assert_eq!(ResponseId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(id.child("msg", 3), "msg_000000000000000000000000000000070003");
        assert_eq!(ResponseId::of_child(&id.child("msg", 3)), Some(id.clone()));
        assert_eq!(ResponseId::of_child(&id.input_child("msg", 3)), Some(id));
        assert_eq!(ResponseId::of_child("msg_mine"), None);
        for wrong in [
            "",
            "resp_",
            "resp_../../etc",
            "msg_00000000000000000000000000000007",
            "resp_0000000000000000000000000000000G",
        ] {
            assert_eq!(ResponseId::parse(wrong), None, "{wrong}");
        }
    }
}
