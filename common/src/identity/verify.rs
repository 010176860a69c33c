//! What a certificate must be: signed by this cluster's authority, valid now, with exactly one URI
//! name, of this cluster. Pure; [`super::tls`] calls it from within the handshake.

use super::name::PeerName;
use crate::ids::ClusterId;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage};

/// Why a certificate was refused; its text is for both ends of the handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not DER, not X.509, or cut.
    #[error("the certificate can not be read: it is damaged, or none")]
    Unreadable,
    /// Signed by something else than the cluster's authority.
    #[error(
        "the certificate was not signed by the authority of cluster {0}: check the address and whose identity is used"
    )]
    NotSigned(ClusterId),
    /// Another cluster's.
    #[error(
        "the certificate belongs to cluster {found}, this is cluster {expected}: check the address and whose identity is used"
    )]
    ForeignCluster {
        /// This cluster.
        expected: ClusterId,
        /// The cluster that the certificate names.
        found: ClusterId,
    },
    /// Too old.
    #[error("the certificate expired {} ago: renew it, or check both clocks", text_of(*.0))]
    Expired(Duration),
    /// From the future.
    #[error("the certificate becomes valid only in {}: check both clocks", text_of(*.0))]
    NotYetValid(Duration),
    /// No name, two names, or one that is none of ours.
    #[error("the certificate must carry exactly one name quarry://CLUSTER/ROLE/ID: {0}")]
    NoName(String),
    /// Somebody else of this cluster.
    #[error("{expected} was expected there, and the certificate is of {found}{}: check the number and the address", role_hint(.expected, .found))]
    OtherPeer {
        /// Who was dialled.
        expected: PeerName,
        /// Who answered.
        found: PeerName,
    },
    /// A certificate of this cluster's authority that may not be used like this.
    #[error("the certificate is none of a server or user of quarry")]
    Unusable,
}

fn role_hint(expected: &PeerName, found: &PeerName) -> String {
    match expected.role == found.role {
        true => String::new(),
        false => format!(" (wrong role: {} instead of {})", found.role, expected.role),
    }
}

/// A duration as a person says it: its largest unit.
pub(super) fn text_of(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// The BLAKE3 hash of a certificate's DER: what capabilities and revocations refer to.
pub fn hash_of(certificate: &CertificateDer<'_>) -> [u8; 32] {
    *blake3::hash(certificate).as_bytes()
}

/// The name in a certificate **whose signature was not checked**.
///
/// # Errors
/// `Unreadable`, `NoName`.
pub fn name_in(certificate: &CertificateDer<'_>) -> Result<PeerName, Refusal> {
    let certificate = EndEntityCert::try_from(certificate).map_err(|_| Refusal::Unreadable)?;
    let mut names = certificate.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => name
            .parse()
            .map_err(|error: crate::Error| Refusal::NoName(error.text)),
        (None, _) => Err(Refusal::NoName("it has none".to_owned())),
        (Some(_), Some(_)) => Err(Refusal::NoName("it has several".to_owned())),
    }
}

/// Checks a peer's certificate and returns the name in it.
///
/// `usage` is [`KeyUsage::server_auth`] for who was dialled and [`KeyUsage::client_auth`] for who
/// dials. Chains are one certificate long: the authority signs every peer itself.
///
/// # Errors
/// Every [`Refusal`] but `OtherPeer`, which is the dialler's to decide.
pub fn verify(
    anchor: &TrustAnchor<'_>,
    cluster: ClusterId,
    certificate: &CertificateDer<'_>,
    usage: KeyUsage,
    now: UnixTime,
) -> Result<PeerName, Refusal> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| Refusal::Unreadable)?;
    parsed
        .verify_for_usage(
            &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
            std::slice::from_ref(anchor),
            &[],
            now,
            usage,
            None,
            None,
        )
        .map_err(|error| refusal_of(error, cluster, certificate))?;
    let name = name_in(certificate)?;
    if name.cluster != cluster {
        return Err(Refusal::ForeignCluster {
            expected: cluster,
            found: name.cluster,
        });
    }
    Ok(name)
}

fn refusal_of(
    error: webpki::Error,
    cluster: ClusterId,
    certificate: &CertificateDer<'_>,
) -> Refusal {
    let between = |late: UnixTime, early: UnixTime| {
        Duration::from_secs(late.as_secs().saturating_sub(early.as_secs()))
    };
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            // An expired stranger is a stranger first: renewing would not help.
            match name_in(certificate) {
                Ok(name) if name.cluster != cluster => Refusal::ForeignCluster {
                    expected: cluster,
                    found: name.cluster,
                },
                _ => Refusal::Expired(between(time, not_after)),
            }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            Refusal::NotYetValid(between(not_before, time))
        }
        webpki::Error::UnknownIssuer
        | webpki::Error::InvalidSignatureForPublicKey
        | webpki::Error::CaUsedAsEndEntity => match name_in(certificate) {
            Ok(name) if name.cluster != cluster => Refusal::ForeignCluster {
                expected: cluster,
                found: name.cluster,
            },
            _ => Refusal::NotSigned(cluster),
        },
        _ => Refusal::Unusable,
    }
}
