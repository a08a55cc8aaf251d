//! Disks as qemu-img makes them are taken; the same disks with a malicious word in their header are not.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    process::Command,
};

use hostler_model::disk::{LARGEST, SourceFormat, Unfit, inspect};
use proptest::prelude::*;

/// A disk of 7 MiB with a little in it.
const SIZE: u64 = 7 << 20;

fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img is installed");
    assert!(output.status.success(), "{arguments:?} {}", String::from_utf8_lossy(&output.stderr));
}

struct Disks(tempfile::TempDir);

impl Disks {
    fn new() -> Disks {
        let disks = Disks(tempfile::tempdir().unwrap());
        let mut raw = vec![0u8; SIZE as usize];
        raw[1 << 20..2 << 20].fill(0x5a);
        fs::write(disks.path("raw"), raw).unwrap();
        disks
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The disk in another form, by qemu-img's format and options.
    fn convert(&self, to: &str, format: &str, options: &str) -> Vec<u8> {
        let mut arguments = vec!["convert", "-q", "-f", "raw", "-O", format];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        let (from, path) = (self.text("raw"), self.text(to));
        arguments.extend([from.as_str(), path.as_str()]);
        qemu_img(&arguments);
        fs::read(path).unwrap()
    }
}

fn judge(format: SourceFormat, bytes: &[u8]) -> Result<u64, String> {
    inspect(format, &mut Cursor::new(bytes)).map_err(|unfit| match unfit {
        Unfit::Refused(why) => why,
        Unfit::Read(error) => panic!("{error}"),
    })
}

fn of(path: &Path, format: SourceFormat) -> Result<u64, String> {
    judge(format, &fs::read(path).unwrap())
}

#[test]
fn what_qemu_img_makes_is_taken() {
    let disks = Disks::new();
    for (format, name, options) in [
        (SourceFormat::Qcow2, "qcow2", ""),
        (SourceFormat::Qcow2, "qcow2", "compat=0.10"),
        (SourceFormat::Qcow2, "qcow2", "cluster_size=512"),
        (SourceFormat::Qcow2, "qcow2", "cluster_size=2M,extended_l2=on"),
        (SourceFormat::Qcow2, "qcow2", "compression_type=zstd,lazy_refcounts=on"),
        (SourceFormat::Vmdk, "vmdk", ""),
        (SourceFormat::Vmdk, "vmdk", "subformat=streamOptimized"),
        (SourceFormat::Vhdx, "vhdx", ""),
        (SourceFormat::Vhdx, "vhdx", "subformat=fixed"),
    ] {
        let bytes = disks.convert("made", name, options);
        assert_eq!(judge(format, &bytes), Ok(SIZE), "{name} {options}");
        assert_eq!(SourceFormat::settle(None, &bytes).unwrap(), format);
    }
    assert_eq!(of(&disks.path("raw"), SourceFormat::Raw), Ok(SIZE));
}

/// A place in a qcow2 header, what is written there, and a word of the refusal.
type Word = (usize, &'static [u8], &'static str);

const QCOW2: [Word; 19] = [
    (0, b"QFJ", "no qcow2"),
    (4, &[0, 0, 0, 4], "no qcow2"),
    (8, &[0, 0, 0, 0, 0, 0, 2, 0], "backing file"),
    (16, &[0, 0, 0, 11], "backing file"),
    (20, &[0, 0, 0, 8], "clusters"),
    (20, &[0, 0, 0, 63], "clusters"),
    (24, &[0xff; 8], "would have"),
    (24, &[0; 8], "would have 0"),
    (32, &[0, 0, 0, 2], "encrypted"),
    (36, &[0xff; 4], "L1 table"),
    (36, &[0; 4], "L1 table"),
    (40, &[0, 0, 0x10, 0, 0, 0, 0, 0], "outside the file"),
    (48, &[0, 0, 0, 0, 0, 1, 0, 1], "where clusters do"),
    (56, &[0xff; 4], "refcount table"),
    (60, &[0, 0, 0, 1], "snapshots"),
    (72, &[0x80, 0, 0, 0, 0, 0, 0, 0], "not known"),
    (72, &[0, 0, 0, 0, 0, 0, 0, 4], "another file"),
    (72, &[0, 0, 0, 0, 0, 0, 0, 2], "corrupt"),
    (96, &[0, 0, 0, 7], "reference counts"),
];

#[test]
fn a_malicious_qcow2_is_refused_with_its_reason() {
    let disks = Disks::new();
    let good = disks.convert("good", "qcow2", "");
    for (at, word, reason) in QCOW2 {
        let mut bytes = good.clone();
        bytes[at..at + word.len()].copy_from_slice(word);
        let why = judge(SourceFormat::Qcow2, &bytes).unwrap_err();
        assert!(why.contains(reason), "{at}: {why}");
    }
    for (kind, reason) in [
        (0xe279_2acau32, "backing file"),
        (0x4441_5441, "external data file"),
        (0x0537_be77, "encrypted"),
        (0x2385_2875, "bitmaps"),
    ] {
        let mut bytes = good.clone();
        // Before what is there: the header of version 3 by QEMU has 112 bytes.
        bytes[112..116].copy_from_slice(&kind.to_be_bytes());
        let why = judge(SourceFormat::Qcow2, &bytes).unwrap_err();
        assert!(why.contains(reason), "{kind:x}: {why}");
    }
    let mut long = good.clone();
    long[116..120].copy_from_slice(&[0xff; 4]);
    assert!(judge(SourceFormat::Qcow2, &long).unwrap_err().contains("longer"));
    for length in [0, 4, 71, 103, 70_000] {
        assert!(judge(SourceFormat::Qcow2, &good[..length]).is_err(), "{length}");
    }
}

#[test]
fn what_qemu_img_makes_of_other_files_is_refused() {
    let disks = Disks::new();
    let good = disks.text("base");
    disks.convert("base", "qcow2", "");
    let made = |name: &str, arguments: &[&str]| {
        let path = disks.text(name);
        qemu_img(&[&["create", "-q"][..], arguments, &[path.as_str()]].concat());
        disks.path(name)
    };
    let backed = made("backed", &["-f", "qcow2", "-b", &good, "-F", "qcow2"]);
    assert!(of(&backed, SourceFormat::Qcow2).unwrap_err().contains("backing file"));
    let elsewhere = format!("data_file={}", disks.text("elsewhere"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &elsewhere, &disks.text("data"), "7M"]);
    assert!(of(&disks.path("data"), SourceFormat::Qcow2).unwrap_err().contains("another file"));
    qemu_img(&["snapshot", "-c", "one", &good]);
    assert!(of(&disks.path("base"), SourceFormat::Qcow2).unwrap_err().contains("snapshots"));
    // A chain that bites its tail.
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backed.to_str().unwrap(), backed.to_str().unwrap()]);
    assert!(of(&backed, SourceFormat::Qcow2).unwrap_err().contains("backing file"));
}

#[test]
fn a_vmdk_of_several_files_or_with_a_parent_is_refused() {
    let disks = Disks::new();
    for subformat in ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let bytes = disks.convert("parts.vmdk", "vmdk", &format!("subformat={subformat}"));
        assert!(judge(SourceFormat::Vmdk, &bytes).unwrap_err().contains("one file"), "{subformat}");
    }
    let good = disks.convert("good.vmdk", "vmdk", "");
    let changed = |from: &str, to: &str| {
        let at = good.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        judge(SourceFormat::Vmdk, &bytes).unwrap_err()
    };
    assert!(changed("createType=\"monolithicSparse\"", "parentFileNameHint=\"/etc/s\"").contains("parent"));
    assert!(changed("parentCID=ffffffff", "parentCID=12345678").contains("parent"));
    assert!(changed("createType=\"monolithicSparse\"", "createType=\"monolithicFlat\"  ").contains("other files"));
    assert!(changed(" SPARSE ", " FLAT   ").contains("other files"));
    for (at, word, reason) in [
        (12, &[0u8; 8][..], "sectors"),
        (12, &[0xff; 8], "sectors"),
        (20, &[3, 0, 0, 0, 0, 0, 0, 0], "grains"),
        (28, &[9, 0, 0, 0, 0, 0, 0, 0], "descriptor"),
        (4, &[9, 0, 0, 0], "version 9"),
        (56, &[0xff; 8], "no VMDK"),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + word.len()].copy_from_slice(word);
        let why = judge(SourceFormat::Vmdk, &bytes).unwrap_err();
        assert!(why.contains(reason), "{at}: {why}");
    }
}

#[test]
fn a_vmdk_whose_length_is_no_whole_number_of_sectors_is_refused_wherever_its_footer_would_be() {
    let disks = Disks::new();
    for subformat in ["monolithicSparse", "streamOptimized"] {
        let good = disks.convert("good.vmdk", "vmdk", &format!("subformat={subformat}"));
        assert_eq!(good.len() % 512, 0, "{subformat}: QEMU writes whole sectors");
        for more in [1, 511] {
            let longer = [&good[..], &vec![0; more]].concat();
            assert!(judge(SourceFormat::Vmdk, &longer).unwrap_err().contains("sectors"), "{subformat} +{more}");
            let shorter = &good[..good.len() - more];
            assert!(judge(SourceFormat::Vmdk, shorter).unwrap_err().contains("sectors"), "{subformat} -{more}");
        }
    }
}

#[test]
fn a_vhdx_with_a_parent_is_refused() {
    let disks = Disks::new();
    let good = disks.convert("good.vhdx", "vhdx", "");
    let parameters = [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b];
    let entry = good.windows(16).position(|window| window == parameters).unwrap();
    // The table begins a region that is aligned to 1 MiB, and the entry says where in it the item lies.
    let region = entry & !((1 << 20) - 1);
    let item = region + u32::from_le_bytes(good[entry + 16..entry + 20].try_into().unwrap()) as usize;
    let mut child = good.clone();
    child[item + 4] |= 2;
    assert!(judge(SourceFormat::Vhdx, &child).unwrap_err().contains("parent"));
    let mut located = good.clone();
    let locator = [0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c];
    located[entry..entry + 16].copy_from_slice(&locator);
    assert!(judge(SourceFormat::Vhdx, &located).unwrap_err().contains("parent"));
    for length in [8, 100, 200 << 10, 300 << 10] {
        assert!(judge(SourceFormat::Vhdx, &good[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_header_with_any_byte_changed_is_judged_without_a_panic() {
    let disks = Disks::new();
    let made = [
        (SourceFormat::Qcow2, disks.convert("m.qcow2", "qcow2", "")),
        (SourceFormat::Vmdk, disks.convert("m.vmdk", "vmdk", "subformat=streamOptimized")),
        (SourceFormat::Vhdx, disks.convert("m.vhdx", "vhdx", "")),
    ];
    let places = proptest::collection::vec((any::<u32>(), any::<u8>()), 1..12);
    proptest!(ProptestConfig::with_cases(300), |(places in places, cut in any::<u32>())| {
        for (format, good) in &made {
            // Most of what is looked at lies in the first half MiB, and for VHDX in its second and third MiB.
            let mut bytes = good[..good.len().min(3 << 20)].to_vec();
            for (at, byte) in &places {
                let reach = [512, 4096, bytes.len()][*at as usize % 3];
                bytes[*at as usize % reach] = *byte;
            }
            if cut % 4 == 0 {
                bytes.truncate(cut as usize % good.len());
            }
            if let Ok(size) = judge(*format, &bytes) {
                prop_assert!((1..=LARGEST).contains(&size));
            }
        }
    });
}
