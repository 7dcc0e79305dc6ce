//! TLS by rustls.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate with its key, ready to accept connections.
#[derive(Clone)]
pub struct Tls(pub(super) TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or holds something else.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key don't fit each other, or rustls.
    #[error("the certificate and its key: {0}")]
    Unusable(#[from] tokio_rustls::rustls::Error),
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and the key of
    /// the first, all as PEM.
    ///
    /// # Errors
    /// [`TlsError`], naming the file at fault.
    pub fn from_pem_files(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let wrong = |file: &Path, reason: String| TlsError::File {
            file: file.display().to_string(),
            reason,
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(certificates)
            .and_then(Iterator::collect)
            .map_err(|e| wrong(certificates, e.to_string()))?;
        if chain.is_empty() {
            return Err(wrong(certificates, "it holds no certificate".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, e.to_string()))?;
        // The provider is named here: another one elsewhere in the program
        // must not change what this server uses.
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}
