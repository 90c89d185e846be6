//! The API through real HTTPS, on the store in memory.

mod common;

use apiserver::store::memory::Memory;
use common::{Api, cases};
use std::sync::Arc;

async fn memory() -> Api {
    Api::start(Arc::new(Memory::new()), &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_live_and_die() {
    cases::objects_live_and_die(memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_the_right_status() {
    cases::bad_input_gets_the_right_status(memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages() {
    cases::lists_come_in_pages(memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permission_is_asked_for() {
    cases::permission_is_asked_for(memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_fences_writes() {
    cases::an_epoch_fences_writes(memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_resource_is_served_like_any_other() {
    cases::a_custom_resource_is_served_like_any_other(memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_every_change() {
    cases::a_watch_tells_every_change(memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_waits_for_finalizers() {
    cases::deletion_waits_for_finalizers(memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_is_scaled_and_reports() {
    cases::a_workload_is_scaled_and_reports(memory().await).await;
}
