//! Ports for members that come and go: below the range from which the kernel takes ports for outgoing connections, or
//! another test's connection has it when a member wants it back.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

/// The first port, and how many follow; the kernel's own range begins at 32768.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;
/// How far apart two processes with neighbouring numbers begin.
const STRIDE: u32 = 64;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 that nobody listens on and that this process has not given out lately.
pub(crate) fn free_port() -> u16 {
    let base = std::process::id().wrapping_mul(STRIDE);
    let next = || FIRST + base.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
    let mut ports = std::iter::repeat_with(|| u16::try_from(next()).unwrap()).take(COUNT as usize);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port is free")
}
