//! How the client reaches the members: connections shared as a real client process shares them.

use std::time::Duration;

use chaos::members::Members;
use etcd_client::{Client, ConnectOptions};

use crate::Result;

/// Clients that share a connection, at most.
const SHARE: usize = 100;

/// After how long a request counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client for each of `clients`; up to a hundred share a connection, and connections go to the members in turn,
/// the leader first, so that a single client talks to the leader.
pub(crate) async fn clients(members: &Members, clients: usize) -> Result<Vec<Client>> {
    let urls = members.client_urls();
    let leader = members.leader().await.ok_or("the members have no leader")?;
    let connections = clients.div_ceil(SHARE).max(urls.len().min(clients));
    let mut connected = Vec::new();
    for number in 0..connections {
        let options = ConnectOptions::new().with_timeout(PATIENCE);
        connected.push(Client::connect([&urls[(leader + number) % urls.len()]], Some(options)).await?);
    }
    Ok((0..clients).map(|number| connected[number % connections].clone()).collect())
}

/// A client of the member of this number whose requests are given up after `patience`.
pub(crate) async fn impatient(members: &Members, number: usize, patience: Duration) -> Result<Client> {
    let options = ConnectOptions::new().with_timeout(patience);
    Ok(Client::connect([&members.client_urls()[number]], Some(options)).await?)
}
