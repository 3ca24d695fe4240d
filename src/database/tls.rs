//! TLS towards the server, through rustls, in the three ways that `DATABASE_SSL` knows.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Context, Error, Kind, Result};
use crate::settings::Ssl;

/// The connector for this mode. [`Ssl::Disable`] gets one too: the driver never asks it for anything.
pub(super) fn connector(ssl: &Ssl) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context(Kind::Usage, "TLS cannot be set up")?;
    let config = match ssl {
        Ssl::Verify { ca } => builder.with_root_certificates(roots(ca.as_deref())?).with_no_client_auth(),
        Ssl::Disable | Ssl::NoVerify => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider))).with_no_client_auth()
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        let unusable = || format!("cannot use the CA file {}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).context(Kind::Usage, unusable())? {
            let certificate = certificate.context(Kind::Usage, unusable())?;
            roots.add(certificate).context(Kind::Usage, unusable())?;
        }
        if roots.is_empty() {
            return Err(Error::new(Kind::Usage, unusable()).with("cause", "it holds no PEM certificate"));
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(Error::new(Kind::Usage, "this system has no certificate authorities to trust")
                .hint("Set DATABASE_SSL_CA_CERT_FILE to the file of your server's authority."));
        }
    }
    Ok(roots)
}

/// `noverify`: the line is encrypted, whoever answers. Signatures are still checked, so that the key that answers is
/// the one in the certificate that was shown; not where the certificate itself is one that rustls cannot read, such as
/// one of version 1, which `openssl x509 -req` makes.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

fn accept_unreadable(
    verified: std::result::Result<HandshakeSignatureValid, rustls::Error>,
) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
    match verified {
        Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding | CertificateError::Other(_))) => {
            Ok(HandshakeSignatureValid::assertion())
        }
        verified => verified,
    }
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        accept_unreadable(verify_tls12_signature(message, certificate, signature, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        accept_unreadable(verify_tls13_signature(message, certificate, signature, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
