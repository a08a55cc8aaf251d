//! What machines, and tenants, get that do not say it themselves: the operator's word, where he has one, and else their image's.
//!
//! ```text
//! the request  >  the operator  >  the image
//! ```

use crate::{
    error::Refusal,
    image::ImageDefaults,
    kind::within,
    tenant::{Limits, UNLIMITED},
};

/// The image that they are made of where the operator says nothing.
pub const IMAGE: &str = "tiny";

/// The operator's word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Defaults {
    /// The image, by name or digest.
    pub image: String,
    /// Virtual processors.
    pub vcpus: Option<i64>,
    /// Memory, in MiB.
    pub memory_mib: Option<i64>,
    /// Disk, in GiB.
    pub disk_gib: Option<i64>,
    /// How much a new tenant may have where nothing is said.
    pub limits: Limits,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults { image: IMAGE.to_owned(), vcpus: None, memory_mib: None, disk_gib: None, limits: UNLIMITED }
    }
}

impl Defaults {
    /// Refuses what no machine could be.
    pub fn check(&self) -> Result<(), Refusal> {
        let within = |field: &str, amount: Option<i64>, least, most| {
            amount.map(|amount| within(field, amount, least, most)).transpose().map(drop)
        };
        within("default_vcpus", self.vcpus, 1, 256)?;
        within("default_memory_mib", self.memory_mib, 64, 16 << 20)?;
        within("default_disk_gib", self.disk_gib, 1, 65_536)
    }

    /// Amounts for a machine of an image that says these. A disk is never smaller than the image has it: it may need
    /// that much.
    pub fn amounts(&self, image: ImageDefaults) -> ImageDefaults {
        ImageDefaults {
            vcpus: self.vcpus.unwrap_or(image.vcpus),
            memory_mib: self.memory_mib.unwrap_or(image.memory_mib),
            disk_gib: self.disk_gib.map_or(image.disk_gib, |disk| disk.max(image.disk_gib)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_word_goes_before_the_images_but_for_a_disk_that_is_too_small() {
        let image = ImageDefaults { vcpus: 1, memory_mib: 128, disk_gib: 4 };
        assert_eq!(Defaults::default().amounts(image), image);
        let some = Defaults { vcpus: Some(2), disk_gib: Some(20), ..Defaults::default() };
        assert_eq!(some.amounts(image), ImageDefaults { vcpus: 2, memory_mib: 128, disk_gib: 20 });
        let small = Defaults { disk_gib: Some(1), ..Defaults::default() };
        assert_eq!(small.amounts(image).disk_gib, 4);
    }

    #[test]
    fn what_no_machine_could_be_is_refused() {
        assert!(Defaults::default().check().is_ok());
        let absurd = Defaults { vcpus: Some(257), ..Defaults::default() };
        assert_eq!(absurd.check().unwrap_err().facts["field"], "default_vcpus");
        assert!(Defaults { memory_mib: Some(8), ..Defaults::default() }.check().is_err());
    }
}
