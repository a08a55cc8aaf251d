//! Amounts: what a machine takes and a node has, and the sizes people write.

use serde::{Deserialize, Serialize};

use crate::error::{Code, Refusal, excerpt};

/// What one thing takes, or one node has. The unit is in the name.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Resources {
    /// Virtual processors.
    pub vcpus: i64,
    /// Memory, in MiB.
    pub memory_mib: i64,
    /// Disk, in GiB.
    pub disk_gib: i64,
    /// Machines.
    pub vms: i64,
}

impl Resources {
    /// Nothing.
    pub const ZERO: Resources = Resources { vcpus: 0, memory_mib: 0, disk_gib: 0, vms: 0 };

    /// Whether this is nothing at all.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// Each amount by its name, for refusals and tables.
    pub fn each(&self) -> [(&'static str, i64); 4] {
        [("vcpus", self.vcpus), ("memory_mib", self.memory_mib), ("disk_gib", self.disk_gib), ("vms", self.vms)]
    }

    fn zip(self, other: Resources, f: impl Fn(i64, i64) -> i64) -> Resources {
        Resources {
            vcpus: f(self.vcpus, other.vcpus),
            memory_mib: f(self.memory_mib, other.memory_mib),
            disk_gib: f(self.disk_gib, other.disk_gib),
            vms: f(self.vms, other.vms),
        }
    }
}

impl std::ops::Add for Resources {
    type Output = Resources;
    fn add(self, other: Resources) -> Resources {
        self.zip(other, i64::saturating_add)
    }
}

impl std::ops::Sub for Resources {
    type Output = Resources;
    fn sub(self, other: Resources) -> Resources {
        self.zip(other, i64::saturating_sub)
    }
}

impl std::ops::AddAssign for Resources {
    fn add_assign(&mut self, other: Resources) {
        *self = *self + other;
    }
}

impl std::ops::SubAssign for Resources {
    fn sub_assign(&mut self, other: Resources) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Resources {
    fn sum<I: Iterator<Item = Resources>>(iter: I) -> Resources {
        iter.fold(Resources::ZERO, |a, b| a + b)
    }
}

/// Reads `2GB`, `2G`, `2GiB`, `512M`, `2T` or a bare number of MiB, as MiB. All the G forms mean 2^30 bytes: that is
/// what the compatible systems mean by them.
pub fn parse_mib(text: &str) -> Result<i64, Refusal> {
    let refuse = || {
        Refusal::new(
            Code::ValidationError,
            "this is not an amount: write a number with M, G or T, such as 512M or 2GiB",
        )
        .with("value", excerpt(text))
    };
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: i64 = text[..digits].parse().map_err(|_| refuse())?;
    let factor = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1024,
        "t" | "tb" | "tib" => 1024 * 1024,
        _ => return Err(refuse()),
    };
    number.checked_mul(factor).ok_or_else(refuse)
}

/// Reads an amount as [`parse_mib`] does, in GiB; refuses what is not a whole number of them. A bare number is GiB.
pub fn parse_gib(text: &str) -> Result<i64, Refusal> {
    if let Ok(bare) = text.trim().parse::<i64>() {
        return Ok(bare);
    }
    let mib = parse_mib(text)?;
    if mib % 1024 != 0 {
        return Err(Refusal::new(Code::ValidationError, "a disk is a whole number of GiB").with("value", excerpt(text)));
    }
    Ok(mib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_two_gibibytes_is_the_same() {
        for text in ["2GB", "2G", "2GiB", "2g", "2 GiB", "2048", "2048M", "2048MiB"] {
            assert_eq!(parse_mib(text).unwrap(), 2048, "{text}");
        }
        assert_eq!(parse_gib("10").unwrap(), 10);
        assert_eq!(parse_gib("10GB").unwrap(), 10);
        assert_eq!(parse_gib("1T").unwrap(), 1024);
    }

    #[test]
    fn what_is_not_an_amount_is_refused() {
        for text in ["", "G", "-1", "2X", "1.5G", "99999999999999999999", "9223372036854775807T"] {
            assert!(parse_mib(text).is_err(), "{text}");
        }
        assert!(parse_gib("1500M").is_err());
    }
}
