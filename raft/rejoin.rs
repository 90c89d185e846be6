//! What a member asks the others before it takes part: where its place is, whether it was there before, and, when
//! its data was lost, to be given a new place.
//!
//! Keeps true: a member without the memory of its votes and confirmations never answers under the number that made
//! them; the number it gets instead is new, and it has no data when it takes it; what is left of the old data is set
//! aside only when the group has agreed. Nothing here forms a group. What the group does is `members.rs`.

use crate::{
    backup,
    error::Error,
    flags::Config,
    identity::{self, Identity},
    local::Local,
    network::{self, Listed, Refusal, Replacement, Reply, Roster, Transport},
};
use std::{collections::BTreeSet, io, path::Path, time::Duration};
use tokio::time::{Instant, sleep};

/// How long all other members are waited for before the first start goes on with those that answer.
const JOIN: Duration = Duration::from_secs(5);
/// How long a majority of the others may take to agree on a replacement.
const REPLACE: Duration = Duration::from_secs(30);
/// How often a member that waits for the group asks whether it is still waited for.
const LOOK: Duration = Duration::from_secs(1);
/// Pause between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(100);

/// What the others know of a member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// Nobody has formed a group.
    NoGroup,
    /// There is a group, which waits for it.
    Awaited,
    /// It was there before, or somebody else is in its place now.
    Known,
}

/// The peer URLs of the others, as the flags have them.
fn others(config: &Config) -> BTreeSet<String> {
    let own = config.own_urls();
    let urls = config.initial.values().flat_map(|peer| &peer.urls);
    urls.filter(|url| !own.contains(url)).cloned().collect()
}

/// Who has this member's place.
fn holder<'a>(config: &Config, roster: &'a Roster) -> Option<&'a Listed> {
    let own = config.own_urls();
    roster.members.iter().find(|member| member.urls.iter().any(|url| own.contains(url)))
}

/// Where else members are.
fn more<'a>(config: &Config, roster: &'a Roster) -> impl Iterator<Item = String> + 'a {
    let own = config.own_urls();
    let urls = roster.members.iter().flat_map(|member| member.urls.clone());
    urls.filter(move |url| !own.contains(url))
}

/// The cluster and the number of a member that was added, from whoever leads: others may not have heard of it yet, or
/// know who was there before.
pub(crate) async fn place(config: &Config, transport: &Transport) -> Result<(u64, u64), Error> {
    let mut others = others(config);
    let start = Instant::now();
    loop {
        for url in others.clone() {
            match network::roster(transport, &url).await {
                Ok(roster) => match holder(config, &roster) {
                    Some(this) if roster.certain => return Ok((roster.cluster, this.id)),
                    _ => others.extend(more(config, &roster)),
                },
                Err(error) => tracing::debug!(url, %error, "waiting for a member"),
            }
        }
        if start.elapsed() > JOIN {
            return Err(Error::NotAdded { urls: config.own_urls() });
        }
        sleep(PAUSE).await;
    }
}

/// Watches over a member that waits for its first word from the group: returns when whoever leads says that its place
/// is another's, or nobody's. A member with a word from the group is told by itself.
pub(crate) async fn forgotten(config: &Config, transport: &Transport, local: &Local) -> Error {
    let path = || config.flags.data_dir.clone();
    let mut others = others(config);
    while local.membership().nodes().next().is_none() {
        sleep(LOOK).await;
        for url in others.clone() {
            let Ok(roster) = network::roster(transport, &url).await else { continue };
            others.extend(more(config, &roster));
            match holder(config, &roster).map(|this| this.id) {
                _ if !roster.certain || roster.cluster != config.cluster => {}
                None => return Error::Removed { path: path() },
                Some(id) if id != config.id => {
                    return Error::AlreadyBootstrapped { name: config.flags.name.clone(), path: path() };
                }
                Some(_) => {}
            }
        }
    }
    std::future::pending().await
}

/// Asks the others until all answered, or the time is over and at least one did (alone there is nobody to ask). A
/// restored member is not taken for another one that was there before if they know it by its own `instance`.
pub(crate) async fn standing(config: &Config, transport: &Transport, instance: Option<u64>) -> Standing {
    let others = others(config);
    let mut answered = BTreeSet::new();
    let mut group = false;
    let start = Instant::now();
    while answered.len() < others.len() && (answered.is_empty() || start.elapsed() < JOIN) {
        for url in &others {
            let roster = match network::roster(transport, url).await {
                Ok(roster) => roster,
                Err(error) => {
                    tracing::debug!(url, %error, "waiting for a member");
                    continue;
                }
            };
            if roster.cluster != config.cluster {
                tracing::warn!(url, "cluster ID mismatch: is --initial-cluster or its token another there?");
                continue;
            }
            group |= !roster.members.is_empty();
            match holder(config, &roster) {
                // Who lags behind knows who was there before.
                Some(this) if this.id != config.id && !roster.certain => continue,
                Some(this) if this.id != config.id => return Standing::Known,
                Some(this) if this.instance.is_some_and(|at| Some(at) != instance) => {
                    return Standing::Known;
                }
                _ => _ = answered.insert(url),
            }
        }
        sleep(PAUSE / 2).await;
    }
    if group { Standing::Awaited } else { Standing::NoGroup }
}

/// Has the group give a new number to a member whose data was lost, and makes the empty directory of that number. The
/// error says why that cannot be.
pub(crate) async fn replace(config: &Config) -> io::Result<()> {
    let transport = Transport::new(config.peer_tls.clone()).map_err(io::Error::other)?;
    let own = config.own_urls();
    let id = config.new_number(&own);
    let mut others = others(config);
    if others.is_empty() {
        return Err(io::Error::other("there are no other members"));
    }
    let mut why = io::Error::other("no other member answers");
    let start = Instant::now();
    while start.elapsed() < REPLACE {
        for url in others.clone() {
            match ask(config, &transport, &url, id).await {
                Ok(Asked::Done(cluster)) => return begin_again(config, cluster, id),
                Ok(Asked::Refused(reason, urls)) => {
                    others.extend(urls);
                    why = io::Error::other(reason);
                }
                Err(error) => tracing::debug!(url, %error, "waiting for a member"),
            }
        }
        sleep(PAUSE).await;
    }
    Err(why)
}

enum Asked {
    /// It is done, in this cluster.
    Done(u64),
    /// Why not, and where else members are.
    Refused(String, Vec<String>),
}

async fn ask(config: &Config, transport: &Transport, url: &str, id: u64) -> io::Result<Asked> {
    let roster = network::roster(transport, url).await?;
    let urls = more(config, &roster).collect();
    if !config.joins() && roster.cluster != config.cluster {
        return Ok(Asked::Refused("the others are of another cluster".into(), Vec::new()));
    }
    let Some(this) = holder(config, &roster) else {
        return Ok(Asked::Refused("the others know no member at this one's URLs".into(), urls));
    };
    if this.id == id {
        return Ok(Asked::Done(roster.cluster));
    }
    let wanted = Replacement { cluster: roster.cluster, old: this.id, id, urls: this.urls.clone() };
    match network::replace(transport, url, wanted).await? {
        Reply::Done => Ok(Asked::Done(roster.cluster)),
        Reply::Refused(Refusal::NotLeader) => Ok(Asked::Refused("the others have no leader".into(), urls)),
        Reply::Refused(Refusal::Failed(reason)) => Ok(Asked::Refused(reason, urls)),
        other => Ok(Asked::Refused(format!("the leader of the others answered {other:?}"), urls)),
    }
}

/// Sets the old data aside and makes the directory of the new number.
fn begin_again(config: &Config, cluster: u64, id: u64) -> io::Result<()> {
    let folder = identity::folder(&config.flags.data_dir);
    let restored = backup::restored(config)?;
    let aside = identity::set_aside(&folder)?;
    identity::write(&folder, &Identity::new(cluster, id, config.id))?;
    restored.map_or(Ok(()), |restored| restored.write(&folder))?;
    let aside = aside.as_deref().map(Path::display).map(tracing::field::display);
    tracing::warn!(
        member = format!("{id:x}"),
        aside,
        "this member comes back as a new one, without its old data"
    );
    Ok(())
}
