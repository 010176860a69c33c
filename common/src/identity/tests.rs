//! The authority, identities in files, and every refusal of the pure check.

use super::*;
use crate::error::{Code, Result};
use crate::ids::{ClusterId, ServerId};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const OURS: ClusterId = ClusterId([1; 16]);
const OTHERS: ClusterId = ClusterId([2; 16]);
const DAY: Duration = Duration::from_secs(86_400);

fn at(day: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000) + DAY * day as u32
}

fn check(us: &Identity, peer: &CertificateDer<'_>, now: SystemTime) -> Result<PeerName, Refusal> {
    verify(
        &us.anchor().unwrap(),
        us.name().cluster,
        peer,
        webpki::KeyUsage::client_auth(),
        UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap()),
    )
}

fn server_of(authority: &Authority, id: u32, now: SystemTime) -> Identity {
    let name = PeerName::metaserver(authority.cluster(), ServerId(id));
    authority.issue(&name, SERVER_VALID, now).unwrap()
}

#[test]
fn an_authority_and_its_identities_survive_their_files() {
    let authority = Authority::create(OURS, at(0)).unwrap();
    let read = Authority::from_pem(&authority.to_pem()).unwrap();
    assert_eq!(read.cluster(), OURS);
    // Signed before and after: both trust each other.
    let before = server_of(&authority, 1, at(0));
    let after = server_of(&read, 2, at(0));
    assert_eq!(
        &check(&before, after.certificate(), at(1)).unwrap(),
        after.name()
    );
    assert_eq!(
        &check(&after, before.certificate(), at(1)).unwrap(),
        before.name()
    );
    assert_eq!(before.expires_at().unwrap(), at(0) + SERVER_VALID);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.pem");
    before.save(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let loaded = Identity::load(&path).unwrap();
    assert_eq!(loaded.name(), before.name());
    assert_eq!(loaded.hash(), before.hash());
    assert_ne!(loaded.hash(), after.hash());
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_command() {
    let authority = Authority::create(OURS, at(0)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.pem");
    server_of(&authority, 1, at(0)).save(&path).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Identity::load(&path).unwrap_err();
        assert_eq!(error.code, Code::Configuration);
        assert!(
            error
                .text
                .contains(&format!("chmod 600 {}", path.display())),
            "{error}"
        );
    }
    let path = dir.path().join("authority.pem");
    fs::write(&path, authority.to_pem()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Authority::load(&path).err().unwrap();
    assert_eq!(error.code, Code::Configuration);
    let remedy = format!("(mode 0644): chmod 600 {}", path.display());
    assert!(error.text.contains(&remedy), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(Authority::load(&path).ok().unwrap().cluster(), OURS);

    let directory = dir.path().join("folder");
    fs::create_dir(&directory).unwrap();
    for error in [
        Identity::load(&directory).unwrap_err(),
        Authority::load(&directory).err().unwrap(),
    ] {
        for part in ["folder", "a directory", "a file is wanted"] {
            assert!(error.text.contains(part), "{error}");
        }
        assert!(!error.text.contains("chmod"), "{error}");
    }
    let error = Identity::load(&dir.path().join("none")).unwrap_err();
    assert!(
        error.text.contains("none") && error.text.contains("issued"),
        "{error}"
    );
}

#[test]
fn a_certificate_that_all_would_refuse_is_known_before_anybody_is_dialled() {
    let identity = server_of(&Authority::create(OURS, at(0)).unwrap(), 1, at(10));
    // The clock of who asks may be behind that of the authority.
    for day in [5, 10, 99] {
        assert_eq!(identity.check_valid(at(day)), Ok(()), "day {day}");
    }
    let error = identity.check_valid(at(103)).unwrap_err();
    assert_eq!(error.code, Code::Configuration);
    for part in ["metaserver/1", "expired 3 days ago", "issued", "clock"] {
        assert!(error.text.contains(part), "{error}");
    }
}

#[test]
fn identity_files_that_were_cut_or_mixed_are_refused() {
    let authority = Authority::create(OURS, at(0)).unwrap();
    let (one, two) = (
        server_of(&authority, 1, at(0)),
        server_of(&authority, 2, at(0)),
    );
    let pem = one.to_pem();
    for len in (0..pem.len()).step_by(97) {
        assert!(Identity::from_pem(&pem[..len]).is_err(), "cut to {len}");
    }
    let key_at = pem.find("-----BEGIN PRIVATE KEY").unwrap();
    let key_of_two = two.to_pem().find("-----BEGIN PRIVATE KEY").unwrap();
    let mixed = format!("{}{}", &pem[..key_at], &two.to_pem()[key_of_two..]);
    let error = Identity::from_pem(&mixed).unwrap_err();
    assert!(error.text.contains("do not belong together"), "{error}");

    let other = Authority::create(OURS, at(0)).unwrap().to_pem();
    let ours = authority.to_pem();
    let (key_at, other_at) = (
        ours.find("-----BEGIN PRIVATE KEY").unwrap(),
        other.find("-----BEGIN PRIVATE KEY").unwrap(),
    );
    let mixed = format!("{}{}", &ours[..key_at], &other[other_at..]);
    let error = Authority::from_pem(&mixed).err().unwrap();
    assert!(error.text.contains("differ"), "{error}");
    assert!(
        Authority::from_pem(pem).is_err(),
        "an identity is no authority"
    );
}

#[test]
fn every_wrong_certificate_is_refused_for_its_own_reason() {
    let ours = Authority::create(OURS, at(0)).unwrap();
    let us = server_of(&ours, 1, at(0));
    let peer = server_of(&ours, 2, at(100));
    let (early, late) = (at(99), at(100) + SERVER_VALID + DAY * 2);
    assert!(
        check(&us, peer.certificate(), at(100)).is_ok(),
        "clocks differ a little"
    );
    assert_eq!(
        check(&us, peer.certificate(), early).unwrap_err(),
        Refusal::NotYetValid(DAY - Duration::from_secs(600))
    );
    let expired = check(&us, peer.certificate(), late).unwrap_err();
    assert_eq!(expired, Refusal::Expired(DAY * 2));
    assert!(expired.to_string().contains("2 days ago"), "{expired}");

    let theirs = server_of(&Authority::create(OTHERS, at(0)).unwrap(), 2, at(0));
    let foreign = Refusal::ForeignCluster {
        expected: OURS,
        found: OTHERS,
    };
    assert_eq!(
        check(&us, theirs.certificate(), at(1)).unwrap_err(),
        foreign
    );
    // Another authority that says it is ours.
    let forged = server_of(&Authority::create(OURS, at(0)).unwrap(), 2, at(0));
    assert_eq!(
        check(&us, forged.certificate(), at(1)).unwrap_err(),
        Refusal::NotSigned(OURS)
    );
    // The authority itself is nobody's peer.
    assert!(check(&us, us.authority(), at(1)).is_err());
    let garbage = CertificateDer::from(vec![0x30, 3, 1, 1, 1]);
    assert!(matches!(
        check(&us, &garbage, at(1)).unwrap_err(),
        Refusal::Unreadable
    ));
}

#[test]
fn certificates_with_flipped_bits_are_refused() {
    let ours = Authority::create(OURS, at(0)).unwrap();
    let us = server_of(&ours, 1, at(0));
    let der = us.certificate().to_vec();
    for at_byte in 0..der.len() {
        let mut flipped = der.clone();
        flipped[at_byte] ^= 1;
        assert!(
            check(&us, &CertificateDer::from(flipped), at(1)).is_err(),
            "byte {at_byte}"
        );
    }
}

#[test]
fn an_authority_signs_for_its_own_cluster_only() {
    let ours = Authority::create(OURS, at(0)).unwrap();
    let name = PeerName::metaserver(OTHERS, ServerId(1));
    assert!(ours.issue(&name, SERVER_VALID, at(0)).is_err());
    let name = PeerName::metaserver(OURS, ServerId(1));
    assert!(ours.issue(&name, Duration::MAX, at(0)).is_err());
}
