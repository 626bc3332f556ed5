//! HTTP without TLS: the API on its sockets, webhooks on the same machine. Knows nothing of what is asked.

use std::sync::Arc;

/// A client that speaks no TLS: it trusts nobody. Left to itself it would ask for a provider of TLS at once, and read the
/// system's certificates.
///
/// # Panics
/// Never: the provider knows every version of TLS that is safe.
pub fn http() -> reqwest::ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows every version of TLS that is safe")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls)
}
