//! Whose word is taken for a receiver's identity: the system's certificates, and those of one more file.
//!
//! They are read for each delivery: notices are rare, an idle server keeps nothing, and a certificate that was exchanged
//! needs no restart.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

type Certificates = Vec<CertificateDer<'static>>;

/// The system's certificates (or those that `SSL_CERT_FILE` or `SSL_CERT_DIR` name), and those of a file.
pub(super) async fn certificates(ca: Option<&Path>) -> Result<Certificates, String> {
    let ca = ca.map(Path::to_owned);
    let read = tokio::task::spawn_blocking(move || {
        let mut all = rustls_native_certs::load_native_certs().certs;
        all.retain(usable);
        if let Some(ca) = ca {
            all.extend(file(&ca)?);
        }
        Ok(all)
    });
    read.await.map_err(|error| format!("the system's certificates cannot be read: {error}"))?
}

/// The certificates of a file; at least one.
pub(super) fn file(path: &Path) -> Result<Certificates, String> {
    let refused = |why: String| format!("{}: {why}; it is to hold certificates, as PEM", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(|error| refused(error.to_string()))?;
    let all = read.collect::<Result<Certificates, _>>().map_err(|error| refused(error.to_string()))?;
    match all.iter().all(usable) {
        true if !all.is_empty() => Ok(all),
        true => Err(refused("there is no certificate in it".to_owned())),
        false => Err(refused("one of its certificates cannot be read".to_owned())),
    }
}

fn usable(certificate: &CertificateDer<'static>) -> bool {
    RootCertStore::empty().add(certificate.clone()).is_ok()
}
