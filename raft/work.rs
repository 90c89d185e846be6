//! Where work runs that must not hold up the async threads: the one seam between the store and its simulator.
//!
//! Keeps true: in a program, a worker is a thread of its own and blocking work goes to tokio's; in a simulation
//! both run in the simulated member, one thing at a time, so that a seed replays exactly, and a crash may come
//! wherever a worker waits. In a program the switches for the simulator's mutants are off at compile time.

use std::io;

/// Runs a loop on a thread of its own. It ends by itself when whoever feeds it is gone.
pub(crate) fn spawn(name: &str, worker: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    #[cfg(test)]
    if turmoil::in_simulation() {
        tokio::spawn(worker);
        return Ok(());
    }
    let run = move || futures::executor::block_on(worker);
    std::thread::Builder::new().name(name.into()).spawn(run).map(|_| ())
}

/// Does what may take long, or wait for a disk or a lock, where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    #[cfg(test)]
    if turmoil::in_simulation() {
        tokio::task::yield_now().await;
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// A place where a simulation lets time pass, and with it crashes and others' work come in.
pub(crate) async fn step() {
    #[cfg(test)]
    if turmoil::in_simulation() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

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
