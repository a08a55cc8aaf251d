//! Well-known cloud images: where their vendors keep them, and the vendors' lists of digests. A digest is not written
//! here: the list is fetched at import, over https from the same vendor, the bytes are compared with it, and the image is
//! pinned by what they were from then on.

use serde::{Deserialize, Serialize};

use crate::error::{Code, Refusal, excerpt};

/// An image that a vendor publishes, as it travels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KnownImage {
    /// What to ask for.
    pub name: String,
    /// What it is.
    pub title: String,
    /// Where it is.
    pub url: String,
    /// The vendor's list of digests.
    pub checksums: String,
    /// Other names that will stand for it.
    pub aliases: Vec<String>,
}

impl From<&Known> for KnownImage {
    fn from(known: &Known) -> KnownImage {
        KnownImage {
            name: known.name.to_owned(),
            title: known.title.to_owned(),
            url: known.url.to_owned(),
            checksums: known.checksums.to_owned(),
            aliases: known.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
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

/// The one of this name, or of one of its other names.
///
/// # Errors
/// When there is none; the refusal names those there are.
pub fn find(name: &str) -> Result<&'static Known, Refusal> {
    let is = |known: &&Known| known.name == name || known.aliases.contains(&name);
    CATALOGUE.iter().find(is).ok_or_else(|| {
        let known: Vec<&str> = CATALOGUE.iter().map(|known| known.name).collect();
        let detail = format!("the catalogue has no {:?}; it has {}", excerpt(name), known.join(", "));
        Refusal::new(Code::ImageNotFound, detail).with("known", known)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::image::check_name;

    #[test]
    fn every_entry_has_names_of_its_own_and_comes_over_https_from_one_vendor() {
        let mut names = BTreeSet::new();
        for known in CATALOGUE {
            for name in known.aliases.iter().chain([&known.name]) {
                check_name(name).unwrap();
                assert!(names.insert(*name), "{name}");
                assert_eq!(find(name).unwrap(), known);
            }
            let host = |url: &str| url.strip_prefix("https://").unwrap().split('/').next().unwrap().to_owned();
            assert_eq!(host(known.url), host(known.checksums));
        }
    }
}
