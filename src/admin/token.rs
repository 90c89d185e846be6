//! The bootstrap token with which a new kubelet asks for its certificate.
//!
//! Format as Kubernetes documents it: `ID.SECRET`, six and sixteen characters of `a-z0-9`. It lies in the shared
//! folder, readable by its owner only; the cluster knows it as Secret `bootstrap-token-ID` in kube-system.

use std::path::Path;

use rand::Rng;

use crate::Error;
use crate::files::{self, Mode};

/// A bootstrap token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({}.…)", self.id)
    }
}

impl Token {
    /// The token in `shared/bootstrap-token`, made when there is none.
    pub fn ensure(shared: &Path) -> Result<Self, Error> {
        let path = shared.join("bootstrap-token");
        if let Some(text) = files::read(&path)? {
            return Self::parse(text.trim()).ok_or(Error::Malformed { path, expected: "a bootstrap token" });
        }
        let token = Self { id: random(6), secret: random(16) };
        files::write(&path, &format!("{}\n", token.text()), Mode::Secret)?;
        Ok(token)
    }

    /// Reads `ID.SECRET`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        let plain = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let valid = id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret);
        valid.then(|| Self { id: id.into(), secret: secret.into() })
    }

    /// `ID.SECRET`, as it stands in a kubeconfig.
    pub fn text(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The Secret that makes the cluster accept the token.
    pub fn manifest(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: bootstrap-token-{id}\n  namespace: kube-system\n\
             type: bootstrap.kubernetes.io/token\nstringData:\n  token-id: \"{id}\"\n  token-secret: \"{secret}\"\n  \
             usage-bootstrap-authentication: \"true\"\n  usage-bootstrap-signing: \"true\"\n  auth-extra-groups: \
             system:bootstrappers:kubeadm:default-node-token\n",
            id = self.id,
            secret = self.secret,
        )
    }
}

fn random(length: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut source = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[source.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_form_is_a_token() {
        let check = |text: &str, valid: bool| assert_eq!(Token::parse(text).is_some(), valid, "{text}");
        check("abcdef.0123456789abcdef", true);
        check("abcde.0123456789abcdef", false);
        check("abcdef.0123456789abcde", false);
        check("ABCDEF.0123456789abcdef", false);
        check("abcdef0123456789abcdef", false);
        check("", false);
    }

    #[test]
    fn made_once_and_kept_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let first = Token::ensure(folder.path()).unwrap();
        assert_eq!(Token::ensure(folder.path()).unwrap(), first);
        assert!(!format!("{first:?}").contains(&first.secret));
    }
}
