//! `[metadata]` and what goes with it: where the store is, who may reach it, by which certificates.

use super::reader::{Part, Reader};
use super::{EtcdAccess, EtcdMember, MetadataOptions, StoreOptions, units};
use crate::adapters::peers::{Tls, TlsIdentity};
use crate::model::node::Secret;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Certificates; a server needs its own, a client may do without.
pub(super) fn tls<'a>(
    reader: &mut Reader<'a>,
    root: &'a DeTable<'a>,
    path: &'static str,
    server: bool,
) -> Option<Tls> {
    let part = reader.part(root, path);
    if !part.given() {
        return None;
    }
    let ca_pem = reader.content(&part, "ca");
    let (cert, key) = (reader.content(&part, "cert"), reader.content(&part, "key"));
    match (part.has("cert"), part.has("key")) {
        (true, false) => {
            reader.blame(&part, "key", "is missing, and cert is given", "add the private key of cert")
        }
        (false, true) => {
            reader.blame(&part, "cert", "is missing, and key is given", "add the certificate of key")
        }
        (false, false) if server => {
            reader.blame(
                &part,
                "cert",
                "is missing",
                "gRPC needs cert and key to serve TLS; or drop the section",
            );
        }
        _ => {}
    }
    if server && !part.has("ca") {
        let remedy = "name the certificates of those who sign the clients': without, anybody would be let in";
        reader.blame(&part, "ca", "is missing", remedy);
    }
    if ca_pem.as_ref().is_some_and(|pem| pem.trim().is_empty()) {
        reader.blame(&part, "ca", "is an empty file", "name a file with certificates (PEM)");
    }
    let identity = cert.zip(key).map(|(certificate_pem, key_pem)| TlsIdentity { certificate_pem, key_pem });
    Some(Tls { ca_pem: ca_pem.unwrap_or_default(), identity })
}

/// A password, from its key or from its file.
pub(super) fn password<'a>(reader: &mut Reader<'a>, part: &Part<'a>, name: &str) -> Option<Secret> {
    let file = format!("{name}_file");
    if part.has(name) && part.has(&file) {
        reader.blame(part, &file, &format!("is given, and {name} too"), "keep one of them");
    }
    let given = reader.text(part, name);
    given.or_else(|| reader.content(part, &file)).map(Secret::new)
}

pub(super) fn metadata<'a>(
    reader: &mut Reader<'a>,
    root: &'a DeTable<'a>,
    part: &Part<'a>,
    data_dir: &Path,
) -> Option<MetadataOptions> {
    let mut access = EtcdAccess { user: None, tls: tls(reader, root, "metadata.tls", false) };
    let endpoints = reader.texts(part, "endpoints");
    let (user, password) = (reader.text(part, "user"), password(reader, part, "password"));
    if password.is_some() && user.is_none() {
        reader.blame(part, "user", "is missing, and a password is given", "add the etcd user");
    }
    access.user = user.map(|user| (user, password.unwrap_or_default()));
    let lease_ttl_ms = reader.number(part, "lease_ttl_ms");
    let path = reader.path(part, "path").unwrap_or_else(|| data_dir.join("metadata.redb"));
    // A bare name is looked for on the PATH, so it must not be taken from the file's folder.
    let binary = match reader.text(part, "binary") {
        Some(name) if !name.contains('/') => PathBuf::from(name),
        _ => reader.path(part, "binary").unwrap_or_default(),
    };
    let listen = reader.text(part, "listen").and_then(|text| text.parse().ok());
    let members = members(reader, root);
    // The schema makes it one of the three; a missing one is on the list of problems.
    let kind = reader_kind(part)?;
    for (name, of) in
        [("endpoints", "etcd"), ("path", "embedded"), ("binary", "managed"), ("listen", "managed")]
    {
        if part.has(name) && kind != of {
            let what = format!("is given, and kind is {kind:?}");
            reader.blame(part, name, &what, &format!("drop it, or set kind = {of:?}"));
        }
    }
    if kind != "managed" && !members.is_empty() {
        let remedy = "drop the members, or set kind = \"managed\"";
        reader.blame(part, "member", &format!("is given, and kind is {kind:?}"), remedy);
    }
    let store = match kind {
        "embedded" => StoreOptions::Embedded { path },
        "managed" => {
            check_members(reader, part, &members);
            check_access(reader, part, &access);
            StoreOptions::Managed { members, binary, listen, access }
        }
        _ => StoreOptions::Etcd { endpoints: check_endpoints(reader, part, endpoints), access },
    };
    Some(MetadataOptions { store, lease_ttl_ms })
}

fn reader_kind(part: &Part<'_>) -> Option<&'static str> {
    let kind = part.raw_text("kind")?;
    ["etcd", "embedded", "managed"].into_iter().find(|known| *known == kind)
}

fn check_endpoints(reader: &mut Reader<'_>, part: &Part<'_>, endpoints: Option<Vec<String>>) -> Vec<String> {
    let missing = endpoints.as_ref().map_or(!part.has("endpoints"), Vec::is_empty);
    let endpoints = endpoints.unwrap_or_default();
    if missing {
        reader.blame(part, "endpoints", "is missing", "add etcd's client addresses: [\"http://host:2379\"]");
    }
    for endpoint in &endpoints {
        if let Err(what) = units::url(endpoint) {
            reader.blame(part, "endpoints", &what, "write, for example, [\"http://host:2379\"]");
        }
    }
    endpoints
}

fn members<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>) -> Vec<EtcdMember> {
    let parts = reader.parts(root, "metadata.member");
    let member = |part: &Part<'a>| {
        let node = reader.parsed(part, "node");
        let (client_url, peer_url) = (reader.text(part, "client_url"), reader.text(part, "peer_url"));
        Some(EtcdMember { node: node?, client_url: client_url?, peer_url: peer_url? })
    };
    parts.iter().filter_map(member).collect()
}

fn check_members(reader: &mut Reader<'_>, part: &Part<'_>, members: &[EtcdMember]) {
    if members.is_empty() {
        let remedy =
            "add [[metadata.member]] with node, client_url and peer_url, one or three or five of them";
        reader.blame(part, "member", "is missing, and kind is \"managed\"", remedy);
    } else if members.len().is_multiple_of(2) {
        let what =
            format!("has {} entries: an even number survives no more losses than one less", members.len());
        reader.blame(part, "member", &what, "list an odd number of members");
    }
    let mut seen = BTreeSet::new();
    for member in members {
        for url in [&member.client_url, &member.peer_url] {
            if !url.starts_with("http://") {
                let what = format!("has {url}: a managed etcd speaks http only");
                reader.blame(part, "member", &what, "write http://host:port, or run etcd yourself for TLS");
            }
        }
        for word in [member.node.as_str(), &member.client_url, &member.peer_url] {
            if !seen.insert(word) {
                reader.blame(part, "member", &format!("has {word} twice"), "give each member its own");
            }
        }
    }
}

/// Members are started without login and certificates: asked with either, they would refuse.
fn check_access(reader: &mut Reader<'_>, part: &Part<'_>, access: &EtcdAccess) {
    let remedy = "drop it, or run etcd yourself and set kind = \"etcd\"";
    if access.user.is_some() {
        reader.blame(part, "user", "is given, and a managed etcd has no login", remedy);
    }
    if access.tls.is_some() {
        reader.blame(part, "tls", "is given, and a managed etcd has no TLS", remedy);
    }
}
