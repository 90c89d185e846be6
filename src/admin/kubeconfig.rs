//! Kubeconfigs: a cluster, a user and a context in one file, with every certificate inside it.
//!
//! The format is `v1.Config` of kubectl's client library; only what our hosts need is written and read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// How a kubeconfig's user proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A client certificate and its key, PEM.
    Certificate {
        /// The certificate.
        certificate: String,
        /// Its private key.
        key: String,
    },
    /// A bearer token.
    Token(String),
}

/// What a kubeconfig says.
#[derive(Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// URL of the API server or of the balancer in front of it.
    pub endpoint: String,
    /// The authorities that vouch for the endpoint, PEM.
    pub authority: String,
    /// The user's name inside the file.
    pub user: String,
    /// How the user proves who it is.
    pub credential: Credential,
}

impl Kubeconfig {
    /// The file's text. JSON is YAML, but people read kubeconfigs, so it is written as YAML by hand; every value
    /// is quoted as a JSON string, which YAML reads the same way.
    pub fn to_yaml(&self) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        let credential = match &self.credential {
            Credential::Certificate { certificate, key } => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                STANDARD.encode(certificate),
                STANDARD.encode(key)
            ),
            Credential::Token(token) => format!("    token: {}\n", quoted(token)),
        };
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: trireme\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {authority}\nusers:\n- name: {user}\n  user:\n{credential}contexts:\n- name: \
             {context}\n  context:\n    cluster: trireme\n    user: {user}\ncurrent-context: {context}\npreferences: {{}}\n",
            server = quoted(&self.endpoint),
            authority = STANDARD.encode(&self.authority),
            user = quoted(&self.user),
            context = quoted(&format!("{}@trireme", self.user)),
        )
    }

    /// Reads a file that `to_yaml` wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let file: Value = serde_saphyr::from_str(text).ok()?;
        let text = |pointer: &str| file.pointer(pointer).and_then(Value::as_str).map(str::to_string);
        let decoded = |pointer: &str| String::from_utf8(STANDARD.decode(text(pointer)?).ok()?).ok();
        let credential = match text("/users/0/user/token") {
            Some(token) => Credential::Token(token),
            None => Credential::Certificate {
                certificate: decoded("/users/0/user/client-certificate-data")?,
                key: decoded("/users/0/user/client-key-data")?,
            },
        };
        Some(Self {
            endpoint: text("/clusters/0/cluster/server")?,
            authority: decoded("/clusters/0/cluster/certificate-authority-data")?,
            user: text("/users/0/name")?,
            credential,
        })
    }
}

impl std::fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", json!({ "endpoint": self.endpoint, "user": self.user }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let check = |credential: Credential| {
            let written = Kubeconfig {
                endpoint: "https://10.90.0.2:6443".into(),
                authority: "authority".into(),
                user: "system:kube-proxy".into(),
                credential,
            };
            assert!(Kubeconfig::parse(&written.to_yaml()) == Some(written.clone()), "{}", written.to_yaml());
            assert!(!format!("{written:?}").contains("secret"));
        };
        check(Credential::Token("abcdef.secret".into()));
        check(Credential::Certificate { certificate: "c".into(), key: "secret".into() });
    }

    #[test]
    fn anything_else_is_not_a_kubeconfig() {
        assert!(Kubeconfig::parse("").is_none());
        assert!(Kubeconfig::parse("kind: Config\n").is_none());
    }
}
