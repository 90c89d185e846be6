//! The kubelet's identity: TLS bootstrap with a token, renewal of the client certificate, and the serving
//! certificate by signing request. Keeps true: keys are made here, never leave the machine, and lie in files
//! of mode 0600; a file is replaced as a whole. Approving is the controller manager's.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use kube::{Api, api::PostParams, config::Kubeconfig};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{Config, Error, error::Result};

/// How often a pending request is looked at.
const POLL: Duration = Duration::from_millis(250);
/// Between two tries to get a certificate.
const RETRY: Duration = Duration::from_secs(2);

/// A certificate's purpose.
struct Purpose {
    signer: &'static str,
    usage: &'static str,
    file: &'static str,
}

const CLIENT: Purpose = Purpose {
    signer: "kubernetes.io/kube-apiserver-client-kubelet",
    usage: "client auth",
    file: "kubelet-client",
};
const SERVING: Purpose =
    Purpose { signer: "kubernetes.io/kubelet-serving", usage: "server auth", file: "kubelet-server" };

impl Purpose {
    fn current(&self, config: &Config) -> PathBuf {
        config.certs.join(format!("{}-current.pem", self.file))
    }
}

/// The file with the serving certificate and its key.
#[must_use]
pub(crate) fn serving_file(config: &Config) -> PathBuf {
    SERVING.current(config)
}

/// Makes sure that the kubeconfig exists and its certificate is valid; bootstraps otherwise.
///
/// # Errors
/// When there is neither a usable kubeconfig nor a bootstrap kubeconfig, or `stop` comes first.
pub(crate) async fn bootstrap(config: &Config, stop: &CancellationToken) -> Result<()> {
    let current = CLIENT.current(config);
    let managed = current.exists();
    if config.kubeconfig.exists()
        && (!managed || lifetime(&current).is_ok_and(|(_, end)| end > Timestamp::now()))
    {
        return Ok(());
    }
    let Some(from) = &config.bootstrap_kubeconfig else {
        let path = config.kubeconfig.display();
        return Err(Error::Config(format!(
            "--kubeconfig {path} does not exist or has expired, and there is no --bootstrap-kubeconfig to make it"
        )));
    };
    loop {
        match bootstrap_once(config, from).await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::warn!(error = error.chain(), "TLS bootstrap failed, trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return Err(Error::Config("stopped before TLS bootstrap was done".into())),
        }
    }
}

async fn bootstrap_once(config: &Config, from: &Path) -> Result<()> {
    let client = client::connect(from, "kubelet").await;
    let client = client.map_err(|error| Error::Client { path: from.to_owned(), source: error.into() })?;
    request(config, &client.kube(), &CLIENT, Vec::new()).await?;
    write_kubeconfig(config, from)
}

/// The kubeconfig that points at the current certificate, with the cluster of the bootstrap kubeconfig.
fn write_kubeconfig(config: &Config, from: &Path) -> Result<()> {
    let read = Kubeconfig::read_from(from)
        .map_err(|error| Error::Client { path: from.to_owned(), source: error.into() })?;
    let context = read.current_context.as_deref().unwrap_or_default();
    let used = read.contexts.iter().find(|one| one.name == context).and_then(|one| one.context.as_ref());
    let cluster = read.clusters.iter().find(|one| used.is_none_or(|used| used.cluster == one.name));
    let Some(cluster) = cluster.and_then(|one| one.cluster.as_ref()) else {
        return Err(Error::Config(format!("{}: the current context has no cluster", from.display())));
    };
    let certificate = CLIENT.current(config);
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "contexts": [{"name": "default-context", "context": {"cluster": "default-cluster", "namespace": "default", "user": "default-auth"}}],
        "current-context": "default-context",
        "users": [{"name": "default-auth", "user": {"client-certificate": certificate, "client-key": certificate}}],
    });
    // JSON is YAML.
    let text = serde_json::to_string_pretty(&value).map_err(Error::certificate("write the kubeconfig"))?;
    write_private(&config.kubeconfig, text.as_bytes())
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("make directory", parent))?;
    }
    let fresh = path.with_extension("tmp");
    let _ = fs::remove_file(&fresh);
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh);
    let mut file = opened.map_err(Error::file("write", &fresh))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::file("write", &fresh))?;
    fs::rename(&fresh, path).map_err(Error::file("rename", &fresh))
}

/// Asks for a certificate, waits for it and makes it the current one.
async fn request(config: &Config, kube: &kube::Client, purpose: &Purpose, names: Vec<String>) -> Result<()> {
    let key = KeyPair::generate().map_err(Error::certificate("generate a key"))?;
    let pem =
        signing_request(&config.node, names, &key).map_err(Error::certificate("make a signing request"))?;
    let wanted = CertificateSigningRequest {
        metadata: kube::api::ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: purpose.signer.into(),
            usages: Some(vec!["digital signature".into(), purpose.usage.into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let api: Api<CertificateSigningRequest> = Api::all(kube.clone());
    let made = api
        .create(&PostParams::default(), &wanted)
        .await
        .map_err(Error::api("create a CertificateSigningRequest"))?;
    let name = made.metadata.name.unwrap_or_default();
    let certificate = tokio::time::timeout(Duration::from_secs(900), signed(&api, &name)).await;
    let certificate = certificate.map_err(|_| refused(&name, "nobody approved it within 15 minutes"))??;
    let mut pair = certificate;
    pair.extend_from_slice(key.serialize_pem().as_bytes());
    let stamp = Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S").to_string();
    let file = config.certs.join(format!("{}-{stamp}.pem", purpose.file));
    write_private(&file, &pair)?;
    link(&file, &purpose.current(config))
}

fn link(file: &Path, current: &Path) -> Result<()> {
    let fresh = current.with_extension("tmp");
    let _ = fs::remove_file(&fresh);
    symlink(file.file_name().unwrap_or_default(), &fresh).map_err(Error::file("link", &fresh))?;
    fs::rename(&fresh, current).map_err(Error::file("rename", &fresh))
}

fn signing_request(
    node: &str,
    names: Vec<String>,
    key: &KeyPair,
) -> std::result::Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, format!("system:node:{node}"));
    params.distinguished_name = subject;
    params.serialize_request(key)?.pem()
}

fn refused(name: &str, why: &str) -> Error {
    Error::Certificate {
        action: format!("certificate signing request {name} was not granted"),
        source: why.into(),
    }
}

async fn signed(api: &Api<CertificateSigningRequest>, name: &str) -> Result<Vec<u8>> {
    loop {
        let request =
            api.get(name).await.map_err(Error::api(format!("get CertificateSigningRequest {name}")))?;
        let status = request.status.unwrap_or_default();
        if let Some(certificate) = status.certificate.filter(|certificate| !certificate.0.is_empty()) {
            return Ok(certificate.0);
        }
        let bad = status
            .conditions
            .into_iter()
            .flatten()
            .find(|one| one.type_ == "Denied" || one.type_ == "Failed");
        if let Some(bad) = bad {
            return Err(refused(name, &bad.message.unwrap_or(bad.type_)));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// From when to when a certificate is valid.
fn lifetime(path: &Path) -> Result<(Timestamp, Timestamp)> {
    let chain = serve::pem::certs(path).map_err(Error::certificate(format!("read {}", path.display())))?;
    let first =
        chain.first().ok_or_else(|| refused(&path.display().to_string(), "the file has no certificate"))?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(first).map_err(Error::certificate("parse a certificate"))?;
    let at = |seconds: i64| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    let validity = parsed.validity();
    Ok((at(validity.not_before.timestamp()), at(validity.not_after.timestamp())))
}

/// When to renew: after about four fifths of the certificate's life.
fn renewal(path: &Path) -> Option<Timestamp> {
    let (from, to) = lifetime(path).ok()?;
    let life = to.duration_since(from).as_secs();
    Timestamp::from_second(from.as_second() + life / 5 * 4).ok()
}

async fn until(time: Option<Timestamp>) {
    let left =
        time.map(|time| time.duration_since(Timestamp::now())).and_then(|left| Duration::try_from(left).ok());
    tokio::time::sleep(left.unwrap_or_default()).await;
}

/// Renews the client certificate when its time comes. Returns when there is a new one (the connection has to
/// be made again), never without rotation.
pub(crate) async fn renew_client(config: &Config, kube: &kube::Client) {
    let current = CLIENT.current(config);
    if !config.rotate || !current.exists() {
        return std::future::pending().await;
    }
    loop {
        until(renewal(&current)).await;
        match request(config, kube, &CLIENT, Vec::new()).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(error = error.chain(), "cannot renew the client certificate, trying again")
            }
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}

/// Keeps the serving certificate valid. Signals `first` once there is one.
pub(crate) async fn keep_serving(
    config: Config,
    kube: kube::Client,
    names: Vec<String>,
    first: CancellationToken,
) {
    let current = SERVING.current(&config);
    loop {
        if lifetime(&current).is_ok_and(|(_, end)| end > Timestamp::now()) {
            first.cancel();
            until(renewal(&current)).await;
        }
        match request(&config, &kube, &SERVING, names.clone()).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(error = error.chain(), "no serving certificate yet, trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_the_node() {
        let key = KeyPair::generate().unwrap();
        let pem = signing_request("w1", vec!["w1".into(), "10.90.0.21".into()], &key).unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
    }
}
