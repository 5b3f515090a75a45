//! How etcd is reached: what stands in the configuration file, and what is wrong with it.

use crate::adapters::metadata::Error;
use crate::model::node::Secret;
use etcd_client as etcd;

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// `http(s)://host:port` of every member.
    pub endpoints: Vec<String>,
    /// User, if etcd demands one.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// TLS, for `https` endpoints.
    pub tls: Option<EtcdTls>,
    /// Deadline of every call.
    pub request_timeout_ms: u64,
    /// Deadline for making a connection to one member.
    pub connect_timeout_ms: u64,
}

/// Certificates, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Who signed the members' certificates.
    pub ca_pem: String,
    /// Our certificate and its key, if etcd demands one.
    pub identity: Option<(String, Secret)>,
}

impl EtcdOptions {
    /// No user, no TLS, default deadlines.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            user: String::new(),
            password: Secret::default(),
            tls: None,
            request_timeout_ms: Self::default_request_timeout_ms(),
            connect_timeout_ms: Self::default_connect_timeout_ms(),
        }
    }

    pub(super) fn default_request_timeout_ms() -> u64 {
        5_000
    }

    pub(super) fn default_connect_timeout_ms() -> u64 {
        1_000
    }
}

/// Whether the endpoints can be used.
pub(super) fn check(options: &EtcdOptions) -> Result<(), Error> {
    if options.endpoints.is_empty() {
        return Err(Error::Invalid("no etcd endpoints are given".to_owned()));
    }
    for url in &options.endpoints {
        let scheme = if options.tls.is_some() { "https://" } else { "http://" };
        let host = url.strip_prefix(scheme).filter(|host| !host.is_empty());
        if host.is_none() || url.parse::<tonic::transport::Uri>().is_err() {
            let with = if options.tls.is_some() { "with" } else { "without" };
            return Err(Error::Invalid(format!("endpoint {url:?} is not {scheme}host:port ({with} tls)")));
        }
    }
    Ok(())
}

/// As the client wants them.
pub(super) fn tls(tls: &EtcdTls) -> etcd::TlsOptions {
    let options = etcd::TlsOptions::new().ca_certificate(etcd::Certificate::from_pem(&tls.ca_pem));
    match &tls.identity {
        Some((cert, key)) => options.identity(etcd::Identity::from_pem(cert, key.expose())),
        None => options,
    }
}
