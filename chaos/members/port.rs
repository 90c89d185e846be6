//! Ports that stay free for a member that is down: below the range from which the kernel takes ports for outgoing
//! connections, different ones for every process that asks at the same time.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

/// The first port, and how many follow; the kernel's own range begins at 32768.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// How far apart two processes with neighbouring pids begin.
const STRIDE: u32 = 64;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 that nobody listens on and that this process has not given out yet.
pub(super) fn free() -> Result<u16> {
    let base = std::process::id().wrapping_mul(STRIDE);
    for _ in 0..COUNT {
        let offset = base.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).unwrap_or(u16::MAX);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    let hint = format!("all ports from {FIRST} to {} are taken", FIRST + COUNT);
    Err(Error::Late { what: "a free port on 127.0.0.1".into(), seconds: 0, hint })
}
