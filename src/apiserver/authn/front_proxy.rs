//! Users whom a front proxy vouches for by headers. The headers of anybody else mean nothing.

use std::collections::BTreeMap;

use http::HeaderMap;
use serve::Peer;

use super::{Error, UserInfo, certificate::Ca};
use crate::flags::Flags;
use crate::request::decode;

/// The front proxies we believe.
pub(crate) struct FrontProxy {
    ca: Ca,
    names: Vec<String>,
    headers: Headers,
}

/// Which headers carry what.
struct Headers {
    user: Vec<String>,
    groups: Vec<String>,
    extra_prefixes: Vec<String>,
}

impl FrontProxy {
    /// `None` when no CA for front proxies is configured.
    pub(crate) fn new(flags: &Flags) -> Result<Option<Self>, Error> {
        let Some(path) = &flags.requestheader_client_ca_file else { return Ok(None) };
        Ok(Some(Self {
            ca: Ca::new(path)?,
            names: flags.requestheader_allowed_names.clone(),
            headers: Headers {
                user: flags.requestheader_username_headers.clone(),
                groups: flags.requestheader_group_headers.clone(),
                extra_prefixes: flags.requestheader_extra_headers_prefix.clone(),
            },
        }))
    }

    /// Their CA.
    pub(crate) fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The user named in the headers, if the peer is a front proxy.
    pub(crate) fn user(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Option<UserInfo> {
        let name = self.headers.first(headers, &self.headers.user)?;
        let peer = peer?;
        let common_name = &peer.identity()?.common_name;
        let believed = self.names.is_empty() || self.names.contains(common_name);
        (believed && self.ca.trusts(&peer.certificates)).then(|| self.headers.user(name, headers))
    }
}

impl FrontProxy {
    /// Removes the headers that a front proxy may set.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        let own = |name: &str| {
            let Headers { user, groups, extra_prefixes } = &self.headers;
            user.iter().chain(groups).any(|own| own.eq_ignore_ascii_case(name))
                || extra_prefixes.iter().any(|prefix| name.starts_with(&prefix.to_lowercase()))
        };
        let names: Vec<_> = headers.keys().filter(|name| own(name.as_str())).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

impl Headers {
    fn first(&self, headers: &HeaderMap, names: &[String]) -> Option<String> {
        names.iter().find_map(|name| values(headers, name).next())
    }

    fn user(&self, name: String, headers: &HeaderMap) -> UserInfo {
        let groups = self.groups.iter().flat_map(|name| values(headers, name)).collect();
        let mut user = UserInfo::authenticated(name, groups);
        user.extra = self.extra(headers);
        user
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in headers.keys() {
            let key = self.extra_prefixes.iter().find_map(|p| name.as_str().strip_prefix(&p.to_lowercase()));
            if let Some(key) = key {
                extra.entry(decode(key, false)).or_default().extend(values(headers, name.as_str()));
            }
        }
        extra
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = String> + use<'a> {
    let texts = headers.get_all(name.to_lowercase()).into_iter();
    texts.filter_map(|value| value.to_str().ok()).filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_in_headers() {
        let names = Headers {
            user: vec!["X-Remote-User".into()],
            groups: vec!["X-Remote-Group".into()],
            extra_prefixes: vec!["X-Remote-Extra-".into()],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "alice"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-example.org%2fteam", "blue"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let name = names.first(&headers, &names.user).unwrap();
        let user = names.user(name, &headers);
        assert_eq!(user.name, "alice");
        assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(user.extra["example.org/team"], ["blue"]);
    }
}
