//! The cluster's certificate authority. Its key lives on the metaservers (DESIGN §7).

use super::certificate::Identity;
use super::name::{PeerName, Role};
use crate::error::{Code, Error, Result};
use crate::given_file;
use crate::ids::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long a server's certificate is valid; servers renew at two thirds of it.
pub const SERVER_VALID: Duration = DAY.saturating_mul(90);

/// How long a user's certificate is valid.
pub const USER_VALID: Duration = DAY.saturating_mul(365);

/// How long a join certificate is valid.
pub const JOIN_VALID: Duration = Duration::from_secs(3600);

/// How long the authority's own certificate is valid.
const AUTHORITY_VALID: Duration = DAY.saturating_mul(365 * 30);

/// Certificates are valid a little before they were made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(10 * 60);

/// Signs the certificates of one cluster.
pub struct Authority {
    cluster: ClusterId,
    /// The authority's certificate, PEM.
    certificate_pem: String,
    key: KeyPair,
}

impl Authority {
    /// A new authority with a new key.
    ///
    /// # Errors
    /// `Bug`: the key or the certificate could not be made.
    pub fn create(cluster: ClusterId, now: SystemTime) -> Result<Authority> {
        let key = KeyPair::generate().map_err(can_not_make)?;
        let mut params = authority_params(cluster)?;
        set_validity(&mut params, AUTHORITY_VALID, now)?;
        let certificate = params.self_signed(&key).map_err(can_not_make)?;
        Ok(Authority {
            cluster,
            certificate_pem: certificate.pem(),
            key,
        })
    }

    /// The cluster whose certificates it signs.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Certificate and **private key**, for a file of mode 0600.
    pub fn to_pem(&self) -> String {
        format!("{}{}", self.certificate_pem, self.key.serialize_pem())
    }

    /// Reads what [`Authority::to_pem`] wrote.
    ///
    /// # Errors
    /// `Configuration`: not a certificate authority's file.
    pub fn from_pem(pem: &str) -> Result<Authority> {
        let refuse = |what: String| {
            Error::new(
                Code::Configuration,
                format!("this is not the file of a cluster's certificate authority: {what}"),
            )
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| refuse("it has no certificate that can be read".to_owned()))?;
        let begin = pem.find(CERTIFICATE_BEGIN);
        let end = pem.find(CERTIFICATE_END);
        let (Some(begin), Some(end)) = (begin, end) else {
            return Err(refuse("it has no certificate".to_owned()));
        };
        let certificate_pem = format!("{}\n", &pem[begin..end + CERTIFICATE_END.len()]);
        let cluster = cluster_in(&certificate).map_err(refuse)?;
        let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| refuse("it has no private key that can be read".to_owned()))?;
        let key = KeyPair::try_from(&key)
            .map_err(|error| refuse(format!("its private key can not be read ({error})")))?;
        let authority = Authority {
            cluster,
            certificate_pem,
            key,
        };
        // A key of another authority would sign certificates that nobody accepts.
        authority
            .issue(
                &PeerName::new(cluster, Role::Join, "self-check")?,
                JOIN_VALID,
                SystemTime::now(),
            )
            .and_then(|identity| identity.check_signature())
            .map_err(|error| refuse(format!("its key and certificate differ ({})", error.text)))?;
        Ok(authority)
    }

    /// Reads the authority's file.
    ///
    /// # Errors
    /// `Configuration`: the file can not be read, is readable by others, or is no authority's.
    pub fn load(path: &Path) -> Result<Authority> {
        let shown = path.display();
        let refuse = |text: String| Error::new(Code::Configuration, text);
        let file = given_file::read(path).map_err(|error| {
            refuse(format!(
                "the cluster's authority {shown} can not be read ({error}): 'quarry cluster init' makes it"
            ))
            .with_source(error)
        })?;
        // Whoever has this key is every user and every server.
        if let Some(open) = file.key_is_open(format_args!("the cluster's authority {shown}"), path)
        {
            return Err(refuse(open));
        }
        Authority::from_pem(&file.text).map_err(|error| error.context(shown))
    }

    /// A certificate with a new key for `name`, valid from shortly before `now`.
    ///
    /// # Errors
    /// `Configuration`: the name is of another cluster, or the validity is beyond the calendar.
    pub fn issue(&self, name: &PeerName, valid: Duration, now: SystemTime) -> Result<Identity> {
        if name.cluster != self.cluster {
            return Err(Error::new(
                Code::Configuration,
                format!("{name} is not of cluster {}", self.cluster),
            ));
        }
        let key = KeyPair::generate().map_err(can_not_make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = name.to_string().try_into().map_err(can_not_make)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        set_validity(&mut params, valid, now)?;
        let issuer = Issuer::new(authority_params(self.cluster)?, &self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(can_not_make)?;
        Identity::from_pem(&format!(
            "{}{}{}",
            certificate.pem(),
            key.serialize_pem(),
            self.certificate_pem
        ))
    }
}

const CERTIFICATE_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const CERTIFICATE_END: &str = "-----END CERTIFICATE-----";

/// What the authority's certificate says: all of it follows from the cluster, so that reading it
/// back needs no second X.509 parser.
fn authority_params(cluster: ClusterId) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("quarry {cluster}"));
    let uri = format!("quarry://{cluster}")
        .try_into()
        .map_err(can_not_make)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn cluster_in(certificate: &CertificateDer<'_>) -> Result<ClusterId, String> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| "its certificate is damaged, or none".to_owned())?;
    let mut names = parsed.valid_uri_names();
    let name = names.next().unwrap_or_default();
    name.strip_prefix("quarry://")
        .and_then(|cluster| cluster.parse().ok())
        .ok_or_else(|| "its certificate names no cluster".to_owned())
}

fn set_validity(params: &mut CertificateParams, valid: Duration, now: SystemTime) -> Result<()> {
    let beyond = || {
        Error::new(
            Code::Configuration,
            "a certificate can not be valid that long",
        )
    };
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let from = since_1970.saturating_sub(BACKDATED);
    let until = since_1970.checked_add(valid).ok_or_else(beyond)?;
    // 9999 is the last year that X.509 can write.
    if until.as_secs() > 253_402_300_799 {
        return Err(beyond());
    }
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from.as_secs());
    params.not_after = epoch + Duration::from_secs(until.as_secs());
    Ok(())
}

fn can_not_make(error: rcgen::Error) -> Error {
    Error::bug("a certificate could not be made").with_source(error)
}
