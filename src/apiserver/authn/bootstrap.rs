//! Bootstrap tokens: Secrets `bootstrap-token-ID` of kube-system, with which a new node asks for its first
//! certificate. Reads the secret linearizably: a revoked token is refused by every server at once.

use api::Object;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::UserInfo;
use crate::server::Server;

/// Whether the text has the form `ID.SECRET` of a bootstrap token.
pub(crate) fn looks_like(token: &str) -> bool {
    split(token).is_some()
}

fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
    };
    // Upstream's secrets have 16 characters; longer ones carry more entropy and are as good.
    let long = secret.len() > 16 && secret.len() <= 64 && fits(secret, secret.len());
    (fits(id, 6) && (fits(secret, 16) || long)).then_some((id, secret))
}

/// The user of a valid token.
pub(crate) async fn user(server: &Server, token: &str) -> Option<UserInfo> {
    let (id, secret) = split(token)?;
    let secrets = server.resource("", "secrets");
    let object = server.get(&secrets, "kube-system", &format!("bootstrap-token-{id}")).await.ok()?;
    check(&object, id, secret, Timestamp::now())
}

/// The user whom the secret lets in, or `None`.
fn check(object: &Object, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    let data = |key: &str| {
        let encoded = object.map_at("data")?.get(key)?.as_str()?;
        String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()
    };
    let stored = data("token-secret")?;
    // Digests, so that the time taken says nothing about the secret.
    let same = Sha256::digest(&stored) == Sha256::digest(secret) && !stored.is_empty();
    let usable = object.str_at("type") == "bootstrap.kubernetes.io/token"
        && object.deletion_timestamp().is_none()
        && data("token-id")? == id
        && data("usage-bootstrap-authentication").as_deref() == Some("true")
        && !expired(data("expiration"), now);
    if !same || !usable {
        return None;
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').map(str::trim) {
        match group {
            "" => {}
            group if is_bootstrap_group(group) => groups.push(group.to_owned()),
            _ => return None,
        }
    }
    Some(UserInfo::authenticated(format!("system:bootstrap:{id}"), groups))
}

fn expired(expiration: Option<String>, now: Timestamp) -> bool {
    match expiration.as_deref() {
        None | Some("") => false,
        Some(text) => text.parse::<Timestamp>().map_or(true, |end| end <= now),
    }
}

fn is_bootstrap_group(group: &str) -> bool {
    let rest = group.strip_prefix("system:bootstrappers:").unwrap_or_default();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const SECRET: &str = "0123456789abcdef";

    fn secret(change: &[(&str, &str)]) -> Object {
        let mut data = std::collections::BTreeMap::from([
            ("token-id", "abcdef"),
            ("token-secret", SECRET),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
        ]);
        data.extend(change.iter().copied());
        let kind = data.remove("type").unwrap_or("bootstrap.kubernetes.io/token");
        let data: Value =
            data.iter().map(|(k, v)| ((*k).to_owned(), json!(BASE64_STANDARD.encode(v)))).collect();
        let object = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": kind, "data": data});
        Object(object.as_object().unwrap().clone())
    }

    #[test]
    fn secrets_let_in() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let let_in = |change: &[(&str, &str)], wanted: &str| check(&secret(change), "abcdef", wanted, now);
        let user = let_in(&[], SECRET).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:kubeadm:default-node-token",
                "system:authenticated"
            ]
        );
        assert!(let_in(&[("expiration", "2026-11-23T12:00:01Z")], SECRET).is_some());
        assert!(let_in(&[("auth-extra-groups", "")], SECRET).is_some());
        let refused: &[&[(&str, &str)]] = &[
            &[("expiration", "2026-11-23T12:00:00Z")],
            &[("expiration", "nonsense")],
            &[("usage-bootstrap-authentication", "false")],
            &[("type", "Opaque")],
            &[("token-id", "other1")],
            &[("token-secret", "")],
            &[("auth-extra-groups", "system:masters")],
        ];
        for change in refused {
            assert!(let_in(change, SECRET).is_none(), "{change:?}");
        }
        assert!(let_in(&[], "0123456789abcdee").is_none());
    }

    #[test]
    fn forms() {
        for (token, expect) in [
            ("abcdef.0123456789abcdef", true),
            ("abcdef.0123456789abcdef0123456789abcdef", true),
            ("abcdef.0123", false),
            ("ABCDEF.0123456789abcdef", false),
            ("abcdefg.0123456789abcdef", false),
            ("a.b.c", false),
            ("", false),
        ] {
            assert_eq!(looks_like(token), expect, "{token}");
        }
    }
}
