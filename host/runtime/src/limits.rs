//! Limits that the configuration can change.
//!
//! The room that keeps to a limit declares it with [`limits!`](crate::limits!): its key, its kind, its default and what may
//! be written. The server has one section `[limits]` for all of them, and reads it with [`Section`]. So a default and a
//! range stand once, and the tables of the documentation are compared with them.

use std::time::Duration;

use bytesize::ByteSize;
#[doc(hidden)]
pub use serde::de::MapAccess;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _},
};

use crate::units::bytes;

/// Maxima of limits, where nothing else sets a smaller one. They are far beyond what a server can hold; what they keep
/// out is a number that overflows somewhere. Here: things of which each takes memory or a file.
pub const MOST_PLACES: usize = 1_000_000;
/// Runs, of which most sleep in the database.
pub const MOST_RUNS: usize = 1_000_000_000;
/// Items of one request or response.
pub const MOST_ITEMS: usize = 1_000_000_000;
/// Events and lines of one run.
pub const MOST_EVENTS: u64 = 1_000_000_000_000;
/// What has to fit into memory, in bytes.
pub const MOST_BYTES: usize = 1 << 40;
/// The memory of an instance, whose addresses have 32 bits, in bytes.
pub const MOST_MEMORY: usize = 4 << 30;
/// The shortest time that is one.
pub const MOMENT: Duration = Duration::from_millis(1);
/// An hour.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// A day.
pub const DAY: Duration = Duration::from_secs(86_400);
/// A year.
pub const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Limits that stand in the section `[limits]`.
pub trait Section {
    /// Each key and what holds for it now, as it is written; none where that depends on something else.
    fn keys(&self) -> Vec<(&'static str, Option<String>)>;

    /// Takes the next value of `map` if `key` is one of these; otherwise false, and the value is still there.
    ///
    /// # Errors
    ///
    /// The value is not one, or is out of its range.
    fn set<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error>;
}

/// How a limit is written.
pub trait Kind {
    /// What it is in Rust.
    type Value: PartialOrd;

    /// Reads one.
    ///
    /// # Errors
    ///
    /// It is none.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self::Value, D::Error>;

    /// As it is written in TOML; none where there is no limit of its own.
    fn written(value: &Self::Value) -> Option<String>;
}

/// A number of bytes: `64KiB`.
#[derive(Debug)]
pub enum Size {}
/// A number of things.
#[derive(Debug)]
pub enum Count {}
/// A number of things that need not fit into memory.
#[derive(Debug)]
pub enum Number {}
/// A time: `30s`.
#[derive(Debug)]
pub enum Time {}
/// One of these, or no limit.
#[derive(Debug)]
pub struct Maybe<K>(K);

impl Kind for Size {
    type Value = usize;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        ByteSize::deserialize(from).map(bytes)
    }

    fn written(value: &usize) -> Option<String> {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fits = |(shift, _): &(u32, &str)| *value >= 1 << shift && value.trailing_zeros() >= *shift;
        let written = units.into_iter().find(fits).map(|(shift, unit)| format!("\"{}{unit}\"", value >> shift));
        Some(written.unwrap_or_else(|| value.to_string()))
    }
}

impl Kind for Count {
    type Value = usize;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        usize::deserialize(from)
    }

    fn written(value: &usize) -> Option<String> {
        Some(value.to_string())
    }
}

impl Kind for Number {
    type Value = u64;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        u64::deserialize(from)
    }

    fn written(value: &u64) -> Option<String> {
        Some(value.to_string())
    }
}

impl Kind for Time {
    type Value = Duration;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        humantime_serde::deserialize(from)
    }

    fn written(value: &Duration) -> Option<String> {
        Some(format!("\"{}\"", humantime::format_duration(*value)))
    }
}

impl<K: Kind> Kind for Maybe<K> {
    type Value = Option<K::Value>;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self::Value, D::Error> {
        K::read(from).map(Some)
    }

    fn written(value: &Self::Value) -> Option<String> {
        value.as_ref().and_then(K::written)
    }
}

/// Reads a value that is at least the first and at most the second.
#[derive(Debug)]
pub struct Within<K: Kind>(pub K::Value, pub K::Value);

impl<'de, K: Kind> DeserializeSeed<'de> for Within<K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<K::Value, D::Error> {
        let Self(least, most) = self;
        let value = K::read(from)?;
        if value < least || value > most {
            let written = |value| K::written(value).unwrap_or_default();
            let (value, least, most) = (written(&value), written(&least), written(&most));
            return Err(D::Error::custom(format_args!("{value} must be {least} to {most}")));
        }
        Ok(value)
    }
}

/// Declares limits: of each its key in `[limits]`, its field, its [`Kind`], its default, and the least and the most that
/// may be written.
///
/// `within` names limits that stand in the same section and are declared elsewhere; `besides`, fields that are no keys.
#[macro_export]
macro_rules! limits {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$doc:meta])* $key:ident => $field:ident: $kind:ty = $default:expr, $least:expr => $most:expr;)*
        }
        $(within { $($(#[$sub_doc:meta])* $sub:ident: $of:ty;)* })?
        $(besides { $($(#[$own_doc:meta])* $own:ident: $own_type:ty = $own_default:expr;)* })?
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name {
            $($(#[$doc])* #[doc = concat!("\n\n`limits.", stringify!($key), "`")]
            pub $field: <$kind as $crate::limits::Kind>::Value,)*
            $($($(#[$sub_doc])* pub $sub: $of,)*)?
            $($($(#[$own_doc])* pub $own: $own_type,)*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    $($($sub: Default::default(),)*)?
                    $($($own: $own_default,)*)?
                }
            }
        }

        impl $crate::limits::Section for $name {
            fn keys(&self) -> Vec<(&'static str, Option<String>)> {
                #[allow(unused_mut)]
                let mut keys =
                    vec![$((stringify!($key), <$kind as $crate::limits::Kind>::written(&self.$field))),*];
                $($(keys.extend($crate::limits::Section::keys(&self.$sub));)*)?
                keys
            }

            fn set<'de, A: $crate::limits::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut A,
            ) -> Result<bool, A::Error> {
                $(if key == stringify!($key) {
                    self.$field = map.next_value_seed($crate::limits::Within::<$kind>($least, $most))?;
                    return Ok(true);
                })*
                $($(if $crate::limits::Section::set(&mut self.$sub, key, map)? {
                    return Ok(true);
                })*)?
                Ok(false)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_written_as_it_is_read() {
        let size = |bytes| Size::written(&bytes).unwrap();
        assert_eq!([size(0), size(1_000), size(1_024)], ["0", "1000", "\"1KiB\""]);
        assert_eq!([size(3 << 20), size((1 << 20) + 1), size(1 << 40)], ["\"3MiB\"", "1048577", "\"1TiB\""]);
        assert_eq!(Time::written(&Duration::from_millis(1_500)).unwrap(), "\"1s 500ms\"");
        assert_eq!(Maybe::<Count>::written(&None), None);
    }

    #[test]
    fn what_is_out_of_range_is_told_with_the_range() {
        let read = |text: &str, least, most| {
            let mut json = serde_json::Deserializer::from_str(text);
            Within::<Size>(least, most).deserialize(&mut json).map_err(|error| error.to_string())
        };
        assert_eq!(read("\"2KiB\"", 1, 2_048), Ok(2_048));
        assert!(read("\"3KiB\"", 1, 2_048).unwrap_err().starts_with("\"3KiB\" must be 1 to \"2KiB\""));
        assert!(read("0", 1, 2_048).unwrap_err().starts_with("0 must be 1 to"));
        assert!(read("\"much\"", 1, 2_048).is_err());
    }
}
