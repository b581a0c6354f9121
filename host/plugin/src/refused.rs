//! Why a component is not served, in words for the operator.

use outlast_runtime::text;

/// Why a component is not served, in a sentence for the operator. It may quote the component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", text::line(.0))]
pub struct Refused(pub String);

/// Something in a description is wrong.
pub(crate) fn wrong(what: &str) -> Refused {
    Refused(format!("its description is not valid: {what}"))
}

/// That a member has this character in it, which is not shown.
pub(crate) fn hidden_in(member: &str, character: char) -> String {
    format!(
        "`{member}` contains the character U+{:04X}; control characters, line breaks, and characters without a width \
         or that change the direction of writing are not allowed",
        u32::from(character)
    )
}
