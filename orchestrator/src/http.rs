//! HTTP clients, with no more trust than their maker gives them. Knows nothing of what is asked.

use std::sync::Arc;

use rustls::RootCertStore;

/// A client that speaks no TLS: it trusts nobody. Left to itself it would read the system's certificates at once.
///
/// # Panics
/// Never: the provider knows every version of TLS that is safe.
pub fn plain() -> reqwest::ClientBuilder {
    trusting(RootCertStore::empty())
}

/// A client that speaks TLS with servers whose certificate one of these vouches for.
///
/// # Panics
/// Never: the provider knows every version of TLS that is safe.
pub(crate) fn trusting(roots: RootCertStore) -> reqwest::ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows every version of TLS that is safe")
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls)
}
