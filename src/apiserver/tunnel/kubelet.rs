//! The kubelet of a node as a target: its address, our client certificate, the CA that vouches for it.

use std::sync::Arc;

use api::status::Status;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::{address, dial::Target};
use crate::flags::Flags;
use crate::server::Server;

/// The kubelet of a node.
pub(super) async fn target(server: &Server, node: &str) -> api::Result<Target> {
    let object = server.get(&server.resource("", "nodes"), "", node).await?;
    let preferred = &server.config().flags.kubelet_preferred_address_types;
    let Some((host, port)) = address::of_kubelet(&object, preferred) else {
        let known = serde_json::Value::from(object.list_at("status.addresses").to_vec());
        return Err(Status::internal(format!("no preferred addresses found; known addresses: {known}")));
    };
    let tls = config(&server.config().flags)
        .map_err(|why| super::forward::failed(format!("error dialing backend: {why}")))?;
    Ok(Target { host, port, tls: Some(Arc::new(tls)), node: Some(node.to_owned()) })
}

/// Read for every connection: renewed files are used at once.
fn config(flags: &Flags) -> Result<ClientConfig, String> {
    let Some(ca) = &flags.kubelet_certificate_authority else {
        return Err("--kubelet-certificate-authority is not set, kubelets cannot be verified".into());
    };
    let say = |error: serve::Error| error.to_string();
    let builder = ClientConfig::builder().with_root_certificates(serve::pem::roots(ca).map_err(say)?);
    let (Some(certificate), Some(key)) = (&flags.kubelet_client_certificate, &flags.kubelet_client_key)
    else {
        return Ok(builder.with_no_client_auth());
    };
    let (chain, key) = (serve::pem::certs(certificate).map_err(say)?, serve::pem::key(key).map_err(say)?);
    builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())
}

/// TLS to pods and services. Nobody vouches for their certificates: like upstream's, this hides the bytes from
/// bystanders and proves nothing about the other end.
pub(super) fn unverified() -> Arc<ClientConfig> {
    let provider = CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let verifier = Arc::new(Anybody(provider.signature_verification_algorithms));
    let config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
