//! Sizes of the configuration as numbers.

use bytesize::ByteSize;

/// A size as a number of bytes that fits into memory.
pub fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}
