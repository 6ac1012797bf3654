//! The files of an API server: its certificate, the keys and tokens that it accepts, and
//! kubeconfigs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;

use crate::world::Host;

/// The files that are written before the first start.
#[derive(Debug)]
pub struct Files {
    /// The certificate of the authority that issued the API server's, in PEM.
    pub ca: String,
    /// The same as a file.
    pub ca_file: PathBuf,
    /// The API server's certificate and key.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The key that signs ServiceAccount tokens and verifies them.
    pub service_account_key: PathBuf,
    pub service_account_public_key: PathBuf,
    /// Static tokens: the admin's.
    pub tokens: PathBuf,
    /// The admin's kubeconfig, which the controllers use as well.
    pub admin_kubeconfig: PathBuf,
}

/// The token of a member of `system:masters`, whom RBAC allows everything. It is valid in its
/// private world only.
pub const ADMIN_TOKEN: &str = "admin-of-a-private-world";

/// The first address of the Services' range is `kubernetes.default.svc`.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

impl Files {
    /// Writes them on `host`. The certificate covers the host's addresses.
    pub fn write(host: &Host, address: SocketAddr) -> Result<Self> {
        let authority_key = KeyPair::generate().context("the authority's key")?;
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "kubernetes-ca");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca =
            authority.self_signed(&authority_key).context("the authority's certificate")?.pem();

        let key = KeyPair::generate().context("the API server's key")?;
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let mut server =
            CertificateParams::new(names.map(str::to_owned)).context("the API server's names")?;
        let addresses = [
            host.ip().into(),
            host.ip6().into(),
            Ipv4Addr::LOCALHOST.into(),
            KUBERNETES_SERVICE.into(),
            address.ip(),
        ];
        server
            .subject_alt_names
            .extend(addresses.map(|address: IpAddr| SanType::IpAddress(address)));
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        let certificate = server
            .signed_by(&key, &Issuer::new(authority, authority_key))
            .context("the API server's certificate")?
            .pem();

        let service_account_key =
            KeyPair::generate().context("the key of ServiceAccount tokens")?;
        let token = format!("{ADMIN_TOKEN},admin,admin,system:masters\n");
        Ok(Self {
            ca_file: host.write("kube/ca.crt", &ca)?,
            certificate: host.write("kube/tls.crt", certificate)?,
            key: host.write("kube/tls.key", key.serialize_pem())?,
            service_account_key: host
                .write("kube/service-account.key", service_account_key.serialize_pem())?,
            service_account_public_key: host
                .write("kube/service-account.pub", service_account_key.public_key_pem())?,
            tokens: host.write("kube/tokens.csv", token)?,
            admin_kubeconfig: host
                .write("kube/admin.kubeconfig", kubeconfig(address, &ca, "default", ADMIN_TOKEN))?,
            ca,
        })
    }
}

/// A kubeconfig with one context, `lab`: an API server, a namespace and a token. JSON is YAML too.
pub fn kubeconfig(address: SocketAddr, ca: &str, namespace: &str, token: &str) -> String {
    let cluster = json!({ "server": format!("https://{address}"), "certificate-authority-data": BASE64_STANDARD.encode(ca) });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{ "name": "lab", "cluster": cluster }],
        "users": [{ "name": "lab", "user": { "token": token } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab", "namespace": namespace } }],
    });
    format!("{config:#}\n")
}
