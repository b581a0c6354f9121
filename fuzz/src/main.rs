//! One target with libFuzzer: `OUTLAST_FUZZ` names it.

#![no_main]

use std::{env, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use outlast_fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = env::var("OUTLAST_FUZZ").unwrap_or_default();
    let found = TARGETS.into_iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("OUTLAST_FUZZ={name} names no target")).1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
