//! The kubelet of a node as a target: its address, our client certificate, the CA that vouches for it.

use std::sync::Arc;

use api::status::Status;
use rustls::ClientConfig;

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
