//! What rustls asks of every verifier beside who the peer is, in the same words for clients' certificates and
//! for servers'.

/// The methods of `ClientCertVerifier` and `ServerCertVerifier` that check a signature of the handshake, for
/// a type with `verify_tls12`, `verify_tls13` and `algorithms` of its own.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.verify_tls12(message, certificate, signed)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.verify_tls13(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

pub(super) use handshake_signatures;
