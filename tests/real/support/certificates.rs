//! Certificates for tests: an authority, and who it signed.

use std::path::Path;
use std::process::Command;

/// Makes `ca.pem` and another authority's `other.pem` in the folder, and `server` and `client`, signed by the first,
/// for 127.0.0.1: each as `NAME.pem` and `NAME.key`.
pub fn make(folder: &Path) {
    let new = "-days 1 -nodes -newkey rsa:2048";
    openssl(folder, &format!("req -x509 {new} -keyout ca.key -out ca.pem -subj /CN=ca"));
    openssl(folder, &format!("req -x509 {new} -keyout other.key -out other.pem -subj /CN=other"));
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["server", "client"] {
        let request =
            format!("req -nodes -newkey rsa:2048 -keyout {name}.key -out {name}.csr -subj /CN={name}");
        openssl(folder, &request);
        let sign = format!(
            "x509 -req -days 1 -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out {name}.pem"
        );
        openssl(folder, &sign);
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
