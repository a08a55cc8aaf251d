//! Headers that nobody wrote, and what they are refused for.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

const FORMATS: [SourceFormat; 7] = [
    SourceFormat::Raw,
    SourceFormat::Qcow2,
    SourceFormat::Vmdk,
    SourceFormat::Vhdx,
    SourceFormat::RawGz,
    SourceFormat::RawXz,
    SourceFormat::RawZst,
];

/// How a file of this format begins.
fn magic(format: SourceFormat) -> &'static [u8] {
    match format {
        SourceFormat::Raw => b"",
        SourceFormat::Qcow2 => b"QFI\xfb\0\0\0\x03",
        SourceFormat::Vmdk => b"KDMV\x01\0\0\0",
        SourceFormat::Vhdx => b"vhdxfile",
        SourceFormat::RawGz => &[0x1f, 0x8b, 8],
        SourceFormat::RawXz => b"\xfd7zXZ\0",
        SourceFormat::RawZst => &[0x28, 0xb5, 0x2f, 0xfd],
    }
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_judged_without_a_panic(
        which in 0usize..7,
        mut bytes in proptest::collection::vec(any::<u8>(), 0..2048),
    ) {
        let begin = magic(FORMATS[which]);
        let marked = begin.len().min(bytes.len());
        bytes[..marked].copy_from_slice(&begin[..marked]);
        for format in FORMATS {
            if let Ok(size) = inspect(format, &mut Cursor::new(&bytes)) {
                prop_assert!((1..=LARGEST).contains(&size));
            }
        }
    }

    #[test]
    fn a_format_is_taken_only_where_the_first_bytes_agree(head in proptest::collection::vec(any::<u8>(), 0..12)) {
        for said in FORMATS {
            if let Ok(settled) = SourceFormat::settle(Some(said), &head) {
                let found = SourceFormat::detect(&head).unwrap_or(SourceFormat::Raw);
                prop_assert_eq!(settled, found);
                prop_assert!(found == said || (found.packing().is_some() && said.packing().is_none()));
            }
        }
    }
}

#[test]
fn what_nobody_names_is_not_taken_for_raw() {
    assert_eq!(SourceFormat::settle(Some(SourceFormat::Raw), b"\0\0\0\0\0\0\0\0").unwrap(), SourceFormat::Raw);
    assert!(SourceFormat::settle(None, b"\0\0\0\0\0\0\0\0").is_err());
    assert!(SourceFormat::settle(Some(SourceFormat::Raw), magic(SourceFormat::Qcow2)).is_err());
    assert!(SourceFormat::settle(Some(SourceFormat::Qcow2), magic(SourceFormat::Vmdk)).is_err());
    assert_eq!(SourceFormat::settle(None, magic(SourceFormat::Qcow2)).unwrap(), SourceFormat::Qcow2);
}

#[test]
fn what_was_packed_is_what_was_said_or_what_it_looks_like() {
    let qcow2 = magic(SourceFormat::Qcow2);
    for packed in [SourceFormat::RawGz, SourceFormat::RawXz, SourceFormat::RawZst] {
        let packing = packed.packing().unwrap();
        for said in [None, Some(SourceFormat::Qcow2)] {
            assert_eq!(SourceFormat::settle(said, magic(packed)).unwrap(), packed);
            assert_eq!(packing.inside(said, qcow2).unwrap(), SourceFormat::Qcow2);
        }
        for said in [None, Some(SourceFormat::Raw), Some(packed)] {
            assert_eq!(packing.inside(said, &[0; 8]).unwrap(), SourceFormat::Raw);
        }
        assert!(packing.inside(Some(packed), qcow2).is_err(), "raw was said");
        assert!(packing.inside(Some(SourceFormat::Vmdk), qcow2).is_err());
        assert!(packing.inside(None, magic(packed)).unwrap_err().detail.contains("once more"));
        assert!(SourceFormat::settle(Some(packed), qcow2).is_err());
    }
}
