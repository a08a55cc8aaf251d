//! How often somebody may call: each token and each address has a bucket that refills. Who finds it empty is told when to
//! come again. Buckets are each server's own: behind several servers somebody may call as often as all of them allow.
//!
//! Callers on this machine have no bucket of their address: a proxy there would be all of its clients. IPv6 addresses
//! count by their network of 64 bits, which one client has to itself.

use std::{
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, clock::Clock as _};
use hostler_model::{Code, Refusal};

/// After so many calls buckets that are full again are forgotten.
const SWEEP: u32 = 4096;

/// How often each may call; 0 is without a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RateLimits {
    /// With one token, in a second.
    pub token_per_second: u32,
    /// From one address, in a second.
    pub address_per_second: u32,
    /// How many seconds' calls may come at once, after a while without any; at least one.
    pub burst_seconds: u32,
}

/// How many certificates may be asked for from one address, in a second, and how many seconds' of them at once: a rack behind
/// one address is in within seconds, and who guesses or renews without end costs little.
const CERTIFICATES: (u32, u32) = (20, 5);

/// The buckets.
pub(crate) struct Rates {
    tokens: Option<Buckets<String>>,
    addresses: Option<Buckets<IpAddr>>,
    certificates: Option<Buckets<IpAddr>>,
}

struct Buckets<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    asked: AtomicU32,
    per_second: u32,
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rates")
    }
}

impl Rates {
    pub(crate) fn new(limits: RateLimits) -> Rates {
        let RateLimits { token_per_second, address_per_second, burst_seconds } = limits;
        Rates {
            tokens: Buckets::new(token_per_second, burst_seconds),
            addresses: Buckets::new(address_per_second, burst_seconds),
            certificates: Buckets::new(CERTIFICATES.0, CERTIFICATES.1),
        }
    }

    /// One call with this credential.
    pub(crate) fn token(&self, credential: &str) -> Result<(), Refusal> {
        let Some(buckets) = &self.tokens else { return Ok(()) };
        buckets.take(&credential.to_owned()).map_err(|wait| too_often("with this token", buckets.per_second, wait))
    }

    /// One call from this address.
    pub(crate) fn address(&self, address: IpAddr) -> Result<(), Refusal> {
        take(self.addresses.as_ref(), address, "from this address")
    }

    /// One certificate that is asked for from this address.
    pub(crate) fn certificate(&self, address: IpAddr) -> Result<(), Refusal> {
        take(self.certificates.as_ref(), address, "for a certificate from this address")
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(per_second: u32, burst_seconds: u32) -> Option<Self> {
        let rate = NonZeroU32::new(per_second)?;
        let burst = rate.saturating_mul(NonZeroU32::new(burst_seconds).unwrap_or(NonZeroU32::MIN));
        let limiter = DefaultKeyedRateLimiter::keyed(Quota::per_second(rate).allow_burst(burst));
        Some(Buckets { limiter, asked: AtomicU32::new(0), per_second })
    }

    /// Takes from a bucket, or says when there will be something in it.
    fn take(&self, key: &K) -> Result<(), Duration> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(key).map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }
}

fn take(buckets: Option<&Buckets<IpAddr>>, address: IpAddr, how: &str) -> Result<(), Refusal> {
    let Some(buckets) = buckets.filter(|_| !address.to_canonical().is_loopback()) else { return Ok(()) };
    buckets.take(&client(address)).map_err(|wait| too_often(how, buckets.per_second, wait))
}

/// Whose bucket an address has.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

fn too_often(how: &str, per_second: u32, wait: Duration) -> Refusal {
    let seconds = wait.as_secs() + 1;
    let detail = format!("more than {per_second} calls a second came {how}; call again in {seconds} s");
    Refusal::new(Code::RateLimited, detail).with("retry_after_seconds", seconds).with("limit_per_second", per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        Rates::new(RateLimits { token_per_second: 1, address_per_second: 2, burst_seconds: 3 })
    }

    #[test]
    fn each_has_a_bucket_of_its_own() {
        let rates = rates();
        for _ in 0..3 {
            assert_eq!((rates.token("a"), rates.token("b")), (Ok(()), Ok(())));
        }
        let refused = rates.token("a").unwrap_err();
        assert_eq!((refused.code, &refused.facts["retry_after_seconds"]), (Code::RateLimited, &1.into()));
    }

    #[test]
    fn a_client_is_an_address_or_its_network() {
        let rates = rates();
        let from = |text: &str| rates.address(text.parse().unwrap()).is_ok();
        let all = |texts: [&str; 7]| texts.map(from);
        // Six may come at once, by whichever of its addresses.
        let of_one =
            ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::5", "2001:db8::6", "2001:db8::7"];
        assert_eq!(all(of_one), [true, true, true, true, true, true, false]);
        assert!(from("2001:db8:0:1::1"));
        let mapped = ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1"];
        assert_eq!(all(mapped), [true, true, true, true, true, true, false]);
        assert!(from("192.0.2.2"));
    }

    #[test]
    fn a_proxy_on_this_machine_is_not_one_client_and_nought_is_no_limit() {
        let rates = rates();
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!((0..100).all(|_| rates.address(address.parse().unwrap()).is_ok()), "{address}");
        }
        let none = Rates::new(RateLimits::default());
        assert!((0..1000).all(|_| none.certificate("127.0.0.1".parse().unwrap()).is_ok()));
        assert!((0..100).all(|_| none.token("a").is_ok() && none.address("192.0.2.1".parse().unwrap()).is_ok()));
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let rates = Rates::new(RateLimits { token_per_second: 1_000_000, address_per_second: 0, burst_seconds: 1 });
        for number in 0..SWEEP * 2 {
            assert!(rates.token(&number.to_string()).is_ok());
        }
        assert!(rates.tokens.unwrap().limiter.len() <= SWEEP as usize + 1);
    }
}
