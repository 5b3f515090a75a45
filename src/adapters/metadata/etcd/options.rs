//! How etcd is reached: what stands in the configuration file, and what is wrong with it.

use crate::adapters::metadata::Error;
use crate::model::node::Secret;
use etcd_client as etcd;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdOptions {
    /// `http(s)://host:port` of every member.
    pub endpoints: Vec<String>,
    /// User, if etcd demands one.
    #[serde(default)]
    pub user: String,
    /// Its password.
    #[serde(default)]
    pub password: Secret,
    /// TLS, for `https` endpoints.
    #[serde(default)]
    pub tls: Option<EtcdTls>,
    /// Deadline of every call.
    #[serde(default = "EtcdOptions::default_request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// Deadline for making a connection to one member.
    #[serde(default = "EtcdOptions::default_connect_timeout_ms")]
    pub connect_timeout_ms: u64,
}

/// TLS files, all PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdTls {
    /// Who signed the members' certificates.
    pub ca: PathBuf,
    /// Our certificate, if etcd demands one.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
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

/// Reads the files.
pub(super) fn tls(tls: &EtcdTls) -> Result<etcd::TlsOptions, Error> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| Error::Invalid(format!("tls file {}: {error}", path.display())))
    };
    let options = etcd::TlsOptions::new().ca_certificate(etcd::Certificate::from_pem(read(&tls.ca)?));
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Ok(options.identity(etcd::Identity::from_pem(read(cert)?, read(key)?))),
        (None, None) => Ok(options),
        _ => Err(Error::Invalid("tls cert and key must be given together".to_owned())),
    }
}
