//! The same, on Debian's etcd, over mutual TLS: the store's seam is etcd's own protocol.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use apiserver::store::{Etcd, EtcdConfig};
use common::{Api, cases, input};
use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// An etcd of one member, ended with the test.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
    prefixes: AtomicU32,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        common::certificates(folder.path());
        let (port, peers) = (common::free_port(), common::free_port());
        let at = |name: &str| folder.path().join(name).display().to_string();
        let child = Command::new("etcd")
            .args([
                format!("--data-dir={}", at("data")),
                format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
            ])
            .args([format!("--initial-advertise-peer-urls=http://127.0.0.1:{peers}")])
            .args([format!("--initial-cluster=default=http://127.0.0.1:{peers}")])
            .args([format!("--listen-client-urls=https://127.0.0.1:{port}")])
            .args([format!("--advertise-client-urls=https://127.0.0.1:{port}")])
            .args([
                format!("--cert-file={}", at("apiserver.crt")),
                format!("--key-file={}", at("apiserver.key")),
            ])
            .args([format!("--trusted-ca-file={}", at("ca.crt")), "--client-cert-auth".into()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd must be installed: apt-get install etcd-server");
        Server { child, folder, port, prefixes: AtomicU32::new(0) }
    }

    /// A connection to it, and the flag for a prefix that nothing else uses.
    fn store(&self) -> (Arc<Etcd>, String) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let at = |name: &str| Some(self.folder.path().join(name));
        let config = EtcdConfig {
            endpoints: vec![format!("https://127.0.0.1:{}", self.port)],
            ca_file: at("ca.crt"),
            cert_file: at("admin.crt"),
            key_file: at("admin.key"),
            keep_alive: Some(Duration::from_secs(6)),
        };
        let prefix = format!("--etcd-prefix=/registry{}", self.prefixes.fetch_add(1, Ordering::Relaxed));
        (Arc::new(Etcd::new(config).unwrap()), prefix)
    }

    /// An API server on it.
    async fn api(&self) -> Api {
        let (store, prefix) = self.store();
        Api::start(store, &[&prefix]).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_runs_on_a_real_etcd() {
    let etcd = Server::start();
    let begun = Instant::now();
    cases::objects_live_and_die(etcd.api().await).await;
    cases::lists_come_in_pages(etcd.api().await).await;
    cases::permission_is_asked_for(etcd.api().await).await;
    cases::an_epoch_fences_writes(etcd.api().await).await;
    cases::a_custom_resource_is_served_like_any_other(etcd.api().await).await;
    cases::a_watch_tells_every_change(etcd.api().await).await;
    cases::deletion_waits_for_finalizers(etcd.api().await).await;
    cases::a_workload_is_scaled_and_reports(etcd.api().await).await;
    assert!(begun.elapsed() < Duration::from_secs(120));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_there_as_well() {
    let etcd = Server::start();
    input::bad_queries(etcd.api().await).await;
    input::bad_names(etcd.api().await).await;
    let (store, prefix) = etcd.store();
    input::expired_revisions(store, &[&prefix]).await;
}
