//! A vendor's list of digests: `SHA256SUMS`, `SHA512SUMS`, `CHECKSUM`, `<file>.sha512`. Read strictly: a file that is
//! named with two digests has none.

use crate::{
    error::{Code, Refusal, excerpt},
    image::Sha256Hex,
};

/// The longest list that is read, in bytes: Fedora's are of 4 KiB, Debian's of 10.
pub const LIST_LIMIT: usize = 1 << 20;

/// A digest that a vendor gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// 64 hex digits.
    Sha256(Sha256Hex),
    /// 128 hex digits, in lower case.
    Sha512(String),
}

impl Checksum {
    fn parse(hex: &str) -> Option<Checksum> {
        let hex = hex.to_ascii_lowercase();
        match hex.len() {
            64 => hex.parse().ok().map(Checksum::Sha256),
            128 if hex.bytes().all(|b| b.is_ascii_hexdigit()) => Some(Checksum::Sha512(hex)),
            _ => None,
        }
    }
}

/// The digest of a file in a list.
///
/// # Errors
/// When the list does not name it, or names it twice with different digests.
pub fn find(list: &str, file: &str) -> Result<Checksum, Refusal> {
    let lines: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut found: Vec<Checksum> = lines.iter().filter_map(|line| entry(line, file)).collect();
    if let ([only], []) = (&lines[..], &found[..]) {
        found.extend(Checksum::parse(only));
    }
    found.dedup();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(unusable(file, "does not name it")),
        _ => Err(unusable(file, "gives it several digests")),
    }
}

fn unusable(file: &str, why: &str) -> Refusal {
    let file = excerpt(file);
    Refusal::new(Code::ImportFailed, format!("the vendor's list of digests {why}: {file}")).with("file", file)
}

/// `<hex>  name`, `<hex> *name`, or `SHA256 (name) = <hex>`.
fn entry(line: &str, file: &str) -> Option<Checksum> {
    let bare = |name: &str| name.trim_start_matches("./") == file;
    if let Some((algorithm, rest)) = line.split_once(" (") {
        let (name, hex) = rest.rsplit_once(") = ")?;
        let checksum = Checksum::parse(hex.trim())?;
        let fits = match checksum {
            Checksum::Sha256(_) => algorithm == "SHA256",
            Checksum::Sha512(_) => algorithm == "SHA512",
        };
        return (fits && bare(name)).then_some(checksum);
    }
    let (hex, name) = line.split_once(char::is_whitespace)?;
    let name = name.trim_start();
    bare(name.strip_prefix('*').unwrap_or(name)).then(|| Checksum::parse(hex)).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn lists_of_all_vendors_are_read() {
        let (a, long) = (Checksum::Sha256(A.parse().unwrap()), B.repeat(2));
        for list in [
            format!("{B}  other.img\n{A}  disk.img\n"),
            format!("{A} *disk.img\n"),
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.img: 5 bytes\nSHA256 (disk.img) = {A}\n"
            ),
            format!("{}  ./disk.img", A.to_ascii_uppercase()),
            format!("{A}\n"),
        ] {
            assert_eq!(find(&list, "disk.img").unwrap(), a, "{list}");
        }
        assert_eq!(find(&format!("{long}  disk.img"), "disk.img").unwrap(), Checksum::Sha512(long.clone()));
    }

    #[test]
    fn what_a_list_does_not_say_plainly_it_does_not_say() {
        for list in [
            String::new(),
            format!("{A}  disk.img.sig"),
            format!("{A}  disk.img\n{B}  disk.img"),
            format!("{}  disk.img", &A[1..]),
            format!("MD5 (disk.img) = {A}"),
            format!("SHA512 (disk.img) = {A}"),
            format!("{A}\n{B}"),
        ] {
            assert!(find(&list, "disk.img").is_err(), "{list}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(list in ".{0,200}", file in ".{0,20}") {
            let _ = find(&list, &file);
        }
    }
}
