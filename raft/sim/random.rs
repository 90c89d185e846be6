//! Where a simulation's randomness comes from: everything that asks the operating system for some.
//!
//! Keeps true: a thread that has been given a seed gets the same bytes in the same order each time; all other
//! threads get the system's. Hash maps, tokio's choice among ready branches, openraft's election timeouts and the
//! `rand` crates all draw from here in the end, so a thread of a fresh process repeats itself exactly.

use std::{
    cell::Cell,
    ffi::{c_uint, c_void},
    fs::File,
    io::Read,
};

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's randomness follows from a seed.
pub(super) fn seed(seed: u64) {
    STATE.set(Some(seed));
}

/// The next number of a sequence (splitmix64).
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut number = *state;
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Takes the place of the C library's function in this test program.
///
/// # Safety
/// As the C library's: `buffer` must be valid for `length` bytes.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _: c_uint) -> isize {
    // SAFETY: the caller vouches for the buffer.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    let read = isize::try_from(length).unwrap_or(-1);
    let Ok(Some(mut state)) = STATE.try_with(Cell::get) else {
        let filled = File::open("/dev/urandom").and_then(|mut system| system.read_exact(bytes));
        return filled.map_or(-1, |()| read);
    };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next(&mut state).to_le_bytes()[..chunk.len()]);
    }
    STATE.set(Some(state));
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_again() {
        let drawn = || {
            let thread = std::thread::spawn(|| {
                seed(7);
                let map = std::collections::HashMap::from([(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
                (rand::random::<u64>(), map.into_keys().collect::<Vec<_>>())
            });
            thread.join().unwrap()
        };
        assert_eq!(drawn(), drawn());
    }
}
