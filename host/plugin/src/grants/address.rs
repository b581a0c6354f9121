//! Which addresses are everybody's, and which are only near: of the machine, of its network, of its cloud.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

/// Networks that an operator lets an agent reach although they are not public.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivateNetworks(Vec<IpNet>);

impl PrivateNetworks {
    /// Whether an address may be reached: it is public, or in one of the networks.
    pub(crate) fn allow(&self, address: IpAddr) -> bool {
        is_public(address) || self.contain(address)
    }

    /// Whether an address is in one of the networks.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let meant = match address {
            IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        self.0.iter().any(|network| network.contains(&meant))
    }
}

impl<'de> Deserialize<'de> for PrivateNetworks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "write true, false, or a list of networks such as [\"10.1.0.0/16\", \"127.0.0.1\"]"
        )]
        enum Written {
            All(bool),
            These(Vec<String>),
        }
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let networks = match Written::deserialize(deserializer)? {
            Written::All(false) => Vec::new(),
            Written::All(true) => all.iter().filter_map(|all| IpNet::new(*all, 0).ok()).collect(),
            Written::These(networks) => {
                networks.iter().map(|text| network(text)).collect::<Result<_, _>>().map_err(de::Error::custom)?
            }
        };
        Ok(Self(networks))
    }
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse()).map_err(|_| format!("\"{text}\" is not a network; write `10.1.0.0/16` or `10.1.2.3`"))
}

/// Where Azure answers its machines, with their secrets: it looks public, and is not reached from elsewhere.
const AZURE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Whether an address is reached over the public Internet. Private networks, this machine, link-local addresses (and
/// with them the metadata of clouds), carrier-grade NAT, multicast and everything reserved are not. An IPv6 address
/// that stands for an IPv4 address is what that one is.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address != AZURE
        && !matches!(
            (a, b, c),
            (0 | 10 | 127, ..)
                | (100, 64..=127, _)
                | (169, 254, _)
                | (172, 16..=31, _)
                | (192, 0, 0 | 2)
                | (192, 88, 99)
                | (192, 168, _)
                | (198, 18 | 19, _)
                | (198, 51, 100)
                | (203, 0, 113)
                | (224.., ..)
        )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Protocol assignments (Teredo and others), documentation.
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        // Only this eighth is given out for public use.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, translated (NAT64), or 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_not_public() {
        for near in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456:789a::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(near.parse().unwrap()), "{near}");
        }
    }

    #[test]
    fn networks_are_reached_that_are_named() {
        fn private(json: &str) -> PrivateNetworks {
            serde_json::from_str(json).unwrap()
        }
        for (networks, address, expected) in [
            ("false", "127.0.0.1", false),
            ("false", "1.1.1.1", true),
            ("true", "169.254.169.254", true),
            ("true", "::1", true),
            ("[\"10.1.0.0/16\"]", "10.1.255.1", true),
            ("[\"10.1.0.0/16\"]", "10.2.0.1", false),
            ("[\"10.1.0.0/16\"]", "::ffff:10.1.0.1", true),
            ("[\"10.1.0.0/16\"]", "::1", false),
            ("[\"fd00::/8\", \"127.0.0.1\"]", "fd00::1", true),
            ("[\"fd00::/8\", \"127.0.0.1\"]", "127.0.0.1", true),
            ("[\"fd00::/8\", \"127.0.0.1\"]", "127.0.0.2", false),
            ("[]", "1.1.1.1", true),
        ] {
            assert_eq!(private(networks).allow(address.parse().unwrap()), expected, "{networks} {address}");
        }
        for wrong in ["[\"10.1\"]", "[\"10.1.0.0/33\"]", "\"yes\"", "1"] {
            assert!(serde_json::from_str::<PrivateNetworks>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_far_is_public() {
        for far in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "168.63.129.17",
            "172.15.0.1",
            "172.32.0.1",
            "192.1.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(is_public(far.parse().unwrap()), "{far}");
        }
    }
}
