//! The certificate and the key that the metrics are served with over TLS, as files have them.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// PEM: the server's certificate, with those that vouch for it after it, and its private key.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) certificates: String,
    pub(crate) key: String,
}

/// Without what is in it.
impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// What a server needs of it: TLS 1.2 and 1.3, HTTP/1.1.
    ///
    /// # Errors
    /// What is wrong, without anything of the key.
    pub(super) fn server(&self) -> Result<Arc<ServerConfig>, String> {
        let certificates = CertificateDer::pem_slice_iter(self.certificates.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("the certificate cannot be read: {error}"))?;
        if certificates.is_empty() {
            return Err("there is no certificate in PEM format".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|_| "there is no private key in PEM format, or it is encrypted".to_owned())?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|error| format!("the certificate and the key do not fit: {error}"))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
