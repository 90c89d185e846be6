//! Workers as tasks of a simulated member.
//!
//! Keeps true: a worker takes its turns in the order of what it was sent, each after the time that its disk takes, in
//! which the member may crash.

use super::world::World;
use crate::work::More;
use std::{ops::ControlFlow, time::Duration};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Where a worker's work goes.
pub(crate) enum Sender<T> {
    Thread(std::sync::mpsc::Sender<T>),
    Task(UnboundedSender<T>),
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Thread(sender) => Self::Thread(sender.clone()),
            Self::Task(sender) => Self::Task(sender.clone()),
        }
    }
}

impl<T> Sender<T> {
    /// The error is that the worker has ended.
    pub(crate) fn send(&self, item: T) -> Result<(), ()> {
        match self {
            Self::Thread(sender) => sender.send(item).map_err(drop),
            Self::Task(sender) => sender.send(item).map_err(drop),
        }
    }
}

/// Starts a worker.
pub(crate) fn spawn<T: Send + 'static>(
    name: &'static str,
    mut turn: impl FnMut(T, More<'_, T>) -> ControlFlow<()> + Send + 'static,
) -> Sender<T> {
    let (sender, mut queue) = unbounded_channel();
    let seat = World::current().map_or(0, |world| world.starting.get());
    tokio::spawn(async move {
        while let Some(first) = queue.recv().await {
            tokio::time::sleep(pause(name, seat)).await;
            if turn(first, &mut || queue.try_recv().ok()).is_break() {
                return;
            }
        }
    });
    Sender::Task(sender)
}

/// How long a seat's disk takes for a worker's turn.
fn pause(name: &str, seat: usize) -> Duration {
    let slow = World::current().map(|world| world.slow[seat].get()).unwrap_or_default();
    match name {
        "log" => slow.max(Duration::from_millis(1)),
        "apply" => Duration::ZERO,
        _ => Duration::from_millis(1),
    }
}
