//! A certificate with its private key and the authority that signed it, in memory and in a file.

use super::name::PeerName;
use super::verify::{Refusal, hash_of, name_in, text_of, verify};
use crate::durable;
use crate::error::{Code, Error, Result};
use crate::given_file;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who this process is: what it shows in a handshake, and whom it believes.
///
/// As text three PEM sections: certificate, private key, the authority's certificate.
pub struct Identity {
    name: PeerName,
    key: Arc<CertifiedKey>,
    authority: CertificateDer<'static>,
    pem: String,
}

impl Identity {
    /// Reads what [`Identity::to_pem`] wrote.
    ///
    /// # Errors
    /// `Configuration`: a section is missing or can not be read, or certificate and key do not
    /// belong together. Validity and signature are for the peers to judge.
    pub fn from_pem(pem: &str) -> Result<Identity> {
        let refuse = |what: String| Error::new(Code::Configuration, what);
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| refuse("the certificates can not be read: they are damaged".to_owned()))?;
        let [certificate, authority] = <[_; 2]>::try_from(certificates).map_err(|found| {
            refuse(format!(
                "an identity has two certificates, its own and the authority's; this has {}",
                found.len()
            ))
        })?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| refuse("there is no private key that can be read".to_owned()))?;
        let name = name_in(&certificate)
            .map_err(|refusal| refuse(format!("this is no identity: {refusal}")))?;
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key)
            .map_err(|_| refuse("the private key is damaged, or none of quarry".to_owned()))?;
        let key = CertifiedKey::new(vec![certificate], key);
        key.keys_match().map_err(|_| {
            refuse("the certificate and the private key do not belong together".to_owned())
        })?;
        webpki::anchor_from_trusted_cert(&authority)
            .map_err(|_| refuse("the authority's certificate is damaged, or none".to_owned()))?;
        Ok(Identity {
            name,
            key: Arc::new(key),
            authority,
            pem: pem.to_owned(),
        })
    }

    /// All three sections, **with the private key**.
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// Reads an identity file.
    ///
    /// # Errors
    /// `Configuration`: the file can not be read, is readable by others, or is no identity.
    pub fn load(path: &Path) -> Result<Identity> {
        let shown = path.display();
        let io = |error: std::io::Error| {
            Error::new(
                Code::Configuration,
                format!(
                    "the identity {shown} can not be read ({error}): name another file, or have one issued"
                ),
            )
            .with_source(error)
        };
        let file = given_file::read(path).map_err(io)?;
        if let Some(open) = file.key_is_open(format_args!("the identity {shown}"), path) {
            return Err(Error::new(Code::Configuration, open));
        }
        Identity::from_pem(&file.text).map_err(|error| {
            error.context(format!(
                "the identity {shown} can not be used, have a new one issued"
            ))
        })
    }

    /// Writes an identity file of mode 0600, durably.
    ///
    /// # Errors
    /// `Io`: the file could not be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        durable::replace_private(path, self.pem.as_bytes()).map_err(|error| {
            Error::new(
                Code::Io,
                format!(
                    "the identity {} can not be written ({error})",
                    path.display()
                ),
            )
            .with_source(error)
        })
    }

    /// The name in the certificate.
    pub fn name(&self) -> &PeerName {
        &self.name
    }

    /// The BLAKE3 hash of the certificate, which capabilities are bound to.
    pub fn hash(&self) -> [u8; 32] {
        hash_of(self.certificate())
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.key.cert[0]
    }

    /// The authority's certificate, DER.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// Certificate and private key, as rustls takes them.
    pub(super) fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// The authority, as webpki takes it.
    pub(super) fn anchor(&self) -> Result<TrustAnchor<'static>> {
        webpki::anchor_from_trusted_cert(&self.authority)
            .map(|anchor| anchor.to_owned())
            .map_err(|_| {
                let text = "the authority's certificate is damaged, or none";
                Error::new(Code::Configuration, text)
            })
    }

    /// Until when the certificate is valid, to the second.
    ///
    /// # Errors
    /// `Configuration`: the authority in this identity did not sign it.
    pub fn expires_at(&self) -> Result<SystemTime> {
        // webpki tells the end of the validity to those who come too late, and to nobody else.
        match self.verify_at(UnixTime::since_unix_epoch(Duration::from_secs(1 << 40)))? {
            Err(webpki::Error::CertExpired { not_after, .. }) => {
                Ok(UNIX_EPOCH + Duration::from_secs(not_after.as_secs()))
            }
            Ok(()) | Err(_) => Err(self.not_signed()),
        }
    }

    /// Finds out before anybody is dialled that all would refuse the certificate at `now`. One that is
    /// not valid yet is let through: peers go by their own clocks, and this one may be behind.
    ///
    /// # Errors
    /// `Configuration`: it has expired, or the authority in this identity did not sign it.
    pub fn check_valid(&self, now: SystemTime) -> Result<()> {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since_1970);
        let usage = webpki::KeyUsage::client_auth();
        let why = match verify(
            &self.anchor()?,
            self.name.cluster,
            self.certificate(),
            usage,
            now,
        ) {
            Ok(_) | Err(Refusal::NotYetValid(_)) => return Ok(()),
            Err(Refusal::Expired(ago)) => format!(
                "expired {} ago: have a new one issued, or set the clock of this machine right",
                text_of(ago)
            ),
            Err(refusal) => format!("can not be used ({refusal}): have a new one issued"),
        };
        let text = format!("the certificate of {} {why}", self.name);
        Err(Error::new(Code::Configuration, text))
    }

    /// Checks that the authority in this identity signed it, whatever the time.
    pub(super) fn check_signature(&self) -> Result<()> {
        let until = self.expires_at()?;
        let until = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.verify_at(UnixTime::since_unix_epoch(until))?
            .map_err(|_| self.not_signed())
    }

    fn not_signed(&self) -> Error {
        let text = format!(
            "the certificate of {} was not signed by the authority whose certificate is with it",
            self.name
        );
        Error::new(Code::Configuration, text)
    }

    fn verify_at(&self, time: UnixTime) -> Result<Result<(), webpki::Error>> {
        let anchor = self.anchor()?;
        let parsed = webpki::EndEntityCert::try_from(self.certificate()).map_err(|error| {
            Error::bug(format!("a checked certificate is unreadable ({error})"))
        })?;
        Ok(parsed
            .verify_for_usage(
                &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
                &[anchor],
                &[],
                time,
                webpki::KeyUsage::client_auth(),
                None,
                None,
            )
            .map(|_| ()))
    }
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.name)
    }
}
