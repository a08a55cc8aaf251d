//! Ids: UUIDv7 newtypes, one per noun, and the generator that makes them from values handed in.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    error::{Code, Refusal},
};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $noun:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = "uuid")]
        pub struct $name(pub Uuid);

        impl $name {
            /// The last twelve hex digits, all of them random: short enough for a socket's path, and for a person.
            pub fn short(&self) -> String {
                self.0.simple().to_string()[20..].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{}", $noun, self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = Refusal;
            fn from_str(text: &str) -> Result<Self, Refusal> {
                Uuid::parse_str(text).map($name).map_err(|_| {
                    Refusal::new(Code::ValidationError, concat!("this is not the id of a ", $noun))
                        .with("value", crate::error::excerpt(text))
                })
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                $name(uuid)
            }
        }
    )*};
}

ids! {
    /// A task.
    TaskId = "task";
    /// A virtual machine.
    VmId = "vm";
    /// A snapshot of a machine.
    SnapshotId = "snapshot";
    /// A host that runs machines.
    NodeId = "node";
    /// One enrolment of a node: a rejoin makes a new one, a renewed certificate keeps it.
    EnrolmentId = "enrolment";
    /// A tenant.
    TenantId = "tenant";
    /// Who asks: a person, a service account, a node, the system itself.
    PrincipalId = "principal";
    /// An import of an image.
    ImportId = "import";
    /// One HTTP request.
    RequestId = "request";
    /// A token by which a person or a program calls.
    TokenId = "token";
    /// A text that is kept apart from the task it belongs to.
    SecretId = "secret";
    /// Amounts held for a tenant by hand.
    ReservationId = "reservation";
}

impl TenantId {
    /// The tenant that every store has from the start.
    pub const DEFAULT: TenantId = TenantId(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0001));
}

impl PrincipalId {
    /// The control plane acting for itself (loops).
    pub const SYSTEM: PrincipalId = PrincipalId(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0002));
}

impl PrincipalId {
    /// Somebody whom an identity provider knows: the same each time, and a random number to everybody else (UUIDv8 of a
    /// sha256 of both, the issuer's length first).
    pub fn of_subject(issuer: &str, subject: &str) -> PrincipalId {
        let length = (issuer.len() as u64).to_be_bytes();
        let digest = Sha256::new().chain_update(length).chain_update(issuer).chain_update(subject).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = (bytes[6] & 0x0f) | 0x80;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        PrincipalId(Uuid::from_bytes(bytes))
    }
}

/// The digest that names an image: sha256 of its manifest's canonical form, in lower-case hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema, Debug)]
#[serde(transparent)]
pub struct ImageDigest(pub String);

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes ids and random numbers from a seed, so that a test can hold them still.
#[derive(Clone)]
pub struct Ids(Arc<Mutex<State>>);

struct State {
    rng: StdRng,
    last_ms: u64,
    counter: u16,
}

impl Ids {
    /// From the operating system's entropy.
    pub fn system() -> Self {
        Self::with(StdRng::from_os_rng())
    }

    /// From a seed: the same calls give the same ids.
    pub fn seeded(seed: u64) -> Self {
        Self::with(StdRng::seed_from_u64(seed))
    }

    fn with(rng: StdRng) -> Self {
        Ids(Arc::new(Mutex::new(State { rng, last_ms: 0, counter: 0 })))
    }

    /// A new UUIDv7. Ids made by one generator ascend, also within a millisecond (RFC 9562, method 1: a 12-bit
    /// counter in `rand_a`; when it is full the time is taken one millisecond ahead).
    pub fn next<T: From<Uuid>>(&self, now: Timestamp) -> T {
        let mut state = self.0.lock().expect("no panic while held");
        let ms = (now.as_micros() / 1000).max(0) as u64;
        if ms > state.last_ms {
            (state.last_ms, state.counter) = (ms, 0);
        } else if state.counter < 0xfff {
            state.counter += 1;
        } else {
            (state.last_ms, state.counter) = (state.last_ms + 1, 0);
        }
        let mut tail: [u8; 10] = state.rng.random();
        tail[..2].copy_from_slice(&state.counter.to_be_bytes());
        uuid::Builder::from_unix_timestamp_millis(state.last_ms, &tail).into_uuid().into()
    }

    /// The lowest id there is of this moment: ids that were made before it are below.
    pub fn lowest<T: From<Uuid>>(at: Timestamp) -> T {
        let ms = (at.as_micros() / 1000).max(0) as u64;
        uuid::Builder::from_unix_timestamp_millis(ms, &[0; 10]).into_uuid().into()
    }

    /// Random bytes, for secrets and jitter.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.0.lock().expect("no panic while held").rng.fill(&mut out[..]);
        out
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&self) -> f64 {
        self.0.lock().expect("no panic while held").rng.random()
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_id_of_a_moment_is_above_those_of_before_and_below_its_own() {
        let (ids, at) = (Ids::seeded(1), |ms: i64| Timestamp::from_micros(ms * 1000));
        let before: TaskId = ids.next(at(41));
        let lowest: TaskId = Ids::lowest(at(42));
        assert!(before < lowest && lowest < ids.next(at(42)));
    }

    #[test]
    fn ids_ascend_even_within_one_millisecond() {
        let ids = Ids::seeded(1);
        let made: Vec<TaskId> = (0..10_000).map(|_| ids.next(Timestamp::from_micros(1_000_000))).collect();
        assert!(made.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(made[0].0.get_version_num(), 7);
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let (a, b) = (Ids::seeded(7), Ids::seeded(7));
        let now = Timestamp::from_micros(5);
        assert_eq!(a.next::<TaskId>(now), b.next::<TaskId>(now));
    }
}
