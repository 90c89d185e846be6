//! The API through real HTTPS, on the store in memory.

mod common;

use apiserver::store::memory::Memory;
use common::{Api, cases, input};
use std::sync::Arc;

async fn memory() -> Api {
    Api::start(Arc::new(Memory::new()), &[]).await
}

/// A test of its own for each case.
macro_rules! cases {
    ($($file:ident::$name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $file::$name(memory().await).await;
        }
    )*};
}

cases! {
    cases::objects_live_and_die,
    cases::lists_come_in_pages,
    cases::permission_is_asked_for,
    cases::an_epoch_fences_writes,
    cases::a_custom_resource_is_served_like_any_other,
    cases::a_watch_tells_every_change,
    cases::deletion_waits_for_finalizers,
    cases::a_workload_is_scaled_and_reports,
    input::bad_bodies,
    input::bad_names,
    input::bad_queries,
    input::bad_paths_and_types,
    input::bad_subresources,
    input::unknown_and_duplicate_fields,
    input::path_tricks,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_revisions() {
    input::expired_revisions(Arc::new(Memory::new()), &[]).await;
}
