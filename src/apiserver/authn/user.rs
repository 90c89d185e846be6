//! Who makes a request, as the rest of the server sees it. Nothing here says how it was proved.

use std::collections::BTreeMap;

/// An authenticated (or anonymous) user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserInfo {
    /// The user name, e.g. `kubernetes-admin`, `system:node:w1`, `system:serviceaccount:default:web`.
    pub(crate) name: String,
    /// An identifier that stays with the user when the name is given to somebody else; may be empty.
    pub(crate) uid: String,
    /// Groups, `system:authenticated` or `system:unauthenticated` included.
    pub(crate) groups: Vec<String>,
    /// Facts from the authenticator, e.g. `authentication.kubernetes.io/pod-name`.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// Group of every user that proved who it is.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody else.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Group whose members may do anything, without asking RBAC.
pub(crate) const MASTERS: &str = "system:masters";
/// Group of nodes.
pub(crate) const NODES: &str = "system:nodes";
/// The name of a request without credentials.
pub(crate) const ANONYMOUS: &str = "system:anonymous";

const NODE_PREFIX: &str = "system:node:";
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

impl UserInfo {
    /// A request without credentials.
    pub(crate) fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// A user that proved to have this name and these groups.
    pub(crate) fn authenticated(name: impl Into<String>, groups: Vec<String>) -> Self {
        let mut user = Self { name: name.into(), groups, ..Self::default() };
        user.mark_authenticated();
        user
    }

    /// Adds `system:authenticated`, except to the anonymous user.
    pub(crate) fn mark_authenticated(&mut self) {
        let known = self.in_group(AUTHENTICATED) || self.in_group(UNAUTHENTICATED);
        if !known && self.name != ANONYMOUS {
            self.groups.push(AUTHENTICATED.into());
        }
    }

    /// Whether the user is in the group.
    pub(crate) fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// If this is a node's own identity: the node's name (empty when a member of system:nodes has no node name).
    pub(crate) fn node(&self) -> Option<&str> {
        self.in_group(NODES).then(|| self.name.strip_prefix(NODE_PREFIX).unwrap_or_default())
    }
}

/// The user name of a service account.
pub(crate) fn account_user(namespace: &str, name: &str) -> String {
    format!("{ACCOUNT_PREFIX}{namespace}:{name}")
}

/// The groups of a service account.
pub(crate) fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
}

/// Namespace and name of the service account a user name stands for.
pub(crate) fn split_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_accounts() {
        assert_eq!(split_account("system:serviceaccount:a:b"), Some(("a", "b")));
        assert_eq!(split_account(&account_user("x", "y")), Some(("x", "y")));
        for wrong in
            ["system:serviceaccount:a", "system:serviceaccount::b", "system:serviceaccount:a:b:c", "x"]
        {
            assert_eq!(split_account(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn node_identity() {
        let check = |name: &str, groups: &[&str], expect: Option<&str>| {
            let groups = groups.iter().map(|g| (*g).to_owned()).collect();
            assert_eq!(UserInfo::authenticated(name, groups).node(), expect);
        };
        check("system:node:w1", &["system:nodes"], Some("w1"));
        check("system:node:w1", &[], None);
        check("bob", &["system:nodes"], Some(""));
    }
}
