//! What values of settings must be: addresses, metaservers, labels. Pure: whether somebody is there
//! is found out by dialling. Who has settings calls it when they are read. A refusal begins with the key.

use crate::error::{Code, Error, Result};
use crate::ids::ServerId;
use serde::{Deserialize, Deserializer, de};
use std::net::SocketAddr;

/// The longest name of a host, in bytes (RFC 1035).
const HOST_LEN_MAX: usize = 253;

/// Reads where a server listens, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// It is no `IP:PORT`; the text names the value.
pub fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| {
        de::Error::custom(format!(
            "'{}' is not where a server can listen: IP:PORT is wanted, as '[::]:7420' or '192.0.2.7:7420'",
            text.escape_debug()
        ))
    })
}

/// Checks an address that is dialled: `HOST:PORT`, HOST a name, an IPv4 address, or an IPv6 address
/// in brackets. `what` is whose it is, for the text.
///
/// # Errors
/// `Configuration`, with the address and the wanted form.
pub fn check_address(what: &str, text: &str) -> Result<()> {
    let refuse = |why: &str| {
        let shown = text.escape_debug();
        refuse(format!("{what} '{shown}' {why}"))
    };
    let can_be_dialled = match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            return refuse(
                "stands for every address of a machine and can not be dialled: give the one at which others reach it",
            );
        }
        Ok(address) => address.port() != 0,
        Err(_) => text
            .split_once(':')
            .is_some_and(|(host, port)| is_host(host) && is_port(port)),
    };
    match can_be_dialled {
        true => Ok(()),
        false => refuse(
            "can not be dialled: HOST:PORT is wanted, PORT from 1 to 65535, as 'store-1.example.org:7420' or '[2001:db8::7]:7420'",
        ),
    }
}

fn is_host(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=HOST_LEN_MAX).contains(&text.len()) && text.bytes().all(fits)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Checks the metaservers of a cluster: each has a number from 1 on that no other has, and an address
/// that can be dialled.
///
/// # Errors
/// `Configuration`, naming the metaserver.
pub fn check_metaservers<'a>(
    metaservers: impl IntoIterator<Item = (ServerId, &'a str)>,
) -> Result<()> {
    let mut seen = Vec::new();
    for (id, address) in metaservers {
        if id.0 == 0 {
            return refuse(format!(
                "metaservers: there is no metaserver 0 (at '{}'): they are numbered from 1, as in their certificates",
                address.escape_debug()
            ));
        }
        if seen.contains(&id) {
            return refuse(format!(
                "metaservers: metaserver {id} is named twice: each has one number and one address"
            ));
        }
        seen.push(id);
        check_address(
            &format!("metaservers: the address of metaserver {id}"),
            address,
        )?;
    }
    Ok(())
}

/// Checks the label of a failure domain, the value of `key`; white space and slashes would make two
/// labels look like one.
///
/// # Errors
/// `Configuration`, with the label.
pub fn check_label(key: &str, text: &str) -> Result<()> {
    let wrong = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '/';
    if text.is_empty() || text.contains(wrong) {
        return refuse(format!(
            "{key} = '{}' can not be a label: at least one letter, no white space and no '/', or leave '{key}' out",
            text.escape_debug()
        ));
    }
    Ok(())
}

fn refuse(text: String) -> Result<()> {
    Err(Error::new(Code::Configuration, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_can_be_dialled() {
        for good in [
            "store-1.example.org:7420",
            "m:1",
            "192.0.2.7:65535",
            "[::1]:7410",
            "a_b:7410",
        ] {
            assert_eq!(check_address("advertise", good), Ok(()), "{good}");
        }
        let long = format!("{}:1", "h".repeat(HOST_LEN_MAX + 1));
        for bad in [
            "",
            "junk",
            ":7420",
            "h:",
            "h:0",
            "h:65536",
            "h:+80",
            "h:x",
            "::1:7420",
            "[::1]",
            "127.0.0.1:0",
            "a b:1",
            "h/x:1",
            "h:1:2",
            "0.0.0.0:7410",
            "[::]:7410",
            "[x]:1",
            &long,
        ] {
            let text = check_address("advertise", bad).unwrap_err().text;
            assert!(text.starts_with(&format!("advertise '{bad}' ")), "{text}");
        }
    }

    #[test]
    fn where_to_listen_is_an_address_of_the_machine() {
        #[derive(Debug, Deserialize)]
        struct Sample {
            #[serde(deserialize_with = "listen")]
            listen: SocketAddr,
        }
        let read = |value: &str| toml::from_str::<Sample>(&format!("listen = {value}"));
        assert_eq!(read("'[::]:7420'").unwrap().listen.port(), 7420);
        let text = read("'junk'").unwrap_err().to_string();
        assert!(
            text.contains("'junk' is not where a server can listen: IP:PORT"),
            "{text}"
        );
        assert!(read("7420").is_err());
    }

    #[test]
    fn each_metaserver_has_a_number_and_an_address() {
        let check = |metaservers: &[(u32, &'static str)]| {
            let numbered = metaservers.iter().map(|(id, at)| (ServerId(*id), *at));
            check_metaservers(numbered).map_err(|error| error.text)
        };
        assert_eq!(check(&[(1, "m:1"), (2, "n:1")]), Ok(()));
        for (bad, said) in [
            (check(&[(0, "m:1")]), "no metaserver 0"),
            (
                check(&[(7, "m:1"), (7, "n:1")]),
                "metaserver 7 is named twice",
            ),
            (check(&[(3, "junk")]), "metaserver 3 'junk'"),
        ] {
            let text = bad.unwrap_err();
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn a_label_is_one_word() {
        assert_eq!(check_label("host", "store-1.example.org"), Ok(()));
        for bad in ["", " ", "a b", "a/b", "a\tb", "a\u{a0}b", "a\0"] {
            let text = check_label("rack", bad).unwrap_err().text;
            assert!(
                text.contains("rack = '") && text.contains("no '/'"),
                "{text}"
            );
        }
    }
}
