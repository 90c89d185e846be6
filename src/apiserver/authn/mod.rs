//! Who makes a request: front-proxy headers, client certificate, bearer token, or nobody (anonymous).
//!
//! Keeps true: a user comes only from something that was verified on this request (certificate chain,
//! signature, secret); no credential is ever logged or put into an error. What the user may do is `authz`'s.
//! Impersonation happens in the chain, after this and by permission of the authorizer.

mod account;
mod bearer;
mod bootstrap;
mod certificate;
mod front_proxy;
pub(crate) mod keys;
pub(crate) mod openid;
mod user;

use std::sync::{Arc, Weak};

use api::status::Status;
use http::{HeaderMap, header::AUTHORIZATION, request::Parts};
use serve::Peer;

pub(crate) use keys::Keys;
#[cfg(test)]
pub(crate) use user::ANONYMOUS;
pub(crate) use user::{MASTERS, UserInfo, account_groups, account_user, split_account};

use crate::flags::Config;
use crate::server::Server;

/// Why the authenticator cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate file.
    #[error("cannot set up the authentication of clients")]
    Files(#[from] serve::Error),
    /// A file with service-account keys.
    #[error(
        "{path} holds no usable service-account key: expected a PEM file with an ECDSA (P-256, P-384) or RSA key, PKCS#8 if private"
    )]
    Key {
        /// The file.
        path: String,
        /// The library's reason.
        source: jsonwebtoken::errors::Error,
    },
    /// Both CA files vouch for the same: everybody with a client certificate could pose as anybody.
    #[error(
        "--requestheader-client-ca-file and --client-ca-file must not hold the same CA: give the front proxies a CA of their own"
    )]
    SameCa,
}

/// A bearer token that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) user: UserInfo,
    /// The audiences it is good for, among those asked for.
    pub(crate) audiences: Vec<String>,
}

/// Finds out who makes a request.
pub(crate) struct Authenticator {
    /// Weak, because the server owns its authenticator.
    server: Weak<Server>,
    clients: Option<certificate::Ca>,
    proxies: Option<front_proxy::FrontProxy>,
    tokens: account::Accounts,
    audiences: Vec<String>,
    bootstrap_tokens: bool,
    anonymous: bool,
}

impl Authenticator {
    /// Reads the CA and key files named by the configuration.
    pub(crate) fn new(config: &Config, server: &Arc<Server>) -> Result<Self, Error> {
        let flags = &config.flags;
        let clients = flags.client_ca_file.as_deref().map(certificate::Ca::new).transpose()?;
        let proxies = front_proxy::FrontProxy::new(flags)?;
        if let (Some(clients), Some(proxies)) = (&clients, &proxies)
            && clients.shares_a_root_with(proxies.ca())
        {
            return Err(Error::SameCa);
        }
        Ok(Self {
            server: Arc::downgrade(server),
            clients,
            proxies,
            tokens: account::Accounts::new(Arc::new(Keys::new(flags)?), flags.service_account_issuer.clone()),
            audiences: config.audiences.clone(),
            bootstrap_tokens: flags.enable_bootstrap_token_auth,
            anonymous: flags.anonymous_auth,
        })
    }

    /// The service-account keys.
    pub(crate) fn keys(&self) -> &Arc<Keys> {
        self.tokens.keys()
    }

    /// The user of a request, or 401.
    pub(crate) async fn authenticate(&self, parts: &Parts) -> api::Result<UserInfo> {
        let peer = parts.extensions.get::<Peer>();
        if let Some(user) = self.proxies.as_ref().and_then(|proxies| proxies.user(peer, &parts.headers)) {
            return Ok(user);
        }
        if let Some(user) = peer.and_then(|peer| self.by_certificate(peer)) {
            return Ok(user);
        }
        match bearer::token(&parts.headers) {
            bearer::Header::Token(token) => {
                let accepted = self.review(token, &self.audiences).await;
                accepted.map(|accepted| accepted.user).map_err(|_| Status::unauthorized())
            }
            bearer::Header::Absent if self.anonymous && !has_certificate(peer) => Ok(UserInfo::anonymous()),
            bearer::Header::Absent | bearer::Header::Unusable => Err(Status::unauthorized()),
        }
    }

    /// Removes what only authentication may see: credentials, and a front proxy's word, believed or not.
    pub(crate) fn forget_credentials(&self, headers: &mut HeaderMap) {
        headers.remove(AUTHORIZATION);
        if let Some(proxies) = &self.proxies {
            proxies.strip(headers);
        }
    }

    /// Who a bearer token stands for, if it is good for one of the audiences. The error says why not, for
    /// TokenReview; it never holds the token.
    pub(crate) async fn review(&self, token: &str, audiences: &[String]) -> Result<Accepted, String> {
        let server = self.server.upgrade().ok_or("the server is stopping")?;
        if bootstrap::looks_like(token) {
            if !self.bootstrap_tokens {
                return Err("bootstrap tokens are not enabled".into());
            }
            let audiences = audiences.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
            let user = bootstrap::user(&server, token).await.ok_or("invalid bootstrap token")?;
            return Ok(Accepted { user, audiences });
        }
        self.tokens.user(&server, token, audiences).await
    }

    fn by_certificate(&self, peer: &Peer) -> Option<UserInfo> {
        let identity = peer.identity()?;
        let trusted = self.clients.as_ref()?.trusts(&peer.certificates);
        (trusted && !identity.common_name.is_empty()).then(|| {
            let mut user =
                UserInfo::authenticated(identity.common_name.clone(), identity.organizations.clone());
            let id = certificate::fingerprint(&peer.certificates[0]);
            user.extra.insert(
                "authentication.kubernetes.io/credential-id".into(),
                vec![format!("X509SHA256={id}")],
            );
            user
        })
    }
}

fn has_certificate(peer: Option<&Peer>) -> bool {
    peer.is_some_and(|peer| !peer.certificates.is_empty())
}
