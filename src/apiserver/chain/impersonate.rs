//! Impersonation: a user who may acts as somebody else, as named in the request's headers.

use super::authorize;
use crate::{
    authn::UserInfo,
    request::{RequestInfo, decode},
    server::Server,
};
use api::status::Status;
use http::HeaderMap;

const EXTRA: &str = "impersonate-extra-";

/// The user a request acts as.
pub(super) async fn user(server: &Server, user: UserInfo, headers: &HeaderMap) -> api::Result<UserInfo> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_string).collect()
    };
    let (names, groups, uids) = (all("impersonate-user"), all("impersonate-group"), all("impersonate-uid"));
    let extras: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix(EXTRA)?, value.to_str().ok()?)))
        .map(|(key, value)| (decode(key, false), value.to_string()))
        .collect();
    let Some(name) = names.first() else {
        if groups.is_empty() && uids.is_empty() && extras.is_empty() {
            return Ok(user);
        }
        return Err(Status::bad_request("requested impersonation without impersonating a user"));
    };
    let mut other = UserInfo { name: name.clone(), uid: String::new(), groups, extra: Default::default() };
    permit_name(server, &user, &mut other).await?;
    for group in &other.groups {
        permit(server, &user, ("", "groups", ""), group).await?;
    }
    if let Some(uid) = uids.first() {
        permit(server, &user, ("authentication.k8s.io", "uids", ""), uid).await?;
        other.uid = uid.clone();
    }
    for (key, value) in extras {
        permit(server, &user, ("authentication.k8s.io", "userextras", &key), &value).await?;
        other.extra.entry(key).or_default().push(value);
    }
    if other.name != "system:anonymous" && !other.groups.iter().any(|g| g == "system:unauthenticated") {
        other.mark_authenticated();
    }
    Ok(other)
}

/// A service account's name brings its groups when none are named.
async fn permit_name(server: &Server, user: &UserInfo, other: &mut UserInfo) -> api::Result<()> {
    let Some((namespace, name)) = crate::authn::split_account(&other.name) else {
        return permit(server, user, ("", "users", ""), &other.name).await;
    };
    let info = RequestInfo {
        verb: "impersonate",
        is_resource: true,
        version: "v1".into(),
        resource: "serviceaccounts".into(),
        namespace: namespace.into(),
        name: name.into(),
        ..RequestInfo::default()
    };
    authorize(server, user, &info).await?;
    if other.groups.is_empty() {
        other.groups = crate::authn::account_groups(namespace);
    }
    Ok(())
}

async fn permit(server: &Server, user: &UserInfo, what: (&str, &str, &str), name: &str) -> api::Result<()> {
    let (group, resource, subresource) = what;
    let info = RequestInfo {
        verb: "impersonate",
        is_resource: true,
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        name: name.into(),
        ..RequestInfo::default()
    };
    authorize(server, user, &info).await
}
