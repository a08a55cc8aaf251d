//! Well-known cloud images: where their vendors keep them, and the vendors' lists of digests. A digest is not written
//! here: the list is fetched at import, over https from the same vendor, the bytes are compared with it, and the image is
//! pinned by what they were from then on. An operator may say others, or the same from a mirror, pinned to a digest too.

use serde::{Deserialize, Serialize};

use crate::{
    disk::SourceFormat,
    error::{Code, Refusal, excerpt},
    image::{Firmware, Sha256Hex, check_name},
    import::Expected,
    ready::Readiness,
};

/// An image that is published somewhere, as it travels, and as an operator writes it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct KnownImage {
    /// What to ask for.
    pub name: String,
    /// What it is.
    pub title: String,
    /// Where it is.
    pub url: String,
    /// Its vendor's list of digests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksums: Option<String>,
    /// What its bytes must be, where there is no list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Hex>,
    /// Other names that will stand for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Its format, where the first bytes do not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<SourceFormat>,
    /// What starts it; BIOS where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// When machines made of it are ready; `cloud_init` where nothing is said: it is in all of them, and its end is seen on
    /// the console too, while not every vendor puts the guest agent in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Readiness>,
}

impl KnownImage {
    /// What its bytes are compared with.
    pub fn expected(&self) -> Expected {
        match (&self.sha256, &self.checksums) {
            (Some(sha256), _) => Expected::Sha256(sha256.clone()),
            (None, Some(list)) => Expected::Listed(list.clone()),
            (None, None) => Expected::Recorded,
        }
    }

    fn is(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }

    /// Refuses an entry that names no image, or whose bytes would be compared with nothing.
    fn check(&self) -> Result<(), Refusal> {
        self.aliases.iter().chain([&self.name]).try_for_each(|name| check_name(name))?;
        self.ready.as_ref().map_or(Ok(()), Readiness::check)?;
        if self.expected() == Expected::Recorded {
            let detail = format!("{} needs a `sha256` or the address of a list of digests, `checksums`", self.name);
            return Err(Refusal::field("catalogue", detail));
        }
        Ok(())
    }
}

/// The well-known images of one server.
#[derive(Clone, PartialEq, Debug)]
pub struct Catalogue(Vec<KnownImage>);

/// Those that are built in.
impl Default for Catalogue {
    fn default() -> Self {
        Catalogue(CATALOGUE.iter().map(KnownImage::from).collect())
    }
}

impl Catalogue {
    /// All of them.
    pub fn images(&self) -> &[KnownImage] {
        &self.0
    }

    /// With others in front, which take the place of those that share a name with them.
    ///
    /// # Errors
    /// When one of them cannot be imported.
    pub fn with(self, others: Vec<KnownImage>) -> Result<Catalogue, Refusal> {
        others.iter().try_for_each(KnownImage::check)?;
        let replaced = |known: &KnownImage| others.iter().any(|other| known.is(&other.name) || other.is(&known.name));
        let kept: Vec<KnownImage> = self.0.into_iter().filter(|known| !replaced(known)).collect();
        Ok(Catalogue(others.iter().cloned().chain(kept).collect()))
    }

    /// The one of this name, or of one of its other names.
    ///
    /// # Errors
    /// When there is none; the refusal names those there are.
    pub fn find(&self, name: &str) -> Result<&KnownImage, Refusal> {
        self.0.iter().find(|known| known.is(name)).ok_or_else(|| {
            let known: Vec<&str> = self.0.iter().map(|known| known.name.as_str()).collect();
            let detail = format!("the catalogue has no {:?}; it has {}", excerpt(name), known.join(", "));
            Refusal::new(Code::ImageNotFound, detail).with("known", known)
        })
    }
}

impl From<&Known> for KnownImage {
    fn from(known: &Known) -> KnownImage {
        KnownImage {
            name: known.name.to_owned(),
            title: known.title.to_owned(),
            url: known.url.to_owned(),
            checksums: Some(known.checksums.to_owned()),
            aliases: known.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            format: Some(SourceFormat::Qcow2),
            ready: Some(Readiness::CloudInit),
            ..KnownImage::default()
        }
    }
}

/// An image that a vendor publishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// What to ask for.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// Where it is.
    pub url: &'static str,
    /// The vendor's list of digests.
    pub checksums: &'static str,
    /// Other names that will stand for it.
    pub aliases: &'static [&'static str],
}

/// Every one there is: qcow2 for x86_64, with cloud-init.
pub const CATALOGUE: &[Known] = &[
    Known {
        name: "debian-12",
        title: "Debian 12 (bookworm), generic cloud",
        url: "https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2",
        checksums: "https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS",
        aliases: &["debian-12-genericcloud-amd64"],
    },
    Known {
        name: "debian-13",
        title: "Debian 13 (trixie), generic cloud",
        url: "https://cloud.debian.org/images/cloud/trixie/latest/debian-13-genericcloud-amd64.qcow2",
        checksums: "https://cloud.debian.org/images/cloud/trixie/latest/SHA512SUMS",
        aliases: &["debian-13-genericcloud-amd64"],
    },
    Known {
        name: "ubuntu-22.04",
        title: "Ubuntu 22.04 LTS (jammy), server",
        url: "https://cloud-images.ubuntu.com/releases/jammy/release/ubuntu-22.04-server-cloudimg-amd64.img",
        checksums: "https://cloud-images.ubuntu.com/releases/jammy/release/SHA256SUMS",
        aliases: &["ubuntu-22.04-server-cloudimg-amd64"],
    },
    Known {
        name: "ubuntu-24.04",
        title: "Ubuntu 24.04 LTS (noble), server",
        url: "https://cloud-images.ubuntu.com/releases/noble/release/ubuntu-24.04-server-cloudimg-amd64.img",
        checksums: "https://cloud-images.ubuntu.com/releases/noble/release/SHA256SUMS",
        aliases: &["ubuntu-24.04-server-cloudimg-amd64"],
    },
    Known {
        name: "rocky-9",
        title: "Rocky Linux 9, generic cloud",
        url: "https://dl.rockylinux.org/pub/rocky/9/images/x86_64/Rocky-9-GenericCloud-Base.latest.x86_64.qcow2",
        checksums: "https://dl.rockylinux.org/pub/rocky/9/images/x86_64/CHECKSUM",
        aliases: &["Rocky-9-GenericCloud-Base.latest"],
    },
    Known {
        name: "rocky-10",
        title: "Rocky Linux 10, generic cloud",
        url: "https://dl.rockylinux.org/pub/rocky/10/images/x86_64/Rocky-10-GenericCloud-Base.latest.x86_64.qcow2",
        checksums: "https://dl.rockylinux.org/pub/rocky/10/images/x86_64/CHECKSUM",
        aliases: &["Rocky-10-GenericCloud-Base.latest"],
    },
    Known {
        name: "almalinux-9",
        title: "AlmaLinux 9, generic cloud",
        url: "https://repo.almalinux.org/almalinux/9/cloud/x86_64/images/AlmaLinux-9-GenericCloud-latest.x86_64.qcow2",
        checksums: "https://repo.almalinux.org/almalinux/9/cloud/x86_64/images/CHECKSUM",
        aliases: &["AlmaLinux-9-GenericCloud-latest"],
    },
    Known {
        name: "almalinux-10",
        title: "AlmaLinux 10, generic cloud",
        url: "https://repo.almalinux.org/almalinux/10/cloud/x86_64/images/AlmaLinux-10-GenericCloud-latest.x86_64.qcow2",
        checksums: "https://repo.almalinux.org/almalinux/10/cloud/x86_64/images/CHECKSUM",
        aliases: &["AlmaLinux-10-GenericCloud-latest"],
    },
    Known {
        name: "fedora-43",
        title: "Fedora 43, cloud base",
        url: "https://download.fedoraproject.org/pub/fedora/linux/releases/43/Cloud/x86_64/images/Fedora-Cloud-Base-Generic-43-1.6.x86_64.qcow2",
        checksums: "https://download.fedoraproject.org/pub/fedora/linux/releases/43/Cloud/x86_64/images/Fedora-Cloud-43-1.6-x86_64-CHECKSUM",
        aliases: &["Fedora-Cloud-Base-Generic-43"],
    },
    Known {
        name: "alpine-3.22",
        title: "Alpine Linux 3.22, with cloud-init",
        url: "https://dl-cdn.alpinelinux.org/alpine/v3.22/releases/cloud/nocloud_alpine-3.22.4-x86_64-bios-cloudinit-r0.qcow2",
        checksums: "https://dl-cdn.alpinelinux.org/alpine/v3.22/releases/cloud/nocloud_alpine-3.22.4-x86_64-bios-cloudinit-r0.qcow2.sha512",
        aliases: &["nocloud_alpine-3.22"],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_entry_has_names_of_its_own_and_comes_over_https_from_one_vendor() {
        let mut names = BTreeSet::new();
        for known in CATALOGUE {
            for name in known.aliases.iter().chain([&known.name]) {
                check_name(name).unwrap();
                assert!(names.insert(*name), "{name}");
                assert_eq!(Catalogue::default().find(name).unwrap(), &KnownImage::from(known));
            }
            let host = |url: &str| url.strip_prefix("https://").unwrap().split('/').next().unwrap().to_owned();
            assert_eq!(host(known.url), host(known.checksums));
        }
    }

    #[test]
    fn an_operators_entry_takes_the_place_of_a_built_in_one_and_must_be_pinned() {
        let mirror = KnownImage {
            name: "debian-12".into(),
            url: "https://mirror.example/debian-12.qcow2.xz".into(),
            sha256: Some(Sha256Hex::of(b"debian")),
            aliases: vec!["debian".into()],
            ..KnownImage::default()
        };
        let catalogue = Catalogue::default().with(vec![mirror.clone()]).unwrap();
        assert_eq!(catalogue.images().len(), CATALOGUE.len());
        assert_eq!(catalogue.find("debian").unwrap(), &mirror);
        assert_eq!(catalogue.find("debian-12").unwrap(), &mirror);
        assert!(catalogue.find("debian-12-genericcloud-amd64").is_err(), "it is gone with the one that it named");
        for bad in [
            KnownImage { sha256: None, ..mirror.clone() },
            KnownImage { name: "a b".into(), ..mirror.clone() },
            KnownImage { aliases: vec!["..".into()], ..mirror },
        ] {
            assert!(Catalogue::default().with(vec![bad.clone()]).is_err(), "{bad:?}");
        }
    }
}
