//! Too much of something: time, stack, memory, output.
//!
//! `black_box` keeps the optimizer from seeing that nothing comes of the work.

use std::hint::black_box;
use std::time::Duration;

use outlast_guest::{Failure, log, respond, tasks};

pub fn spin() {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

pub fn overflow() {
    black_box(recurse(black_box(0)));
}

/// Keeps nothing in linear memory, so that the engine's stack runs out and not the component's own; works
/// on the result, so that the call cannot become a jump.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    if depth == u64::MAX {
        return depth;
    }
    recurse(depth + 1).rotate_left(1) ^ depth
}

pub fn grow(mib: usize) {
    let mut taken = Vec::new();
    while taken.len() < mib {
        // Not zero: every page is written.
        taken.push(black_box(vec![1u8; 1024 * 1024]));
    }
    black_box(&taken);
    respond::text("ok");
}

pub fn grow_and_hold(mib: usize, ms: usize) -> Result<(), Failure> {
    let taken: Vec<_> = (0..mib).map(|_| black_box(vec![1u8; 1024 * 1024])).collect();
    respond::text("ok");
    sleep(ms)?;
    black_box(&taken);
    Ok(())
}

fn compute(rounds: usize) {
    let mut number = 1u64;
    for round in 0..rounds as u64 * 1_000_000 {
        number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round));
    }
}

fn sleep(ms: usize) -> Result<(), Failure> {
    tasks::sleep(Duration::from_millis(ms as u64))
}

pub fn laps(count: usize, rounds: usize, ms: usize) -> Result<(), Failure> {
    let mut message = respond::Message::open();
    for _ in 0..count {
        compute(rounds);
        message.write("x");
        sleep(ms)?;
    }
    message.finish();
    Ok(())
}

pub fn compute_once(rounds: usize, naps: usize, ms: usize) -> Result<(), Failure> {
    compute(rounds);
    for _ in 0..naps {
        sleep(ms)?;
    }
    respond::text("done");
    Ok(())
}

pub fn timers(count: usize) -> Result<(), Failure> {
    let mut timers: Vec<_> = (0..count).map(|n| tasks::after(Duration::from_millis(n as u64 % 500))).collect();
    while !timers.is_empty() {
        let mut ended = tasks::wait_any(&timers)?;
        ended.sort_unstable();
        for place in ended.into_iter().rev() {
            timers.swap_remove(place);
        }
    }
    respond::text(&count.to_string());
    Ok(())
}

pub fn leak(count: usize) {
    let held: Vec<_> = (0..count).map(|_| tasks::after(Duration::from_secs(3_600))).collect();
    black_box(&held);
    respond::text("ok");
}

pub fn write(times: usize, text: &str) {
    let mut message = respond::Message::open();
    for _ in 0..times {
        message.write(text);
    }
    message.finish();
}

pub fn messages(count: usize) {
    for _ in 0..count {
        respond::Message::open().finish();
    }
}

pub fn print(lines: usize) {
    for n in 0..lines {
        println!("stdout line {n}");
        eprintln!("stderr line {n}");
    }
}

pub fn log(lines: usize, bytes: usize) {
    let line = "x".repeat(bytes);
    for _ in 0..lines {
        log::info!("{line}");
    }
}
