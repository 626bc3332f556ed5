//! A certificate authority for one test, and TLS as a server that it vouches for. Knows no protocol above TLS.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::lab::Lab;

/// The host that servers are to be called by.
pub const HOST: &str = "localhost";

/// A connection inside TLS.
pub type Wrapped = StreamOwned<ServerConnection, TcpStream>;

/// An authority, and the one server that it vouches for.
#[derive(Debug, Clone)]
pub struct Authority {
    file: PathBuf,
    server: Arc<ServerConfig>,
}

impl Authority {
    /// Makes both; the authority's certificate is in a file of the lab.
    pub fn new(lab: &Lab) -> Authority {
        let key = || KeyPair::generate().expect("a key is drawn");
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("it signs itself");
        let file = lab.path("authority.pem");
        fs::write(&file, authority.pem()).expect("the lab's folder takes a file");

        let (params, key) = (CertificateParams::new([HOST.to_owned()]).expect("a name"), key());
        let certificate = params.signed_by(&key, &authority).expect("the authority signs");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows every version of TLS that is safe")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("key and certificate belong together");
        Authority { file, server: Arc::new(server) }
    }

    /// The authority's certificate, PEM.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A connection that a client made, inside TLS from its next byte on.
    pub fn wrap(&self, stream: TcpStream) -> Wrapped {
        let connection = ServerConnection::new(Arc::clone(&self.server)).expect("the configuration is good");
        StreamOwned::new(connection, stream)
    }
}
