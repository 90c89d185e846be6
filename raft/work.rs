//! Where work runs that must not hold up the async threads: the one seam between the store and its simulator.
//!
//! Keeps true: in a program, a worker is a thread of its own, work that may block goes to tokio's threads, and the
//! mutants' switches are off at compile time. In a simulation all of it runs in the simulated member, one thing at a
//! time, so that a seed replays exactly. What is done is left to the callers.

use std::{io, ops::ControlFlow, sync::mpsc::channel, thread, time::SystemTime};
use tokio::{sync::mpsc, task};

/// Whether a mutant of the simulator is to misbehave here: never, in a program.
#[cfg(not(test))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}

#[cfg(test)]
macro_rules! mutant {
    ($name:ident) => {
        crate::sim::mutant::is(crate::sim::mutant::Mutant::$name)
    };
}

pub(crate) use mutant;

#[cfg(test)]
use crate::sim::work as simulated;
#[cfg(test)]
pub(crate) use simulated::Sender;
#[cfg(not(test))]
pub(crate) use std::sync::mpsc::Sender;

/// What else is in line for a worker; nothing if it would have to wait.
pub(crate) type More<'a, T> = &'a mut dyn FnMut() -> Option<T>;

/// Starts a worker. It takes its turn whenever something is in line, until it breaks off or nobody can send any more.
pub(crate) fn spawn<T: Send + 'static>(
    name: &'static str,
    mut turn: impl FnMut(T, More<'_, T>) -> ControlFlow<()> + Send + 'static,
) -> io::Result<Sender<T>> {
    #[cfg(test)]
    if turmoil::in_simulation() {
        return Ok(simulated::spawn(name, turn));
    }
    let (sender, queue) = channel();
    let run = move || {
        while let Ok(first) = queue.recv() {
            if turn(first, &mut || queue.try_recv().ok()).is_break() {
                return;
            }
        }
    };
    thread::Builder::new().name(name.into()).spawn(run)?;
    #[cfg(test)]
    let sender = Sender::Thread(sender);
    Ok(sender)
}

/// Starts something on a thread of its own that ends by itself.
pub(crate) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    #[cfg(test)]
    if turmoil::in_simulation() {
        task::spawn(async { work() });
        return Ok(());
    }
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// Puts something into a channel of bounded length, from a thread that may wait. `false` when nobody takes it any more.
pub(crate) fn send<T>(channel: &mpsc::Sender<T>, item: T) -> bool {
    #[cfg(test)]
    if turmoil::in_simulation() {
        let sent = channel.try_send(item);
        assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))), "simulated states are small");
        return sent.is_ok();
    }
    channel.blocking_send(item).is_ok()
}

/// Does what may take long, or wait for a disk or a lock, where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    #[cfg(test)]
    if turmoil::in_simulation() {
        task::yield_now().await;
        return Ok(work());
    }
    task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Does on this thread what may wait for a disk for a moment.
pub(crate) fn here<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(test)]
    if turmoil::in_simulation() {
        return work();
    }
    task::block_in_place(work)
}

/// The time of day.
pub(crate) fn clock() -> SystemTime {
    #[cfg(test)]
    if turmoil::in_simulation() {
        return SystemTime::UNIX_EPOCH + turmoil::sim_elapsed().unwrap_or_default();
    }
    SystemTime::now()
}
