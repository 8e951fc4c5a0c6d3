//! Which file systems can hold a SQLite store (specification, section 5.1).

use super::StoreError;
use std::{io, path::Path};

/// Tells the `f_type` of the file system that holds a folder; replaced in tests.
pub type FileSystemProbe = fn(&Path) -> io::Result<i64>;

/// Magic numbers of `statfs(2)` of file systems without the shared memory and locks that
/// write-ahead logging needs. FUSE is among them because one cannot tell `sshfs` from a local mount.
const NETWORK: &[(u32, &str)] = &[
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x6573_5546, "FUSE"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x7375_7245, "Coda"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0xaad7_aaea, "PanFS"),
    (0x0000_564c, "NCP"),
    (0x2003_0528, "OrangeFS"),
];

/// Name of the network file system with this `f_type`; `None` for any other.
pub fn filesystem_kind(f_type: i64) -> Option<&'static str> {
    // The kernel's field is signed on some machines, so only the low 32 bits are compared.
    let magic = f_type as u32;
    NETWORK.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

/// `f_type` of the file system that holds `folder`.
#[cfg(target_os = "linux")]
pub(super) fn probe(folder: &Path) -> io::Result<i64> {
    Ok(nix::sys::statfs::statfs(folder)?.filesystem_type().0)
}

/// Only Linux tells the type as a number; elsewhere nothing is refused.
#[cfg(not(target_os = "linux"))]
pub(super) fn probe(_folder: &Path) -> io::Result<i64> {
    Ok(0)
}

/// Refuses a folder on a network file system.
pub(super) fn check(folder: &Path, probe: FileSystemProbe) -> Result<(), StoreError> {
    let f_type = probe(folder).map_err(|error| StoreError::File {
        path: folder.display().to_string(),
        message: format!("cannot tell the file system: {error}"),
    })?;
    match filesystem_kind(f_type) {
        None => Ok(()),
        Some(kind) => Err(StoreError::FileSystem {
            path: folder.display().to_string(),
            kind: kind.to_owned(),
            remedy: "keep it on a local disk, let each machine fill its own store and `exp merge` \
                     them (a program of your own can also keep it in PostgreSQL, feature \
                     `postgres` of the library)"
                .to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_refused_and_local_ones_are_not() {
        let folder = Path::new("/somewhere");
        for (magic, name) in NETWORK {
            let kind = filesystem_kind(i64::from(*magic)).unwrap();
            assert_eq!(kind, *name);
        }
        // Sign extension, as on 32-bit machines.
        assert_eq!(filesystem_kind(i64::from(0xff53_4d42_u32 as i32)), Some("CIFS"));
        for local in [0xef53, 0x0102_1994, 0x9123_683e, 0x5846_5342, 0x2fc1_2fc1, 0x794c_7630] {
            assert_eq!(filesystem_kind(local), None);
        }
        let error = check(folder, |_| Ok(0x6969)).unwrap_err().to_string();
        assert!(error.contains("NFS") && error.contains("postgres"), "{error}");
        assert!(check(folder, |_| Ok(0xef53)).is_ok());
        assert!(check(folder, |_| Err(io::Error::other("no"))).is_err());
    }
}
